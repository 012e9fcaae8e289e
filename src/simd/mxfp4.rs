//! `mxfp4`.

use fearless_simd::{f32x16, prelude::*, u32x16};

use super::decode::{self, Decode4};
use super::encode::{self, Encode};
use super::{Layout, Twin, absmax2, dispatch, magnitude_bits};
use crate::quant::mxfp4;

pub(crate) const MXFP4: Twin = Twin {
    quantize: |level, weights, codes, scales| dispatch!(level, simd => encode::quantize::<_, Mx>(simd, weights, codes, scales)),
    dequantize: |level, codes, scales, dtype, out| dispatch!(level, simd => decode::dequantize4::<_, Mx>(simd, codes, scales, dtype, out)),
};

struct Mx;

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
fn codes<S: Simd>(x: f32x16<S>, inverse: f32) -> u32x16<S> {
    // Exact, but for products far below the first boundary.
    let bits = magnitude_bits(x * inverse);
    let y: f32x16<S> = bits.bitcast();
    // Below 1 values are multiples of a half: adding 2^22 rounds to them, ties to even. From 1 on there is one bit of
    // fraction, and rounding off the other 22 carries into the exponent where it must.
    let small = (y + 4_194_304.0).bitcast::<u32x16<S>>() - 4_194_304_f32.to_bits();
    let large = ((bits + 0x1f_ffff + ((bits >> 22) & 1)) >> 22) - ((127 << 1) - 2);
    let code = y.simd_lt(1.0).select(small, large).min(7);
    // A negative value that rounds to zero has code 0.
    let sign = (x.bitcast::<u32x16<S>>() >> 28) & 8;
    code | (sign & code.simd_gt(0).to_vector().bitcast::<u32x16<S>>())
}

impl Decode4 for Mx {
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
