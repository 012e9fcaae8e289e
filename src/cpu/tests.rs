//! The fast twin against the reference, by bits: values and errors, for every instruction set that this machine has.

use super::*;
use crate::Error;
use crate::random::SplitMix;
use crate::selftest;

/// Instruction sets that run here, from the best to one without a twin.
fn levels() -> Vec<Level> {
    let best = Level::new();
    #[cfg(target_arch = "x86_64")]
    let lower = [best.as_avx2().map(Level::Avx2), best.as_sse2().map(Level::Sse2)];
    #[cfg(not(target_arch = "x86_64"))]
    let lower = [];
    [best].into_iter().chain(lower.into_iter().flatten()).collect()
}

fn text<T>(result: Result<T>) -> std::result::Result<T, String> {
    result.map_err(|error| error.to_string())
}

type Parts = std::result::Result<(Vec<u8>, Vec<u8>), String>;

/// Codes and scales, or the error, of whole blocks that begin at element 640.
fn quantized(
    format: Format,
    weights: Weights<'_>,
    fill: u8,
    quantize: impl Fn(&mut [u8], &mut [u8]) -> Result<()>,
) -> Parts {
    let info = format.info();
    // The reference wants zeros; the twin must overwrite whatever is there.
    let (mut codes, mut scales) = (vec![fill; info.codes_at(weights.len())], vec![fill; info.scales_at(weights.len())]);
    text(quantize(&mut codes, &mut scales)).map(|()| (codes, scales))
}

const FIRST: u64 = 640;

/// Holds every instruction set to the reference.
fn hold_quantize(name: &str, format: Format, weights: Weights<'_>) {
    let expected =
        quantized(format, weights, 0, |codes, scales| reference::quantize_into(format, weights, FIRST, codes, scales));
    for level in levels() {
        let actual = quantized(format, weights, 0xa5, |codes, scales| {
            quantize_part(level, format, weights, FIRST, codes, scales)
        });
        assert_same(&format!("{format} from {}, {name:?}, {level:?}", weights.dtype()), &expected, &actual);
    }
}

fn assert_same(what: &str, expected: &Parts, actual: &Parts) {
    match (expected, actual) {
        (Ok((expected_codes, expected_scales)), Ok((codes, scales))) => {
            for (part, expected, actual) in [("scale", expected_scales, scales), ("code", expected_codes, codes)] {
                let at = expected.iter().zip(actual).position(|(e, a)| e != a);
                assert_eq!(
                    at,
                    None,
                    "{what}: {part} bytes differ: {:02x?} {:02x?}",
                    at.map(|i| expected[i]),
                    at.map(|i| actual[i])
                );
            }
        }
        (expected, actual) => assert_eq!(expected.as_ref().err(), actual.as_ref().err(), "{what}"),
    }
}

/// Holds every instruction set to the reference, for each output type.
fn hold_dequantize(name: &str, format: Format, codes: &[u8], scales: &[u8], n_elems: usize) {
    for dtype in Dtype::ALL {
        // With as many bytes before the values, and the same behind them, which stay as they are.
        let dequantized = |n_before: usize, dequantize: &dyn Fn(&mut [u8]) -> Result<()>| {
            let n_bytes = n_elems * dtype.n_bytes();
            let mut out = vec![0xaa; n_before + n_bytes + n_before];
            let result = text(dequantize(&mut out[n_before..n_before + n_bytes]));
            let values = out.drain(n_before..n_before + n_bytes).collect::<Vec<_>>();
            assert!(out.iter().all(|&byte| byte == 0xaa), "{format} to {dtype}, {name:?}: beyond its values");
            result.map(|()| values)
        };
        let expected = dequantized(0, &|out| reference::dequantize_into(format, codes, scales, FIRST, dtype, out));
        let stores = [(Stores::Cached, 0), (Stores::PastCaches, 0), (Stores::PastCaches, 16), (Stores::PastCaches, 4)];
        for (level, (stores, n_before)) in levels().into_iter().flat_map(|level| stores.map(|how| (level, how))) {
            let actual = dequantized(n_before, &|out| {
                dequantize_part(level, format, (codes, scales), FIRST, dtype, stores, out)
            });
            let what = format!("{format} to {dtype}, {name:?}, {level:?}, {stores:?} after {n_before} bytes");
            match (&expected, &actual) {
                (Ok(expected), Ok(actual)) => {
                    let at = expected.iter().zip(actual).position(|(e, a)| e != a).map(|at| at / dtype.n_bytes());
                    assert_eq!(at, None, "{what}: this value differs");
                }
                (expected, actual) => assert_eq!(expected.as_ref().err(), actual.as_ref().err(), "{what}"),
            }
        }
    }
}

#[test]
fn every_twin_is_declared() {
    assert!(Format::ALL.iter().all(|format| format.info().twin.is_some()));
}

#[test]
fn the_case_table_quantizes_to_the_reference_bytes() {
    for &format in Format::ALL {
        for dtype in Dtype::ALL {
            for case in selftest::cases(format, dtype).iter().chain(&selftest::non_finite_cases(format, dtype)) {
                if format.info().check_len(case.weights().len() as u64).is_ok() {
                    hold_quantize(&case.name, format, case.weights());
                }
            }
        }
    }
}

#[test]
fn the_case_table_dequantizes_to_the_reference_values() {
    for &format in Format::ALL {
        for (name, packed) in selftest::packed_cases(format) {
            let n_elems = usize::try_from(packed.n_elems()).expect("in memory");
            hold_dequantize(&name, format, packed.codes(), &packed.stream_scales(), n_elems);
        }
    }
}

/// Magnitudes that are all of one size, so that scales over the whole range meet codes over the whole range.
#[test]
fn random_bits_of_every_size_quantize_to_the_reference_bytes() {
    let mut random = SplitMix::new(11);
    for &format in Format::ALL {
        for dtype in Dtype::ALL {
            let sign = 1_u64 << (8 * dtype.n_bytes() - 1);
            let (infinity, normal) = match dtype {
                Dtype::F32 => (0x7f80_0000, 1 << 23),
                Dtype::F16 => (0x7c00, 1 << 10),
                Dtype::BF16 => (0x7f80, 1 << 7),
            };
            let mut bytes = Vec::new();
            for block in 0..2000 * format.info().block as u64 / 32 {
                let top = random.below(infinity);
                let low = if block % 3 == 0 { 0 } else { top.saturating_sub(normal * 4) };
                for _ in 0..32 {
                    let magnitude = low + random.below(top - low + 1);
                    let bits = magnitude | if random.next() & 1 == 0 { sign } else { 0 };
                    bytes.extend_from_slice(&bits.to_le_bytes()[..dtype.n_bytes()]);
                }
            }
            let weights = Weights::from_le_bytes(dtype, &bytes).expect("whole elements");
            // Where one block can't be packed, nothing of what follows is looked at, so pieces are tried apart.
            for start in (0..weights.len()).step_by(GROUP) {
                hold_quantize("random bits", format, weights.slice(start..weights.len().min(start + GROUP)));
            }
        }
    }
}

/// Weights on boundaries, beside them and a little further off, in blocks of an ordinary size; among them zero blocks,
/// zeros, and maxima with both signs.
#[test]
fn weights_near_boundaries_quantize_to_the_reference_bytes() {
    let mut random = SplitMix::new(16);
    for &format in Format::ALL {
        for dtype in Dtype::ALL {
            // Exponents from 1 on, bits of the significand, and how far off a weight may be.
            let (exponents, n_bits, furthest) = match dtype {
                Dtype::F32 => (30..140, 23, 1 << 13),
                Dtype::F16 => (5..28, 10, 4),
                Dtype::BF16 => (30..140, 7, 4),
            };
            let sign = 1_u32 << (8 * dtype.n_bytes() - 1);
            let mut below = |n: u32| u32::try_from(random.below(n.into())).expect("less than n");
            let mut bytes = Vec::new();
            for _ in 0..40 {
                let exponent = exponents.start + below(exponents.end - exponents.start);
                let max = (exponent << n_bits) | below(1 << n_bits);
                let boundaries = selftest::boundaries(format, dtype, max);
                for _ in 0..100 {
                    let is_zero = below(20) == 0;
                    for index in 0..format.info().block {
                        let near = boundaries[below(u32::try_from(boundaries.len()).expect("few")) as usize];
                        let magnitude = match below(16) {
                            _ if is_zero => 0,
                            _ if index == format.info().block / 2 => max,
                            0 => max,
                            1 => 0,
                            2..9 => near.saturating_sub(below(furthest)),
                            _ => max.min(near + below(furthest)),
                        };
                        let bits = magnitude | (sign * below(2));
                        bytes.extend_from_slice(&bits.to_le_bytes()[..dtype.n_bytes()]);
                    }
                }
            }
            hold_quantize("near boundaries", format, Weights::from_le_bytes(dtype, &bytes).expect("whole elements"));
        }
    }
}

/// Codes of every kind under scales of every size: products that overflow, are subnormal, or lie near ties of 16 bits.
#[test]
fn random_scales_of_every_size_dequantize_to_the_reference_values() {
    let mut random = SplitMix::new(12);
    for &format in Format::ALL {
        let info = format.info();
        for i in 0..3000 {
            let codes: Vec<u8> = (0..info.codes_at(GROUP)).map(|_| random.next().to_le_bytes()[0]).collect();
            let codes: Vec<u8> = match format {
                // A code that no writer makes ends the comparison, so most tries have none.
                Format::Sym4 if i % 8 != 0 => {
                    codes.iter().map(|c| [*c, 0x79][usize::from(c >> 4 == 8 || c & 15 == 8)]).collect()
                }
                Format::Sym8 if i % 8 != 0 => codes.iter().map(|c| [*c, 0x79][usize::from(*c == 0x80)]).collect(),
                _ => codes,
            };
            let scales: Vec<u8> = (0..GROUP / info.block)
                .flat_map(|_| {
                    let bits = random.next().to_le_bytes();
                    let mut scale = bits[..info.scale.n_bytes()].to_vec();
                    if let Some(top) = scale.last_mut().filter(|_| i % 16 != 0 && info.scale.n_bytes() > 1) {
                        *top &= 0x7f;
                    }
                    // Every second scale is of the size that 16-bit values have.
                    if let Some(top) = scale.get_mut(3).filter(|_| i % 2 == 0) {
                        *top = 0x38 + (*top & 7);
                    }
                    scale
                })
                .collect();
            hold_dequantize("random scales", format, &codes, &scales, GROUP);
        }
    }
}

/// Products that lie on ties of 16 bits, or a hair beside them, where rounding twice would go wrong.
#[test]
fn products_near_ties_of_16_bits_are_rounded_once() {
    for format in [Format::Sym4, Format::Sym8, Format::Nf4, Format::Fp4] {
        let info = format.info();
        for (index, tie) in
            [0x3f80_8000_u32, 0x3f81_8000, 0x3f80_1000, 0x3f80_3000, 0x3811_1000, 0x3300_0001, 0x3340_0000]
                .iter()
                .enumerate()
        {
            for code in 1..=7_u8 {
                let quotient = f32::from_bits(*tie) / f32::from(code);
                for ulps in -3..=3_i32 {
                    let scale = f32::from_bits(quotient.to_bits().wrapping_add_signed(ulps));
                    let codes =
                        vec![if info.bits == 4 { code << 4 | (16 - code) } else { code * 17 }; info.codes_at(GROUP)];
                    let scales = scale.to_le_bytes().repeat(GROUP / info.block);
                    hold_dequantize(&format!("tie {index}, code {code}"), format, &codes, &scales, GROUP);
                }
            }
        }
    }
}

fn ordinary(n: usize, seed: u64) -> Vec<f32> {
    let mut random = SplitMix::new(seed);
    #[expect(clippy::cast_precision_loss, reason = "any values will do")]
    let weights = (0..n).map(|_| random.below(1 << 24) as f32 / 1e8 - 0.08).collect();
    weights
}

/// Lengths around blocks, groups and parts, through one thread and two.
#[test]
fn lengths_and_threads_leave_no_trace() {
    let weights = ordinary(3 * PART + 64, 13);
    for &format in Format::ALL {
        let whole = |n: usize| if format.info().whole_blocks { n.next_multiple_of(32) } else { n };
        for n in [1, 63, 64, 65, 127, 128, 129, 191, PART - 1, PART, PART + 1, 2 * PART + 127, 3 * PART + 1] {
            let weights = &weights[..whole(n)];
            let expected = reference::quantize(format, weights).expect("finite");
            let values = reference::dequantize(&expected, Dtype::BF16).expect("valid");
            for n_threads in [1, 2] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("threads");
                assert!(pool.install(|| quantize(format, weights)).expect("finite") == expected, "{format}, {n}");
                assert!(pool.install(|| dequantize(&expected, Dtype::BF16)).expect("valid") == values, "{format}, {n}");
            }
        }
    }
}

/// The error is that of the first bad element, whichever thread is done first.
#[test]
fn the_first_error_is_given() {
    let mut weights = ordinary(4 * PART, 14);
    for index in [4 * PART - 1, 3 * PART, PART + 77, PART - 1, 5] {
        weights[index] = f32::NAN;
        for &format in Format::ALL {
            let Err(Error::NonFinite { index: found, .. }) = quantize(format, &weights) else {
                panic!("{format}: no error")
            };
            assert_eq!(found, index as u64, "{format}");
        }
    }
    for (format, bad, bad_scale) in
        [(Format::Sym4, 0x81, false), (Format::Sym8, 0x80, false), (Format::Nf4, 0xff, true)]
    {
        let packed = quantize(format, &ordinary(4 * PART, 15)).expect("finite");
        let (mut codes, mut scales) = (packed.codes().to_vec(), packed.scales().to_vec());
        let per_byte = 8 / format.info().bits;
        for index in [4 * PART - 64, 2 * PART + 640, 64] {
            if bad_scale {
                scales[format.info().scales_at(index)..][..4].fill(bad);
            } else {
                codes[index / per_byte] = bad;
            }
            let packed = Packed::from_parts(format, 4 * PART as u64, codes.clone(), scales.clone()).expect("fits");
            let expected = reference::dequantize(&packed, Dtype::F32).expect_err("damaged").to_string();
            assert_eq!(dequantize(&packed, Dtype::F32).expect_err("damaged").to_string(), expected);
            assert!(expected.contains(&(index / format.info().block).to_string()), "{expected}");
        }
    }
}

#[test]
fn parts_are_as_many_as_threads_do_together() {
    for (n_threads, n_elems, n_parts) in [
        (1, 3, 1),
        (1, PART + 1, 2),
        (2, 2 * PART, 2),
        (2, PART, 2),
        (2, PART - 1, 1),
        (2, 2 * PART + 16384, 4),
        (2, 16 * PART, 16),
        (3, 16 * PART, 18),
        (64, PART, 2),
        (64, 16 * PART, 32),
        (64, 64 * PART, 64),
    ] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("threads start");
        let len = pool.install(|| part_len(n_elems));
        assert_eq!(n_elems.div_ceil(len), n_parts, "{n_elems} elements, {n_threads} threads, {len} each");
        assert!(len <= PART && len.is_multiple_of(PART_UNIT), "{len}");
    }
}
