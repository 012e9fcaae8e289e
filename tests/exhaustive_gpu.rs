//! The shaders' own functions against the reference: over every finite binary32 as a block's maximum for the symmetric
//! formats, over every so-manieth for the others.

mod common;

use wgquant::gpu::{Access, Direction, Kernel, Params, Shape};
use wgquant::{Dtype, Format, Gpu};

/// Bits of the smallest infinity: every magnitude below is finite.
const INFINITY: u32 = 0x7f80_0000;

/// Bit patterns a dispatch.
const STEP: u32 = 1 << 23;

/// Stands for a scale that its type can't hold.
const OVERFLOW: u32 = u32::MAX;

/// A test entry point behind a kernel's text, for blocks of two elements: the first has the magnitude A = `params.n_blocks`
/// + index · `params.n_elems`, the second any magnitude up to A. It uses the kernel's functions and bindings.
const ENTRY_POINT: &str = "
@compute @workgroup_size(256)
fn every_scale(@builtin(global_invocation_id) gid: vec3<u32>) {
    let absmax = params.n_blocks + gid.x * params.n_elems;
    var h = absmax * 0x9e3779b1u;
    h = (h ^ (h >> 15u)) * 0x85ebca77u;
    h ^= h >> 13u;
    let g = (h * 0xc2b2ae3du) ^ (h >> 16u);
    let span = select(absmax + 1u, min(absmax + 1u, 0x2800000u), (h & 1u) == 1u);
    let a = absmax | (h & SIGN);
    let x = (absmax - g % span) | ((h << 1u) & SIGN);
    let extreme = extreme_of(larger(larger(0u, seen(a)), seen(x)));
    let scale = scale_of(extreme);
    let c = coder(extreme, scale);
    scales[gid.x] = select(scale, 0xffffffffu, overflows(scale));
    codes[gid.x] = finish_word((encode(c, a) << (slot_of(0u) * BITS)) | (encode(c, x) << (slot_of(1u) * BITS)));
}";

/// The block that the entry point makes of a magnitude. Every second one has an element within five powers of two of the
/// maximum, where codes differ; the others have any at all.
fn block_of(absmax: u32) -> [f32; 2] {
    let mut h = absmax.wrapping_mul(0x9e37_79b1);
    h = (h ^ (h >> 15)).wrapping_mul(0x85eb_ca77);
    h ^= h >> 13;
    let g = h.wrapping_mul(0xc2b2_ae3d) ^ (h >> 16);
    let span = if h & 1 == 1 { (absmax + 1).min(0x0280_0000) } else { absmax + 1 };
    [absmax | (h & (1 << 31)), (absmax - g % span) | ((h << 1) & (1 << 31))].map(f32::from_bits)
}

/// What the reference makes of that block: its scale's bits, and the word of its first codes.
fn reference(format: Format, absmax: u32) -> (u32, u32) {
    let info = format.info();
    let (mut codes, mut scale) = ([0; 64], [0; 4]);
    let quantized = (info.codec.quantize_block)(
        &block_of(absmax),
        &mut codes[..info.block_codes_bytes()],
        &mut scale[..info.scale.n_bytes()],
    );
    let scale = if quantized.is_ok() { u32::from_le_bytes(scale) } else { OVERFLOW };
    (scale, u32::from_le_bytes([codes[0], codes[1], codes[2], codes[3]]))
}

/// What was found of a format.
#[derive(Debug, Default)]
struct Found {
    n_compared: usize,
    n_overflows: usize,
    n_differing: usize,
    /// The first magnitude of those that differ, with the scale and the codes of shader and reference.
    first: Option<String>,
}

/// Gives what an entry point of a kernel's text writes to `codes` and `scales`, for the parameters it is called with: [`STEP`]
/// invocations and words.
fn runner(gpu: &Gpu, source: &str, entry_point: &str) -> impl Fn(Params) -> [Vec<u32>; 2] {
    let device = gpu.device();
    let label = Some(entry_point);
    let module = device
        .create_shader_module(wgpu::ShaderModuleDescriptor { label, source: wgpu::ShaderSource::Wgsl(source.into()) });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: None,
        module: &module,
        entry_point: label,
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let buffer = |size: u64, usage| {
        device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
    };
    let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let (codes, scales) = (buffer(u64::from(STEP) * 4, storage), buffer(u64::from(STEP) * 4, storage));
    let params = buffer(size_of::<Params>() as u64, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
    let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[(0, &params), (2, &codes), (3, &scales)]
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() }),
    });

    move |uniform| {
        gpu.queue().write_buffer(&params, 0, bytemuck::bytes_of(&uniform));
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &bind_group, &[]);
            pass.dispatch_workgroups(STEP / 256, 1, 1);
        }
        gpu.queue().submit([encoder.finish()]);
        [&codes, &scales]
            .map(|buffer| bytemuck::pod_collect_to_vec(&pollster::block_on(gpu.read_buffer(buffer)).expect("readable")))
    }
}

/// Runs the entry point for every `stride`-th magnitude below `limit`, and compares scale and codes with the reference.
/// Where the scale overflows, that both say so.
fn compare(gpu: &Gpu, format: Format, source: &str, limit: u32, stride: u32) -> Found {
    let run = runner(gpu, source, "every_scale");
    let mut found = Found::default();
    let n_magnitudes = limit.div_ceil(stride);
    for first in (0..n_magnitudes).step_by(STEP as usize) {
        let [codes, scales] = run(Params { n_elems: stride, n_blocks: first * stride, ..Params::default() });
        let n = STEP.min(n_magnitudes - first);
        let compare_part = |part: std::ops::Range<u32>| {
            let mut found = Found::default();
            for index in part {
                let absmax = (first + index) * stride;
                let (expected, actual) = (reference(format, absmax), (scales[index as usize], codes[index as usize]));
                found.n_compared += 1;
                if expected.0 == OVERFLOW && actual.0 == OVERFLOW {
                    found.n_overflows += 1;
                } else if expected != actual {
                    found.n_differing += 1;
                    found.first.get_or_insert_with(|| format!("A = {absmax:#010x}: {actual:#x?}, not {expected:#x?}"));
                }
            }
            found
        };
        let parts: Vec<Found> = std::thread::scope(|scope| {
            let halves = [0..n / 2, n / 2..n].map(|part| scope.spawn(|| compare_part(part)));
            halves.into_iter().map(|half| half.join().expect("no panic")).collect()
        });
        for part in parts {
            found.n_compared += part.n_compared;
            found.n_overflows += part.n_overflows;
            found.n_differing += part.n_differing;
            found.first = found.first.or(part.first);
        }
    }
    eprintln!("{format}: {found:?}");
    found
}

fn source(format: Format) -> String {
    let kernel = Kernel {
        format,
        direction: Direction::Quantize,
        shape: Shape::Block,
        dtype: Dtype::F32,
        access: Access::Vectors,
    };
    kernel.source() + ENTRY_POINT
}

/// Holds a format to the reference. Only formats whose scale is an f16 have magnitudes that overflow it.
fn holds(format: Format, stride: u32) {
    let gpu = common::open(&common::adapter_names()[0]);
    let found = compare(&gpu, format, &source(format), INFINITY, stride);
    assert_eq!(found.n_differing, 0, "first at {:?}", found.first);
    assert_eq!(found.n_compared, INFINITY.div_ceil(stride) as usize);
    assert_eq!(found.n_overflows > 0, format.info().scale.n_bytes() == 2, "{found:?}");
}

#[test]
fn every_finite_maximum_gives_the_reference_scale_and_code_in_sym4() {
    holds(Format::Sym4, 1);
}

#[test]
fn every_finite_maximum_gives_the_reference_scale_and_code_in_sym8() {
    holds(Format::Sym8, 1);
}

/// A stride that is odd, so that all low bits occur. Every exponent has thousands of magnitudes.
const STRIDE: u32 = 211;

#[test]
fn maxima_over_all_exponents_give_the_reference_scale_and_codes_in_nf4() {
    holds(Format::Nf4, STRIDE);
}

#[test]
fn maxima_over_all_exponents_give_the_reference_scale_and_codes_in_fp4() {
    holds(Format::Fp4, STRIDE);
}

#[test]
fn maxima_over_all_exponents_give_the_reference_scale_and_codes_in_q4_0() {
    holds(Format::Q4_0, STRIDE);
}

#[test]
fn maxima_over_all_exponents_give_the_reference_scale_and_codes_in_q8_0() {
    holds(Format::Q8_0, STRIDE);
}

#[test]
fn maxima_over_all_exponents_give_the_reference_scale_and_codes_in_mxfp4() {
    holds(Format::Mxfp4, STRIDE);
}

/// Another one: of the binary32 with the bits `params.n_blocks` + index the reciprocal's significand, and its exponent.
const RECIPROCALS: &str = "
@compute @workgroup_size(256)
fn every_reciprocal(@builtin(global_invocation_id) gid: vec3<u32>) {
    let r = reciprocal_of(params.n_blocks + gid.x).reciprocal;
    scales[gid.x] = r.significand;
    codes[gid.x] = bitcast<u32>(r.exponent);
}";

/// How many significands with that exponent have another reciprocal than the host's division gives.
fn n_wrong_reciprocals(gpu: &Gpu, source: &str, field: u32) -> usize {
    let first = field << 23;
    let [exponents, significands] =
        runner(gpu, source, "every_reciprocal")(Params { n_blocks: first, ..Params::default() });
    let values = significands.iter().zip(&exponents).map(|(&m, &e)| f64::from(m) * f64::from(e.cast_signed()).exp2());
    (first..first + STEP).zip(values).filter(|&(bits, value)| f64::from(1.0 / f32::from_bits(bits)) != value).count()
}

/// At 1, at the smallest normal numbers, and where reciprocals are the smallest normal ones and subnormal.
#[test]
fn every_significand_gives_its_reciprocal() {
    let gpu = common::open(&common::adapter_names()[0]);
    let source = source(Format::Nf4) + RECIPROCALS;
    for field in [127, 1, 252, 253, 254] {
        assert_eq!(n_wrong_reciprocals(&gpu, &source, field), 0, "exponent {field}");
    }
    // Each step that settles a quotient is needed.
    for (right, wrong) in [("less = rest < 0;", "less = false;"), ("more = rest >= i32(m);", "more = false;")] {
        let broken = source.replace(right, wrong);
        assert_ne!(broken, source);
        assert_ne!(n_wrong_reciprocals(&gpu, &broken, 127), 0, "{wrong}");
    }
}

/// One constant changed in the text must be found: in a scale, in a threshold's last bit, in a code.
#[test]
fn a_wrong_constant_is_found() {
    let gpu = common::open(&common::adapter_names()[0]);
    for (format, stride, limit, right, wrong, at_least) in [
        (Format::Sym4, 1, 0x0100_0000 + STEP, "+ (K - 1u)) / K", "+ (K - 2u)) / K", 1_000_000),
        (Format::Nf4, 2111, INFINITY, "0x3e5067e0u", "0x3e5167e0u", 1),
        (Format::Q4_0, 2111, INFINITY, "0x3fbffffcu", "0x3fb00000u", 1),
        (Format::Fp4, 2111, INFINITY, "0x32547610u", "0x32547601u", 10_000),
    ] {
        let broken = source(format).replace(right, wrong);
        assert_ne!(broken, source(format));
        let found = compare(&gpu, format, &broken, limit, stride);
        assert!(found.n_differing >= at_least, "{format}: only {found:?}");
    }
}
