//! `mxfp4`, whose codes need no guess: its scales are powers of two.

use fearless_simd::{f32x16, prelude::*, u32x16};

use super::super::mxfp4::{Mx, codes, magnitudes};
use super::input::{Input, MAGNITUDE, largest};
use super::{Chunk, F32x8, Factors, LARGEST, Token, U8x32, U16x16, U32x8, are_ordinary, lanes};

impl Chunk for Mx {
    const BLOCK: usize = 32;

    type Maxima = U32x8;

    #[inline(always)]
    fn maxima<I: Input>(avx2: Token, block: &[u8]) -> U32x8 {
        I::lane_maxima::<MAGNITUDE, 0>(avx2, block)
    }

    #[inline(always)]
    fn scales<I: Input>(avx2: Token, maxima: &[U32x8; 8], _: &[u8], scales: &mut [u8]) -> Option<Factors> {
        let magnitudes = largest(avx2, *maxima);
        if !are_ordinary(magnitudes, LARGEST) {
            return None;
        }
        // Exponents of maxima less 2, and 0 for a zero block.
        let exponents = (magnitudes >> 23).max(2) - 2;
        for (scale, exponent) in scales.iter_mut().zip(exponents.to_array()) {
            *scale = exponent.to_le_bytes()[0];
        }
        let inverse = ((U32x8::splat(avx2, 254) - exponents) << 23).bitcast();
        Some(Factors { rough: inverse, exact: inverse })
    }

    #[inline(always)]
    fn guess(avx2: Token, [a, b, c, d]: [F32x8; 4], inverse: f32) -> (U8x32, U16x16) {
        let (low, high) = (magnitudes(a.combine(b), inverse).split(), magnitudes(c.combine(d), inverse).split());
        let code = (lanes::weave_low_bytes(avx2, [low.0, low.1, high.0, high.1]) + 2).min(7);
        let tops = lanes::weave_high_bytes(avx2, [a.bitcast(), b.bitcast(), c.bitcast(), d.bitcast()]);
        // A negative value that rounds to zero has code 0.
        let signed = code.simd_gt(0).select(code | 8, code);
        ((tops & 0x80).simd_eq(0).select(code, signed), U16x16::splat(avx2, u16::MAX))
    }

    #[inline(always)]
    fn exact(_: Token, x: f32x16<Token>, inverse: f32) -> u32x16<Token> {
        codes(x, inverse)
    }
}
