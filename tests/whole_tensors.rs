//! Whole tensors of random lengths, block sizes, types and bits through the CPU reference.

#![cfg(test)] // so that lints know every helper for a part of a test

use half::{bf16, f16};
use proptest::prelude::*;
use wgquant::quant::{quant4bit, quant8bit};
use wgquant::{Dtype, Error, Format, Packed, Weights};

/// Any bits of the type that make a finite number, little-endian.
fn finite_elem(dtype: Dtype) -> BoxedStrategy<Vec<u8>> {
    let exponent_mask = match dtype {
        Dtype::F32 => 0x7f80_0000,
        Dtype::F16 => 0x7c00,
        Dtype::BF16 => 0x7f80,
    };
    // Uniform bits give every exponent the same weight. Small integers and zeros bring ties and equal maxima.
    let as_dtype = move |x: f32| match dtype {
        Dtype::F32 => x.to_bits(),
        Dtype::F16 => u32::from(f16::from_f32(x).to_bits()),
        Dtype::BF16 => u32::from(bf16::from_f32(x).to_bits()),
    };
    let bits = prop_oneof![
        any::<u32>(),
        (-16_i8..=16).prop_map(move |i| as_dtype(f32::from(i) / 2.0)),
        (-1.0_f32..1.0).prop_map(as_dtype),
    ];
    bits.prop_map(move |bits| if bits & exponent_mask == exponent_mask { bits & !exponent_mask } else { bits })
        .prop_map(move |bits| bits.to_le_bytes()[..dtype.n_bytes()].to_vec())
        .boxed()
}

/// A type, and the bytes of up to `max` finite elements of it, at least one.
fn tensor(max: usize) -> impl Strategy<Value = (Dtype, Vec<u8>)> {
    prop::sample::select(&Dtype::ALL[..]).prop_flat_map(move |dtype| {
        prop::collection::vec(finite_elem(dtype), 1..=max).prop_map(move |elems| (dtype, elems.concat()))
    })
}

fn weights(dtype: Dtype, bytes: &[u8]) -> Weights<'_> {
    Weights::from_le_bytes(dtype, bytes).expect("whole elements")
}

fn values(weights: Weights<'_>) -> Vec<f32> {
    (0..weights.len()).map(|index| weights.get(index)).collect()
}

/// A format's largest code, and the functions of one block.
struct Symmetric {
    k: i8,
    scale: fn(f32) -> f32,
    code: fn(f32, f32) -> i8,
}

fn symmetric(format: Format) -> Symmetric {
    match format {
        Format::Sym4 => Symmetric { k: 7, scale: quant4bit::scale, code: quant4bit::code },
        Format::Sym8 => Symmetric { k: 127, scale: quant8bit::scale, code: quant8bit::code },
        other => panic!("{other} is not symmetric"),
    }
}

/// The packed bytes by the words of the format's description, written down as simply as can be.
fn packed_as_described(format: Format, weights: &[f32]) -> (Vec<u8>, Vec<u8>) {
    let Symmetric { scale: scale_of, code: code_of, .. } = symmetric(format);
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for block in weights.chunks(64) {
        let scale = scale_of(block.iter().map(|x| x.abs()).fold(0.0, f32::max));
        codes.extend(block.iter().map(|&x| code_of(x, scale)));
        scales.extend(scale.to_le_bytes());
    }
    let nibble = |code: i8| code.cast_unsigned() % 16;
    let bytes = match format.info().bits {
        4 => codes.chunks(2).map(|pair| nibble(pair[0]) * 16 + pair.get(1).map_or(0, |&odd| nibble(odd))).collect(),
        _ => codes.iter().map(|code| code.cast_unsigned()).collect(),
    };
    (bytes, scales)
}

#[test]
fn packed_bytes_and_sizes_are_as_described() {
    proptest!(|((dtype, bytes) in tensor(300))| {
        let weights = weights(dtype, &bytes);
        for format in [Format::Sym4, Format::Sym8] {
            let packed = wgquant::quantize(format, weights).expect("finite weights");
            let (codes, scales) = packed_as_described(format, &values(weights));
            prop_assert_eq!((packed.codes(), packed.scales()), (&codes[..], &scales[..]));

            let n = weights.len();
            prop_assert_eq!(packed.codes().len(), (n * format.info().bits).div_ceil(8));
            prop_assert_eq!(packed.scales().len(), 4 * n.div_ceil(64));
            prop_assert_eq!(packed.size_in_bytes(), codes.len() + scales.len());
            let ratio = packed.compression_ratio(Dtype::F32);
            prop_assert!(ratio.is_finite() && (n == 1 || ratio > 1.0), "{} weights: {}", n, ratio);
            let again = Packed::from_parts(format, n as u64, codes, scales).expect("the right sizes");
            prop_assert_eq!(&again, &packed);
            prop_assert_eq!(again.digest(), packed.digest());
        }
    });
}

#[test]
fn every_weight_comes_back_within_the_bound() {
    proptest!(|((dtype, bytes) in tensor(300))| {
        let weights = weights(dtype, &bytes);
        for format in [Format::Sym4, Format::Sym8] {
            let k = symmetric(format).k;
            let packed = wgquant::quantize(format, weights).expect("finite weights");
            let scales: Vec<f32> = bytemuck::pod_collect_to_vec(packed.scales());
            let back = wgquant::dequantize_f32(&packed).expect("our own bytes");
            prop_assert_eq!(back.len(), weights.len());
            for (index, (x, y)) in values(weights).into_iter().zip(back).enumerate() {
                let (scale, error) = (f64::from(scales[index / 64]), (f64::from(x) - f64::from(y)).abs());
                prop_assert!(error <= scale / 2.0 * (1.0 + f64::from(k) / f64::from(1 << 22)), "{}: {} {}", index, x, y);
                prop_assert!(scale == 0.0 || error < scale, "{}: {} {}", index, x, y);
                prop_assert!(x != 0.0 || y.to_bits() == 0, "zero came back as {}", y);
            }
        }
    });
}

/// The mean squared error, with the scale that is stored: scale²/4 a block, plus what rounding adds.
#[test]
fn mean_squared_error_is_within_a_quarter_of_the_squared_scale() {
    proptest!(|(weights in prop::collection::vec(-1.0_f32..1.0, 64 * 8))| {
        let packed = quant4bit::quantize(&weights, 64).expect("finite weights");
        let back = packed.dequantize().expect("our own codes");
        for (block_ix, scale) in packed.scales.iter().enumerate() {
            let elems = block_ix * 64..(block_ix + 1) * 64;
            let squares = weights[elems.clone()].iter().zip(&back[elems]).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2));
            let (mse, scale) = (squares.sum::<f64>() / 64.0, f64::from(*scale));
            prop_assert!(mse <= scale.powi(2) / 4.0, "block {}: {} at scale {}", block_ix, mse, scale);
            // The seed's text, read literally, is off by a factor of 49: no block meets it.
            prop_assert!(mse > (scale / 7.0).powi(2) / 4.0, "block {}: {} at scale {}", block_ix, mse, scale);
        }
    });
}

#[test]
fn any_block_size_quantizes_each_block_alone() {
    let strategy = (prop::collection::vec(finite_elem(Dtype::F32), 1..=200), 1..=210_usize);
    proptest!(|((elems, block_size) in strategy)| {
        let bytes = elems.concat();
        let values = values(weights(Dtype::F32, &bytes));
        let four = quant4bit::quantize(&values, block_size).expect("finite weights");
        let eight = quant8bit::quantize(&values, block_size).expect("finite weights");
        prop_assert_eq!(four.scales.len(), values.len().div_ceil(block_size));
        prop_assert_eq!(four.size_in_bytes(), values.len().div_ceil(2) + 4 * four.scales.len());
        prop_assert_eq!(eight.size_in_bytes(), values.len() + 4 * eight.scales.len());
        let (four_back, eight_back) = (four.dequantize().expect("codes"), eight.dequantize().expect("codes"));
        for (block_ix, block) in values.chunks(block_size).enumerate() {
            let alone = quant4bit::quantize(block, block_size).expect("finite weights");
            let at = block_ix * block_size;
            prop_assert_eq!(alone.scales[0].to_bits(), four.scales[block_ix].to_bits());
            prop_assert_eq!(&alone.dequantize().expect("codes")[..], &four_back[at..at + block.len()]);
            let alone = quant8bit::quantize(block, block_size).expect("finite weights");
            prop_assert_eq!(alone.scales[0].to_bits(), eight.scales[block_ix].to_bits());
            prop_assert_eq!(&alone.data[..], &eight.data[at..at + block.len()]);
            prop_assert_eq!(&alone.dequantize().expect("codes")[..], &eight_back[at..at + block.len()]);
        }
    });
}

/// Dequantizing to 16 bits gives the nearest value of that type to the exact product; too large is an error.
#[test]
fn sixteen_bit_outputs_are_the_nearest_or_refused() {
    proptest!(|((dtype, bytes) in tensor(130), out in prop::sample::select(vec![Dtype::F16, Dtype::BF16]))| {
        let packed = wgquant::quantize(Format::Sym8, weights(dtype, &bytes)).expect("finite weights");
        let scales: Vec<f32> = bytemuck::pod_collect_to_vec(packed.scales());
        let products: Vec<f64> = packed.codes().iter().enumerate()
            .map(|(index, &code)| f64::from(code.cast_signed()) * f64::from(scales[index / 64]))
            .collect();
        // Halfway between the largest finite value and the next that there would be.
        let limit = if out == Dtype::F16 { 65520.0 } else { f64::from(f32::from_bits(0x7f7f_8000)) };
        match wgquant::dequantize(&packed, out) {
            Ok(bytes) => {
                let back = weights(out, &bytes);
                for (index, product) in products.iter().enumerate() {
                    let distance = |bits| (f64::from(out.widen(bits)) - product).abs();
                    let bits = back.bits(index);
                    prop_assert!(product.abs() < limit);
                    let magnitude = bits & 0x7fff;
                    let neighbours = [magnitude.saturating_sub(1), magnitude + 1].map(|m| m | bits & 0x8000);
                    for other in neighbours.into_iter().filter(|&other| other != bits && out.widen(other).is_finite()) {
                        let (ours, theirs) = (distance(bits), distance(other));
                        prop_assert!(ours < theirs || (ours == theirs && bits & 1 == 0), "{}: {:#x}", index, bits);
                    }
                }
            }
            Err(Error::Overflow { index, value, dtype }) => {
                let first = products.iter().position(|product| product.abs() >= limit);
                prop_assert_eq!(first.map(|first| first as u64), Some(index));
                prop_assert!(value.abs() >= limit && dtype == out.name());
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    });
}

#[test]
fn the_first_weight_that_is_not_finite_is_named() {
    let strategy = tensor(200).prop_flat_map(|(dtype, bytes)| {
        let n = bytes.len() / dtype.n_bytes();
        (Just(dtype), Just(bytes), 0..n, 0..n, any::<bool>(), any::<bool>())
    });
    proptest!(|((dtype, mut bytes, at, other, negative, nan) in strategy)| {
        let infinity = match dtype {
            Dtype::F32 => 0x7f80_0000_u32,
            Dtype::F16 => 0x7c00,
            Dtype::BF16 => 0x7f80,
        };
        let sign = u32::from(negative) << (8 * dtype.n_bytes() - 1);
        for (index, is_nan) in [(at.max(other), !nan), (at.min(other), nan)] {
            let bits = infinity | sign | u32::from(is_nan);
            bytes[index * dtype.n_bytes()..][..dtype.n_bytes()].copy_from_slice(&bits.to_le_bytes()[..dtype.n_bytes()]);
        }
        let name = match (nan, negative) {
            (true, _) => "NaN",
            (_, false) => "+Inf",
            (_, true) => "-Inf",
        };
        let first = at.min(other);
        let is_named = |error: &Error| matches!(error, Error::NonFinite { index, value, .. } if *index == first as u64 && *value == name);
        for format in [Format::Sym4, Format::Sym8] {
            let error = wgquant::quantize(format, weights(dtype, &bytes)).expect_err("not finite");
            prop_assert!(is_named(&error), "{}", error);
        }
        let values = values(weights(dtype, &bytes));
        prop_assert!(is_named(&quant4bit::quantize(&values, 64).expect_err("not finite")));
        prop_assert!(is_named(&quant8bit::quantize(&values, 64).expect_err("not finite")));
    });
}

#[test]
fn nothing_to_quantize_is_an_error() {
    assert!(matches!(quant4bit::quantize(&[], 64), Err(Error::Empty)));
    assert!(matches!(quant8bit::quantize(&[], 64), Err(Error::Empty)));
    for &format in Format::ALL {
        assert!(matches!(wgquant::quantize(format, &[][..] as &[f32]), Err(Error::Empty)), "{format}");
        assert!(matches!(Packed::from_parts(format, 0, Vec::new(), Vec::new()), Err(Error::Empty)), "{format}");
    }
}

#[test]
fn a_block_size_of_zero_is_an_error() {
    assert!(matches!(quant4bit::quantize(&[1.0], 0), Err(Error::BlockSizeZero)));
    assert!(matches!(quant8bit::quantize(&[1.0], 0), Err(Error::BlockSizeZero)));
}

#[test]
fn parts_of_the_wrong_size_are_refused() {
    for &format in Format::ALL {
        let n_elems = if format.info().whole_blocks { 96 } else { 65 };
        let (n_codes, n_scales) = (format.info().codes_bytes(n_elems), format.info().stored_scales_bytes(n_elems));
        if format.info().n_nested_blocks(n_elems) > 0 {
            let refused = Packed::from_parts(format, n_elems, vec![0; 33], vec![0; 2]);
            assert!(matches!(refused, Err(Error::PackedSize { what: "second-level scales", .. })), "{format}");
            continue;
        }
        let part = |n: u64| vec![0; usize::try_from(n).expect("small")];
        assert!(Packed::from_parts(format, n_elems, part(n_codes), part(n_scales)).is_ok(), "{format}");
        for (codes, scales) in
            [(n_codes - 1, n_scales), (n_codes + 1, n_scales), (n_codes, n_scales - 1), (n_codes, n_scales + 4)]
        {
            let refused = Packed::from_parts(format, n_elems, part(codes), part(scales));
            assert!(matches!(refused, Err(Error::PackedSize { .. })), "{format}: {codes} and {scales} bytes");
        }
    }
}
