//! The CPU reference against what the peers' own code makes of the same bits: bitsandbytes, ggml in C and in numpy,
//! compressed-tensors. `tests/golden/make.py` made the vectors with the versions in `tests/golden/versions.txt`.
//!
//! Where a peer differs from us by design, the kinds of difference are counted, and nothing else may differ.

#![cfg(test)] // so that lints know every helper for a part of a test

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use wgquant::quant::{BlockFault, absmax, fp4, mxfp4, nested};
use wgquant::{Dtype, Format};

const VECTORS: &[u8] = include_bytes!("golden/vectors.safetensors");

/// How often each kind of difference occurs.
type Counts = BTreeMap<&'static str, usize>;

fn bytes(name: &str) -> Vec<u8> {
    let file = SafeTensors::deserialize(VECTORS).expect("a safetensors file");
    file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}")).data().to_vec()
}

fn floats(name: &str) -> Vec<f32> {
    bytes(name).chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect()
}

/// Codes and scale that the reference gives a block.
fn quantize(format: Format, block: &[f32]) -> Result<(Vec<u8>, Vec<u8>), BlockFault> {
    let info = format.info();
    let (mut codes, mut scale) = (vec![0; (block.len() * info.bits).div_ceil(8)], vec![0; info.scale.n_bytes()]);
    (info.codec.quantize_block)(block, &mut codes, &mut scale)?;
    Ok((codes, scale))
}

/// Holds dequantized values to theirs, for the same codes and scale; only zeros may differ, in their sign.
fn check_values(format: Format, codes: &[u8], scale: &[u8], theirs: &[f32]) {
    let mut ours = vec![0.0; theirs.len()];
    (format.info().codec.dequantize_block)(codes, scale, &mut ours).expect("codes and a scale that writers make");
    for (index, (&ours, &theirs)) in ours.iter().zip(theirs).enumerate() {
        #[expect(clippy::cast_possible_truncation, reason = "rounds once")]
        let ours = ours as f32;
        let same = ours.to_bits() == theirs.to_bits() || (ours == 0.0 && theirs == 0.0);
        assert!(same, "{format}: element {index} of {codes:x?}, {scale:x?} is {ours:e}, and theirs {theirs:e}");
    }
}

/// The kind of difference that an nf4 or fp4 code may have, if any; `None` must not be.
fn kind_of_code(format: Format, x: f32, block: &[f32], ours: u8, theirs: u8) -> Option<&'static str> {
    const PIVOTS: [f32; 7] = [0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333];
    let absmax = absmax(block);
    if absmax < 1e-38 {
        return Some("a maximum below 1e-38");
    }
    if block.len() < 64 {
        return Some("a short block");
    }
    if format != Format::Fp4 {
        return None;
    }
    let is_zero = |code: u8| code.is_multiple_of(8);
    if is_zero(ours) && is_zero(theirs) {
        return Some("the sign of zero");
    }
    // Neighbouring levels, with x between their midpoint, where bitsandbytes' CPU code divides, and the kernel's pivot.
    let level = |code: u8| {
        let value = fp4::values()[usize::from(code % 8)];
        fp4::values()[..8].iter().filter(|&&other| other < value).count()
    };
    let (low, high) = (level(ours).min(level(theirs)), level(ours).max(level(theirs)));
    let same_sign = ours / 8 == theirs / 8 || is_zero(ours) || is_zero(theirs);
    let mut levels = fp4::values()[..8].to_vec();
    levels.sort_by(f32::total_cmp);
    if high != low + 1 || !same_sign {
        return None;
    }
    let (midpoint, pivot) = ((levels[low] + levels[high]) / 2.0, PIVOTS[low]);
    let n = (x * (1.0 / absmax)).abs();
    if n == midpoint && x < 0.0 {
        Some("a tie of a negative value")
    } else if midpoint.min(pivot) <= n && n <= midpoint.max(pivot) {
        Some("between midpoint and pivot")
    } else {
        None
    }
}

fn against_bitsandbytes(format: Format) -> Counts {
    let name = |part| format!("{format}.{part}");
    let (input, codes, scales, values) =
        (floats(&name("input")), bytes(&name("codes")), floats(&name("absmax")), floats(&name("values")));
    let mut counts = Counts::new();
    let mut count = |kind| *counts.entry(kind).or_default() += 1;
    for (block_ix, block) in input.chunks(64).enumerate() {
        let (our_codes, our_scale) = quantize(format, block).expect("an f32 scale fits");
        let (codes, scale) = (&codes[block_ix * 32..][..our_codes.len()], scales[block_ix].to_le_bytes());
        assert_eq!(our_scale, scale, "{format}: block {block_ix}");
        let nibble = |codes: &[u8], index: usize| codes[index / 2] >> (4 - 4 * (index % 2)) & 0xf;
        for (index, &x) in block.iter().enumerate() {
            let (ours, theirs) = (nibble(&our_codes, index), nibble(codes, index));
            if ours != theirs {
                let kind = kind_of_code(format, x, block, ours, theirs);
                count(kind.unwrap_or_else(|| panic!("{format}: block {block_ix}: {x:e} is {ours}, theirs {theirs}")));
            }
        }
        if block.len() % 2 == 1 && nibble(&our_codes, block.len()) != nibble(codes, block.len()) {
            count("an odd tail's unused nibble");
        }
        check_values(format, codes, &scale, &values[block_ix * 64..][..block.len()]);
    }
    counts
}

#[test]
fn nf4_is_bitsandbytes() {
    assert_eq!(
        against_bitsandbytes(Format::Nf4),
        Counts::from([("a maximum below 1e-38", 231), ("an odd tail's unused nibble", 1)])
    );
}

#[test]
fn fp4_is_bitsandbytes() {
    let expected = [
        ("a maximum below 1e-38", 236),
        ("a tie of a negative value", 8),
        ("between midpoint and pivot", 25),
        ("the sign of zero", 8),
    ];
    assert_eq!(against_bitsandbytes(Format::Fp4), Counts::from(expected));
}

/// The codebook, second-level scales and what codes stand for are bitsandbytes'; a code may be a neighbour of theirs.
#[test]
fn nested_scales_are_bitsandbytes() {
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&nested::map()), bits(&floats("nested.map")));
    let mut counts = Counts::new();
    for name in ["ordinary", "equal", "wide"] {
        let part = |part| format!("nested.{name}.{part}");
        let (input, codes, scales) = (floats(&part("input")), bytes(&part("codes")), floats(&part("absmax")));
        let (offset, values) = (floats(&part("offset"))[0], floats(&part("values")));
        let mut sum = nested::ExactSum::default();
        input.iter().for_each(|&x| sum.add(x));
        let mean = sum.mean();
        assert!((mean - offset).abs() <= mean * 1e-6, "{name}: the mean is {mean:e}, theirs {offset:e}");
        for (block_ix, block) in input.chunks(nested::NESTED_BLOCK).enumerate() {
            let mut ours = vec![0; block.len()];
            let scale = nested::quantize_block(block, offset, &mut ours);
            assert_eq!(scale.to_bits(), scales[block_ix].to_bits(), "{name}: block {block_ix}");
            let start = block_ix * nested::NESTED_BLOCK;
            for (index, &ours) in ours.iter().enumerate() {
                let (theirs, value) = (codes[start + index], values[start + index]);
                assert_eq!(
                    nested::dequantize(theirs, scale, offset).to_bits(),
                    value.to_bits(),
                    "{name}: code {theirs}"
                );
                if ours != theirs {
                    assert!(ours.abs_diff(theirs) == 1, "{name}: {index} is {ours}, theirs {theirs}");
                    *counts.entry("a neighbouring code").or_default() += 1;
                }
            }
        }
    }
    assert_eq!(counts, Counts::from([("a neighbouring code", 1)]));
}

/// The kind of difference that a whole ggml block may have.
fn kind_of_block(format: Format, block: &[f32], theirs_scale: &[u8]) -> Option<&'static str> {
    let absmax = absmax(block);
    match format {
        Format::Mxfp4 if absmax < 2_f32.powi(-125) => Some("a maximum below 2^-125"),
        Format::Mxfp4 if absmax.to_bits() & 0x7f_fff0 == 0x7f_fff0 => {
            (theirs_scale == [mxfp4::exponent(absmax) + 1]).then_some("a logarithm that rounds up")
        }
        Format::Mxfp4 => None,
        _ => {
            let d = absmax / if format == Format::Q4_0 { 8.0 } else { 127.0 };
            (d != 0.0 && !(1.0 / d).is_finite()).then_some("a reciprocal that is not finite")
        }
    }
}

/// `peer` is `c` or `numpy`.
fn against_ggml(format: Format, peer: &str) -> Counts {
    let (input, blocks) = (floats(&format!("{format}.input")), bytes(&format!("{format}.{peer}")));
    let values = floats(&format!("{format}.values")); // of C's blocks
    let (n_scale, n_codes) = (format.info().scale.n_bytes(), format.info().block_codes_bytes());
    assert_eq!(blocks.len(), input.len() / 32 * (n_scale + n_codes));
    let mut counts = Counts::new();
    let mut count = |kind| *counts.entry(kind).or_default() += 1;
    for (block_ix, (block, theirs)) in input.chunks(32).zip(blocks.chunks(n_scale + n_codes)).enumerate() {
        let (theirs_scale, theirs_codes) = theirs.split_at(n_scale);
        let (codes, scale) = match quantize(format, block) {
            Ok(ours) => ours,
            Err(fault) => {
                assert!(matches!(fault, BlockFault::ScaleOverflow(_)), "{format}: block {block_ix}: {fault:?}");
                assert_eq!(theirs_scale[1] & 0x7f, 0x7c, "{format}: block {block_ix}: theirs is infinite");
                count("a scale beyond f16");
                continue;
            }
        };
        if peer == "c" && kind_of_block(format, block, theirs_scale) != Some("a maximum below 2^-125") {
            check_values(format, theirs_codes, theirs_scale, &values[block_ix * 32..][..32]);
        }
        if (&codes[..], &scale[..]) == (theirs_codes, theirs_scale) {
            continue;
        }
        // Numpy divides the block's own zero, which may be a negative one.
        if peer == "numpy" && format == Format::Q4_0 && absmax(block) == 0.0 && codes == theirs_codes {
            assert_eq!((scale, theirs_scale), (vec![0x00, 0x80], &[0, 0][..]));
            count("the sign of a zero block's scale");
            continue;
        }
        if let Some(kind) = kind_of_block(format, block, theirs_scale) {
            count(kind);
            continue;
        }
        let place = format!("{format}: block {block_ix} of {peer}: {codes:x?} {scale:x?}, theirs {theirs:x?}");
        assert!(format == Format::Mxfp4 && scale == theirs_scale, "{place}");
        // Ties, where ours goes to the even code and theirs to the lower magnitude.
        for (index, &x) in block.iter().enumerate() {
            let nibble = |codes: &[u8]| codes[index % 16] >> (4 * (index / 16)) & 0xf;
            let (ours, theirs) = (nibble(&codes), nibble(theirs_codes));
            if ours != theirs {
                let magnitude = |code: u8| mxfp4::MAGNITUDES[usize::from(code % 8)];
                let y = f64::from(x.abs()) / 2_f64.powi(i32::from(scale[0]) - 127);
                assert!(
                    magnitude(ours) + magnitude(theirs) == 2.0 * y && ours % 2 == 0 && ours % 8 == theirs % 8 + 1,
                    "{place}"
                );
                count("a tie");
            }
        }
    }
    counts
}

#[test]
fn q4_0_is_ggml() {
    for peer in ["c", "numpy"] {
        let mut expected = Counts::from([("a reciprocal that is not finite", 3), ("a scale beyond f16", 2)]);
        if peer == "numpy" {
            expected.insert("the sign of a zero block's scale", 2);
        }
        assert_eq!(against_ggml(Format::Q4_0, peer), expected, "{peer}");
    }
}

#[test]
fn q8_0_is_ggml() {
    for peer in ["c", "numpy"] {
        assert_eq!(against_ggml(Format::Q8_0, peer), Counts::from([("a scale beyond f16", 1)]), "{peer}");
    }
}

#[test]
fn mxfp4_is_ggml() {
    for peer in ["c", "numpy"] {
        assert_eq!(
            against_ggml(Format::Mxfp4, peer),
            Counts::from([("a logarithm that rounds up", 11), ("a maximum below 2^-125", 4), ("a tie", 12)]),
            "{peer}"
        );
    }
}

/// The words of pack-quantized: the first element in the lowest bits, codes shifted to be positive.
#[test]
fn symmetric_codes_pack_as_compressed_tensors() {
    for (format, offset) in [(Format::Sym4, 8_i32), (Format::Sym8, 128)] {
        let packed = wgquant::quantize(format, &floats(&format!("{format}.input"))[..]).expect("finite weights");
        let back = wgquant::dequantize(&packed, Dtype::F32).expect("our own codes");
        assert_eq!(back, bytes(&format!("{format}.input")), "weights that are multiples of their scale come back");
        let code = |index: usize| match format {
            Format::Sym4 => i32::from((packed.codes()[index / 2] << (4 * (index % 2))).cast_signed() >> 4),
            _ => i32::from(packed.codes()[index].cast_signed()),
        };
        let (n, per_word) = (back.len() / 4, 32 / format.info().bits);
        let words = (0..n / per_word).map(|word| {
            (0..per_word).fold(0_u32, |bits, i| {
                bits | (code(word * per_word + i) + offset).cast_unsigned() << (i * format.info().bits)
            })
        });
        let words: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        assert_eq!(words, bytes(&format!("{format}.packed")), "{format}");
    }
}

/// What no peer does by design must not pass for a kind.
#[test]
fn a_wrong_code_is_no_kind_of_difference() {
    let block: Vec<f32> = (0_u8..64).map(|i| f32::from(i) / 63.0 - 0.4).collect();
    for format in [Format::Nf4, Format::Fp4] {
        let (codes, _) = quantize(format, &block).expect("an f32 scale fits");
        for (index, &x) in block.iter().enumerate() {
            let ours = codes[index / 2] >> (4 - 4 * (index % 2)) & 0xf;
            for theirs in (0..16).filter(|&theirs| theirs != ours && (ours % 8, theirs % 8) != (0, 0)) {
                assert_eq!(kind_of_code(format, x, &block, ours, theirs), None, "{format}: {x} as {theirs}");
            }
        }
    }
    for format in [Format::Q4_0, Format::Q8_0, Format::Mxfp4] {
        assert_eq!(kind_of_block(format, &block[..32], &[0x00, 0x3c]), None);
    }
}
