//! `sym4` and `sym8`.

use fearless_simd::{f32x16, prelude::*, u32x16};

use super::decode::{Decode4, Decode8};
use super::encode::{Encode, round_half_away};
use super::{Layout, Twin, absmax4, dequantize, quantize};
use crate::quant::{quant4bit, quant8bit};

pub(crate) const SYM4: Twin = Twin { quantize: quantize!(Sym4), dequantize: dequantize!(dequantize4, Sym4) };

pub(crate) const SYM8: Twin = Twin { quantize: quantize!(Sym8), dequantize: dequantize!(dequantize8, Sym8) };

pub(super) struct Sym4;
pub(super) struct Sym8;

impl Encode for Sym4 {
    const LAYOUT: Layout = Layout::EvenHigh;
    const SCALE_BYTES: usize = 4;

    #[inline(always)]
    fn encode<S: Simd>(_: S, x: [f32x16<S>; 4], infinity: u32, scales: &mut [u8]) -> Option<[u32x16<S>; 4]> {
        let scale = quant4bit::scale(absmax4(x, infinity)?);
        scales.copy_from_slice(&scale.to_le_bytes());
        Some(codes_of_4(x, scale))
    }
}

impl Encode for Sym8 {
    const LAYOUT: Layout = Layout::Bytes;
    const SCALE_BYTES: usize = 4;

    #[inline(always)]
    fn encode<S: Simd>(_: S, x: [f32x16<S>; 4], infinity: u32, scales: &mut [u8]) -> Option<[u32x16<S>; 4]> {
        let scale = quant8bit::scale(absmax4(x, infinity)?);
        scales.copy_from_slice(&scale.to_le_bytes());
        Some(codes_of_4(x, scale))
    }
}

impl Decode4 for Sym4 {
    const LAYOUT: Layout = Layout::EvenHigh;
    const SCALE_BYTES: usize = 4;
    const VALUES: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0];
    const INVALID: Option<u8> = Some(8);

    #[inline(always)]
    fn scale(bytes: &[u8]) -> Option<f32> {
        read(bytes)
    }
}

impl Decode8 for Sym8 {
    const BLOCK: usize = 64;
    const SCALE_BYTES: usize = 4;
    const INVALID: Option<u8> = Some(0x80);

    #[inline(always)]
    fn scale(bytes: &[u8]) -> Option<f32> {
        read(bytes)
    }
}

/// A scale that a writer makes is not negative. (NaN and infinities are no ordinary ones.)
#[inline(always)]
fn read(bytes: &[u8]) -> Option<f32> {
    let scale = f32::from_le_bytes(bytes.try_into().ok()?);
    scale.is_sign_positive().then_some(scale)
}

#[inline(always)]
fn codes_of_4<S: Simd>(x: [f32x16<S>; 4], scale: f32) -> [u32x16<S>; 4] {
    // A zero block's codes are 0 whatever its weights are divided by.
    let scale = if scale == 0.0 { 1.0 } else { scale };
    [codes(x[0], scale), codes(x[1], scale), codes(x[2], scale), codes(x[3], scale)]
}

/// Two's-complement codes. Nothing needs clamping: the scale's repairs see to that.
#[inline(always)]
pub(super) fn codes<S: Simd>(x: f32x16<S>, scale: f32) -> u32x16<S> {
    round_half_away(x / scale).bitcast()
}
