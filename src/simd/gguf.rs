//! `q4_0` and `q8_0`.

use fearless_simd::{f32x16, i32x16, prelude::*, u32x16};

use super::decode::{Decode4, Decode8};
use super::encode::{Encode, round_half_away};
use super::{Layout, Twin, absmax2, dequantize, magnitude_bits, quantize};
use crate::quant::half_scale;

pub(crate) const Q4_0: Twin = Twin { quantize: quantize!(Q40), dequantize: dequantize!(dequantize4, Q40) };

pub(crate) const Q8_0: Twin = Twin { quantize: quantize!(Q80), dequantize: dequantize!(dequantize8, Q80) };

pub(super) struct Q40;
pub(super) struct Q80;

/// Stores `d` as an f16, rounded to nearest even; `None` where it would be infinite.
#[inline(always)]
pub(super) fn write_half(d: f32, scale: &mut [u8]) -> Option<()> {
    let bits = d.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    if magnitude >= 65_520_f32.to_bits() {
        return None;
    }
    // From 2^-14 on the exponent is rebased and 13 bits are rounded off. Below, adding a half leaves multiples of 2^-24.
    let normal = (magnitude + 0xfff + ((magnitude >> 13) & 1)).wrapping_sub(112 << 23) >> 13;
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits());
    let half = if magnitude < (113 << 23) { subnormal } else { normal };
    #[expect(clippy::cast_possible_truncation, reason = "a half has 16 bits")]
    scale.copy_from_slice(&((half | ((bits >> 16) & 0x8000)) as u16).to_le_bytes());
    Some(())
}

impl Encode for Q40 {
    const LAYOUT: Layout = Layout::Halves;
    const SCALE_BYTES: usize = 4;

    #[inline(always)]
    fn encode<S: Simd>(_: S, x: [f32x16<S>; 4], infinity: u32, scales: &mut [u8]) -> Option<[u32x16<S>; 4]> {
        let (first, second) = scales.split_at_mut(2);
        let id = q4_0_scale(x[0], x[1], infinity, first)?;
        let (a, b) = (q4_0_codes(x[0], id), q4_0_codes(x[1], id));
        let id = q4_0_scale(x[2], x[3], infinity, second)?;
        Some([a, b, q4_0_codes(x[2], id), q4_0_codes(x[3], id)])
    }
}

/// Stores a block's scale and gives its reciprocal.
#[inline(always)]
fn q4_0_scale<S: Simd>(low: f32x16<S>, high: f32x16<S>, infinity: u32, bytes: &mut [u8]) -> Option<f32> {
    let absmax = absmax2(low, high, infinity)?;
    // The sign is that of the first element that has the largest magnitude; of a zero block it is +.
    let bits = absmax.to_bits();
    let largest =
        magnitude_bits(low).simd_eq(bits).to_bitmask() | (magnitude_bits(high).simd_eq(bits).to_bitmask() << 16);
    let negative = low.simd_lt(0.0).to_bitmask() | (high.simd_lt(0.0).to_bitmask() << 16);
    let first = largest & largest.wrapping_neg();
    let d = if first & negative == 0 { absmax / -8.0 } else { absmax / 8.0 };
    write_half(d, bytes)?;
    Some(half_scale::reciprocal(d))
}

#[inline(always)]
pub(super) fn q4_0_codes<S: Simd>(x: f32x16<S>, id: f32) -> u32x16<S> {
    let code: i32x16<S> = (x * id + 8.5).to_int();
    code.min(15).bitcast()
}

impl Encode for Q80 {
    const LAYOUT: Layout = Layout::Bytes;
    const SCALE_BYTES: usize = 4;

    #[inline(always)]
    fn encode<S: Simd>(_: S, x: [f32x16<S>; 4], infinity: u32, scales: &mut [u8]) -> Option<[u32x16<S>; 4]> {
        let (first, second) = scales.split_at_mut(2);
        let id = q8_0_scale(x[0], x[1], infinity, first)?;
        let (a, b) = (q8_0_codes(x[0], id), q8_0_codes(x[1], id));
        let id = q8_0_scale(x[2], x[3], infinity, second)?;
        Some([a, b, q8_0_codes(x[2], id), q8_0_codes(x[3], id)])
    }
}

/// As [`q4_0_scale`].
#[inline(always)]
fn q8_0_scale<S: Simd>(low: f32x16<S>, high: f32x16<S>, infinity: u32, bytes: &mut [u8]) -> Option<f32> {
    let d = absmax2(low, high, infinity)? / 127.0;
    write_half(d, bytes)?;
    Some(half_scale::reciprocal(d))
}

#[inline(always)]
pub(super) fn q8_0_codes<S: Simd>(x: f32x16<S>, id: f32) -> u32x16<S> {
    round_half_away(x * id).bitcast()
}

impl Decode4 for Q40 {
    const EXACT: bool = true;
    const LAYOUT: Layout = Layout::Halves;
    const SCALE_BYTES: usize = 2;
    const VALUES: [f32; 16] = [-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];

    #[inline(always)]
    fn scale(bytes: &[u8]) -> Option<f32> {
        read_half(bytes)
    }
}

impl Decode8 for Q80 {
    const EXACT: bool = true;
    const BLOCK: usize = 32;
    const SCALE_BYTES: usize = 2;

    #[inline(always)]
    fn scale(bytes: &[u8]) -> Option<f32> {
        read_half(bytes)
    }
}

/// An f16 widened; `None` where it is not finite.
#[inline(always)]
fn read_half(bytes: &[u8]) -> Option<f32> {
    let bits = u32::from(u16::from_le_bytes(bytes.try_into().ok()?));
    // Exponents differ by 112; multiplying makes normal numbers of subnormal ones, exactly.
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    (magnitude < 65_536.0).then(|| f32::from_bits(magnitude.to_bits() | ((bits & 0x8000) << 16)))
}
