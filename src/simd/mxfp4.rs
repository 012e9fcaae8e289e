//! `mxfp4`.

use fearless_simd::{f32x16, prelude::*, u32x16};

use super::decode::Decode4;
use super::encode::Encode;
use super::{Layout, Twin, absmax2, dequantize, quantize};
use crate::quant::mxfp4;

pub(crate) const MXFP4: Twin = Twin { quantize: quantize!(Mx), dequantize: dequantize!(dequantize4, Mx) };

pub(super) struct Mx;

impl Encode for Mx {
    const LAYOUT: Layout = Layout::Halves;
    const SCALE_BYTES: usize = 2;

    #[inline(always)]
    fn encode<S: Simd>(_: S, x: [f32x16<S>; 4], infinity: u32, scales: &mut [u8]) -> Option<[u32x16<S>; 4]> {
        let e = [mxfp4::exponent(absmax2(x[0], x[1], infinity)?), mxfp4::exponent(absmax2(x[2], x[3], infinity)?)];
        scales.copy_from_slice(&e);
        let [first, second] = [inverse(e[0]), inverse(e[1])];
        Some([codes(x[0], first), codes(x[1], first), codes(x[2], second), codes(x[3], second)])
    }
}

/// What weights are multiplied by: 2^(127 - e), a normal number as e is at most 252.
#[inline(always)]
fn inverse(e: u8) -> f32 {
    f32::from_bits((254 - u32::from(e)) << 23)
}

#[inline(always)]
pub(super) fn codes<S: Simd>(x: f32x16<S>, inverse: f32) -> u32x16<S> {
    let code = ((magnitudes(x, inverse) + 2) & 0xff).min(7);
    // A negative value that rounds to zero has code 0.
    let sign = (x.bitcast::<u32x16<S>>() >> 28) & 8;
    code | (sign & code.simd_gt(0).to_vector().bitcast::<u32x16<S>>())
}

/// Codes without sign, less 2, in low bytes; 8 - 2 for what is saturated.
#[inline(always)]
pub(super) fn magnitudes<S: Simd>(x: f32x16<S>, inverse: f32) -> u32x16<S> {
    // Exact, but for products far below the first boundary.
    let y = (x * inverse).abs();
    // Below 1 values are multiples of a half, from 1 on there is one bit of fraction: the unit is half of this power of two.
    let power = (y.bitcast::<u32x16<S>>() & 0x7f80_0000).max(1_f32.to_bits());
    // Adding 1.5 * 2^22 times that rounds to units, ties to even, and leaves their number in the last bits.
    let units = power.bitcast::<f32x16<S>>().mul_add(6_291_456.0, y);
    // From 1 on there are two codes to a power of two; 254 is twice the exponent of 1.
    units.bitcast::<u32x16<S>>() + (power >> 22)
}

impl Decode4 for Mx {
    const EXACT: bool = true;
    const LAYOUT: Layout = Layout::Halves;
    const SCALE_BYTES: usize = 1;
    /// Code 8 is +0.0.
    const VALUES: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

    #[inline(always)]
    fn scale(bytes: &[u8]) -> Option<f32> {
        match *bytes.first()? {
            0 => Some(f32::from_bits(1 << 22)), // 2^-127 is subnormal
            255 => None,
            e => Some(f32::from_bits(u32::from(e) << 23)),
        }
    }
}
