//! Products from packed codes, held to a product in `f64` of the dequantized weights.

mod common;

use wgpu::util::DeviceExt as _;
use wgquant::gpu::{BufferAt, Product, Shape};
use wgquant::{Dtype, Format, Gpu, Packed, dequantize_f32, quantize};

/// A product to try.
#[derive(Debug, Clone, Copy)]
struct Case {
    format: Format,
    n_rows: u32,
    n_cols: u32,
    n_vectors: u32,
    activations: Dtype,
    bias: bool,
    /// Words before x, bias and y in their buffers.
    words_before: u64,
}

/// Numbers in about -1 to 1, the same in every run; of 16 bits, so that they are `f16` and products of a few are exact.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            half::f16::from_f32(
                f32::from(i16::from_ne_bytes((state >> 16).to_ne_bytes()[..2].try_into().expect("two"))) / 32768.0,
            )
            .to_f32()
        })
        .collect()
}

/// Activations as a buffer has them, behind some words that are not theirs.
fn buffer_of(gpu: &Gpu, values: &[f32], dtype: Dtype, words_before: u64) -> BufferAt {
    let mut bytes = vec![0x7f; usize::try_from(words_before * 4).expect("small")];
    for &value in values {
        match dtype {
            Dtype::F32 => bytes.extend(value.to_le_bytes()),
            _ => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
        }
    }
    bytes.resize(bytes.len().next_multiple_of(4), 0x7f);
    let buffer = gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: &bytes,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
    });
    BufferAt::new(&buffer, words_before * 4)
}

/// The largest error as a part of the documented bound, with the packed weights that the device is given.
fn error_of(gpu: &Gpu, case: Case, reference: &Packed, packed: &Packed) -> f64 {
    pollster::block_on(async {
        let [rows, cols, vectors] = [case.n_rows, case.n_cols, case.n_vectors].map(|n| n as usize);
        let x = numbers(vectors * cols, 7);
        let bias = numbers(rows, 11);
        let [x_at, bias_at] = [&x, &bias].map(|values| buffer_of(gpu, values, case.activations, case.words_before));
        let y_at = buffer_of(gpu, &vec![f32::NAN; vectors * rows + 3], case.activations, case.words_before);
        let weights = gpu.upload(packed).await.expect("valid");
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let product = Product {
            weights: &weights,
            n_rows: case.n_rows,
            n_cols: case.n_cols,
            x: x_at,
            n_vectors: case.n_vectors,
            activations: case.activations,
            bias: case.bias.then_some(bias_at),
            y: y_at.clone(),
        };
        gpu.record_product(&mut encoder, &product).await.unwrap_or_else(|error| panic!("{case:?}: {error}"));
        gpu.queue().submit([encoder.finish()]);
        let bytes = gpu.read_buffer(&y_at.buffer).await.expect("readable");
        let (before, bytes) = bytes.split_at(usize::try_from(case.words_before * 4).expect("small"));
        assert!(before.iter().all(|&b| b == 0x7f), "{case:?}: something before y was written");
        let y: Vec<f32> = match case.activations {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect(),
            _ => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes(b.try_into().expect("two")).to_f32()).collect(),
        };
        assert!(y[vectors * rows..].iter().take(3).all(|y| y.is_nan()), "{case:?}: something past y was written");

        let w = dequantize_f32(reference).expect("valid");
        let mut worst = 0.0_f64;
        for v in 0..vectors {
            for r in 0..rows {
                let terms = w[r * cols..(r + 1) * cols].iter().zip(&x[v * cols..(v + 1) * cols]);
                let of_bias = if case.bias { f64::from(bias[r]) } else { 0.0 };
                let (mut exact, mut size) = (of_bias, of_bias.abs());
                for (&w, &x) in terms {
                    exact += f64::from(w) * f64::from(x);
                    size += (f64::from(w) * f64::from(x)).abs();
                }
                let mut bound = (f64::from(case.n_cols) / 32.0 + 40.0) * 2f64.powi(-23) * size;
                if case.activations == Dtype::F16 {
                    bound += 2f64.powi(-11) * (exact.abs() + bound) + 2f64.powi(-25);
                }
                let error = (f64::from(y[v * rows + r]) - exact).abs();
                let part = if error.is_nan() { f64::INFINITY } else { error / bound.max(1e-300) };
                worst = worst.max(part);
            }
        }
        worst
    })
}

fn packed(case: Case) -> Packed {
    quantize(case.format, &numbers((case.n_rows * case.n_cols) as usize, 3)).expect("finite")
}

/// Rows, columns and vectors: whole strips, blocks cut by rows, one of everything, more than a tile.
const SIZES: [[u32; 3]; 12] = [
    [32, 1, 1],
    [1, 32, 1],
    [1, 4096, 1],
    [67, 64, 1],
    [64, 33, 3],
    [96, 100, 1],
    [32, 4095, 2],
    [160, 96, 5],
    [33, 320, 17],
    [70, 128, 67],
    [32, 77, 130],
    [8, 64, 4096],
];

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &format in Format::ALL {
        for (i, [n_rows, n_cols, n_vectors]) in SIZES.into_iter().enumerate() {
            for activations in [Dtype::F32, Dtype::F16] {
                let (bias, words_before) = (i % 2 == 0, [0, 4, 1, 3][i % 4]);
                cases.push(Case { format, n_rows, n_cols, n_vectors, activations, bias, words_before });
            }
        }
    }
    cases
}

/// The largest errors, as parts of the bound, of `F32` and `F16` products in kernels of a shape.
fn hold(shape: Shape) {
    for name in common::adapter_names() {
        hold_on(&name, &common::open(&name).with_shape(shape));
    }
}

fn hold_on(name: &str, gpu: &Gpu) {
    let mut worst = [0.0_f64; 2];
    for case in cases() {
        let packed = packed(case);
        let error = error_of(gpu, case, &packed, &packed);
        assert!(error <= 1.0, "{name}: {case:?}: {error:.2} times the bound");
        let worst = &mut worst[usize::from(case.activations == Dtype::F16)];
        *worst = worst.max(error);
    }
    eprintln!("{name}: at worst {:.3} of the bound in F32, {:.3} in F16", worst[0], worst[1]);
}

#[test]
fn products_for_software_are_within_the_bound() {
    hold(Shape::Serial);
}

#[test]
fn products_for_hardware_are_within_the_bound() {
    hold(Shape::Tile);
}

/// Without subgroups, as an app may have made its device.
#[test]
fn products_without_features_are_within_the_bound() {
    for name in common::adapter_names() {
        if !common::open(&name).device().features().contains(wgpu::Features::SUBGROUP) {
            continue; // products_for_hardware_are_within_the_bound had none either
        }
        let gpu = common::open_with(&name, |_| {}).with_shape(Shape::Tile);
        assert!(!gpu.device().features().contains(wgpu::Features::SUBGROUP));
        hold_on(&name, &gpu);
    }
}

/// One damaged byte of codes goes beyond the bound, in every format, shape and type.
#[test]
fn a_damaged_code_goes_beyond_the_bound() {
    for shape in [Shape::Serial, Shape::Tile] {
        let gpu = common::open(&common::adapter_names()[0]).with_shape(shape);
        for case in cases().into_iter().filter(|case| case.n_vectors <= 3 && case.n_cols < 4000) {
            let packed = packed(case);
            let mut codes = packed.codes().to_vec();
            let middle = codes.len() / 2;
            codes[middle] ^= 0xff;
            let (scales, n) = (packed.scales().to_vec(), packed.n_elems());
            let damaged = match packed.nested() {
                None => Packed::from_parts(case.format, n, codes, scales),
                Some(nested) => {
                    let absmax = bytemuck::pod_collect_to_vec(&nested.absmax);
                    Packed::from_nested_parts(case.format, n, codes, scales, absmax, nested.offset)
                }
            };
            let error = error_of(&gpu, case, &packed, &damaged.expect("sizes fit"));
            assert!(error > 1.0, "{case:?}: the damage went unnoticed, at {error:.3} of the bound");
        }
    }
}
