//! `nf4` and `fp4`.

use fearless_simd::{f32x16, prelude::*, u8x16, u8x64, u32x16};

use super::decode::Decode4;
use super::encode::Encode;
use super::{Layout, Twin, absmax4, dequantize, magnitude_bits, quantize};
use crate::quant::{fp4, nf4};

pub(crate) const NF4: Twin = Twin { quantize: quantize!(Nf4), dequantize: dequantize!(dequantize4, Nf4) };

pub(crate) const FP4: Twin = Twin { quantize: quantize!(Fp4), dequantize: dequantize!(dequantize4, Fp4) };

pub(super) struct Nf4;
pub(super) struct Fp4;

/// Stores the scale and gives what a block is multiplied by; `None` where the reciprocal is infinite. A zero block's
/// normalised weights are zeros whatever that is.
#[inline(always)]
fn reciprocal(absmax: f32, scale: &mut [u8]) -> Option<f32> {
    scale.copy_from_slice(&absmax.to_le_bytes());
    let reciprocal = if absmax == 0.0 { 1.0 } else { 1.0 / absmax };
    reciprocal.is_finite().then_some(reciprocal)
}

/// How many of the thresholds `x` exceeds, strictly.
#[inline(always)]
fn count_exceeded<S: Simd>(simd: S, x: f32x16<S>, thresholds: &[f32]) -> u32x16<S> {
    let mut n = u32x16::splat(simd, 0);
    for &threshold in thresholds {
        // A mask's lanes are 0 and -1.
        n -= x.simd_gt(threshold).to_vector().bitcast::<u32x16<S>>();
    }
    n
}

const NF4_THRESHOLDS: [f32; 15] = nf4::thresholds();

impl Encode for Nf4 {
    const LAYOUT: Layout = Layout::EvenHigh;
    const SCALE_BYTES: usize = 4;

    #[inline(always)]
    fn encode<S: Simd>(simd: S, x: [f32x16<S>; 4], infinity: u32, scales: &mut [u8]) -> Option<[u32x16<S>; 4]> {
        let reciprocal = reciprocal(absmax4(x, infinity)?, scales)?;
        Some([
            nf4_codes(simd, x[0], reciprocal),
            nf4_codes(simd, x[1], reciprocal),
            nf4_codes(simd, x[2], reciprocal),
            nf4_codes(simd, x[3], reciprocal),
        ])
    }
}

impl Encode for Fp4 {
    const LAYOUT: Layout = Layout::EvenHigh;
    const SCALE_BYTES: usize = 4;

    #[inline(always)]
    fn encode<S: Simd>(simd: S, x: [f32x16<S>; 4], infinity: u32, scales: &mut [u8]) -> Option<[u32x16<S>; 4]> {
        let r = reciprocal(absmax4(x, infinity)?, scales)?;
        Some([fp4_codes(simd, x[0], r), fp4_codes(simd, x[1], r), fp4_codes(simd, x[2], r), fp4_codes(simd, x[3], r)])
    }
}

#[inline(always)]
pub(super) fn nf4_codes<S: Simd>(simd: S, x: f32x16<S>, reciprocal: f32) -> u32x16<S> {
    count_exceeded(simd, x * reciprocal, &NF4_THRESHOLDS)
}

#[inline(always)]
pub(super) fn fp4_codes<S: Simd>(simd: S, x: f32x16<S>, reciprocal: f32) -> u32x16<S> {
    let magnitude: f32x16<S> = magnitude_bits(x * reciprocal).bitcast();
    let level: u8x64<S> = count_exceeded(simd, magnitude, &fp4::THRESHOLDS).bitcast();
    // The other bytes of a lane are level 0, whose code is 0.
    let codes_of_levels = u8x64::block_splat(u8x16::from_slice(simd, &FP4_CODES));
    let code: u32x16<S> = codes_of_levels.swizzle_dyn_within_blocks(level).bitcast();
    // 8 where x < 0, which -0.0 is not.
    code | (x.simd_lt(0.0).to_vector().bitcast::<u32x16<S>>() & 8)
}

/// Codes by level, for a lookup of 16.
pub(super) const FP4_CODES: [u8; 16] = {
    let mut codes = [0; 16];
    let mut level = 0;
    while level < 8 {
        codes[level] = fp4::CODES[level];
        level += 1;
    }
    codes
};

impl Decode4 for Nf4 {
    const LAYOUT: Layout = Layout::EvenHigh;
    const SCALE_BYTES: usize = 4;
    const VALUES: [f32; 16] = nf4::VALUES;

    #[inline(always)]
    fn scale(bytes: &[u8]) -> Option<f32> {
        Some(f32::from_le_bytes(bytes.try_into().ok()?))
    }
}

impl Decode4 for Fp4 {
    const LAYOUT: Layout = Layout::EvenHigh;
    const SCALE_BYTES: usize = 4;
    const VALUES: [f32; 16] = fp4::values();

    #[inline(always)]
    fn scale(bytes: &[u8]) -> Option<f32> {
        Some(f32::from_le_bytes(bytes.try_into().ok()?))
    }
}
