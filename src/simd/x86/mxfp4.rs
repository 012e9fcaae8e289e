//! `mxfp4`, whose codes need no guess: its scales are powers of two.

use fearless_simd::{f32x16, prelude::*, u8x32, u16x32, u32x8, u32x16};

use super::super::mxfp4::{Mx, codes, magnitudes};
use super::input::{Input, Maxima, largest};
use super::lanes::Lanes;
use super::{Chunk, Factors, LARGEST, are_ordinary};

impl Chunk for Mx {
    const BLOCK: usize = 32;

    #[inline(always)]
    fn scales<S: Lanes, I: Input>(simd: S, maxima: &Maxima<S>, _: &[u8], scales: &mut [u8]) -> Option<Factors<S>> {
        let magnitudes = largest(simd, maxima, 0);
        if !are_ordinary(magnitudes, LARGEST) {
            return None;
        }
        // Exponents of maxima less 2, and 0 for a zero block.
        let exponents = (magnitudes >> 23).max(2) - 2;
        for (scale, exponent) in scales.iter_mut().zip(exponents.to_array()) {
            *scale = exponent.to_le_bytes()[0];
        }
        let inverse = ((u32x8::splat(simd, 254) - exponents) << 23).bitcast();
        Some(Factors { rough: inverse, exact: inverse })
    }

    #[inline(always)]
    fn guess<S: Lanes>(simd: S, [a, b]: [f32x16<S>; 2], inverse: f32) -> (u8x32<S>, u16x32<S>) {
        let code = (simd.low_bytes([magnitudes(a, inverse), magnitudes(b, inverse)]) + 2).min(7);
        let tops = simd.high_bytes([a.bitcast(), b.bitcast()]);
        // A negative value that rounds to zero has code 0.
        let signed = code.simd_gt(0).select(code | 8, code);
        ((tops & 0x80).simd_eq(0).select(code, signed), u16x32::splat(simd, u16::MAX))
    }

    #[inline(always)]
    fn exact<S: Lanes>(_: S, x: f32x16<S>, inverse: f32) -> u32x16<S> {
        codes(x, inverse)
    }
}
