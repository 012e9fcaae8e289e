//! `sym4`, `sym8`, `q4_0` and `q8_0`, whose codes are quotients rounded to integers.

use fearless_simd::{f32x16, prelude::*, u32x16};

use super::super::gguf::{Q40, Q80, q4_0_codes, q8_0_codes};
use super::super::symmetric::{Sym4, Sym8, codes};
use super::input::{Input, MAGNITUDE, largest};
use super::{Chunk, F32x8, Factors, LARGEST, Token, U8x32, U16x16, U32x8, are_ordinary, lanes, reciprocals};

impl Chunk for Sym4 {
    const BLOCK: usize = 64;

    type Maxima = U32x8;

    #[inline(always)]
    fn maxima<I: Input>(avx2: Token, block: &[u8]) -> U32x8 {
        I::lane_maxima::<MAGNITUDE, 0>(avx2, block)
    }

    #[inline(always)]
    fn scales<I: Input>(avx2: Token, maxima: &[U32x8; 8], _: &[u8], scales: &mut [u8]) -> Option<Factors> {
        symmetric_scales(avx2, 7.0, maxima, scales)
    }

    #[inline(always)]
    fn guess(avx2: Token, x: [F32x8; 4], rough: f32) -> (U8x32, U16x16) {
        round(avx2, x, rough, 0.5)
    }

    #[inline(always)]
    fn exact(_: Token, x: f32x16<Token>, scale: f32) -> u32x16<Token> {
        codes(x, scale)
    }
}

impl Chunk for Sym8 {
    const BLOCK: usize = 64;

    type Maxima = U32x8;

    #[inline(always)]
    fn maxima<I: Input>(avx2: Token, block: &[u8]) -> U32x8 {
        I::lane_maxima::<MAGNITUDE, 0>(avx2, block)
    }

    #[inline(always)]
    fn scales<I: Input>(avx2: Token, maxima: &[U32x8; 8], _: &[u8], scales: &mut [u8]) -> Option<Factors> {
        symmetric_scales(avx2, 127.0, maxima, scales)
    }

    #[inline(always)]
    fn guess(avx2: Token, x: [F32x8; 4], rough: f32) -> (U8x32, U16x16) {
        round_to_bytes(avx2, x, rough)
    }

    #[inline(always)]
    fn exact(_: Token, x: f32x16<Token>, scale: f32) -> u32x16<Token> {
        codes(x, scale)
    }
}

/// Stores scales, the largest |x| by `k`.
#[inline(always)]
fn symmetric_scales(avx2: Token, k: f32, maxima: &[U32x8; 8], scales: &mut [u8]) -> Option<Factors> {
    let magnitudes = largest(avx2, *maxima);
    if !are_ordinary(magnitudes, LARGEST) {
        return None;
    }
    let quotients = magnitudes.bitcast::<F32x8>() / k;
    quotients.bitcast::<U8x32>().store_slice(scales);
    Some(Factors { rough: reciprocals(avx2, k, magnitudes), exact: quotients })
}

/// x · `multiplier` + `offset` rounded down, as woven bytes whose low five bits are the result's, for results in -32..32.
#[inline(always)]
fn round(avx2: Token, [a, b, c, d]: [F32x8; 4], multiplier: f32, offset: f32) -> (U8x32, U16x16) {
    // Between 128 and 256 a unit has 16 bits of fraction. Boundaries are moved up by two of the last bit, so that what is
    // in doubt on both sides of one has a small fraction.
    let offset = F32x8::splat(avx2, 192.0 + offset + 2.0 / 65_536.0);
    let multiplier = F32x8::splat(avx2, multiplier);
    let (a, b): (U32x8, U32x8) = (a.mul_add(multiplier, offset).bitcast(), b.mul_add(multiplier, offset).bitcast());
    let (c, d): (U32x8, U32x8) = (c.mul_add(multiplier, offset).bitcast(), d.mul_add(multiplier, offset).bitcast());
    (lanes::weave_third_bytes(avx2, [a, b, c, d]), least_fractions([a, b, c, d]))
}

/// x · `multiplier` + 1/2 rounded down to woven bytes, for results in -128..128.
#[inline(always)]
fn round_to_bytes(avx2: Token, [a, b, c, d]: [F32x8; 4], multiplier: f32) -> (U8x32, U16x16) {
    // As in `round`, but with 15 bits of fraction, which a shift puts in the place of 16.
    let offset = F32x8::splat(avx2, 384.5 + 1.5 / 32_768.0);
    let multiplier = F32x8::splat(avx2, multiplier);
    let (a, b): (U32x8, U32x8) = (a.mul_add(multiplier, offset).bitcast(), b.mul_add(multiplier, offset).bitcast());
    let (c, d): (U32x8, U32x8) = (c.mul_add(multiplier, offset).bitcast(), d.mul_add(multiplier, offset).bitcast());
    let [a, b, c, d] = [a << 1, b << 1, c << 1, d << 1];
    (lanes::weave_third_bytes(avx2, [a, b, c, d]) ^ 0x80, least_fractions([a, b, c, d]))
}

/// The least of four vectors' 16-bit fractions. (What is above them is never small.)
#[inline(always)]
fn least_fractions([a, b, c, d]: [U32x8; 4]) -> U16x16 {
    let (a, b): (U16x16, U16x16) = (a.bitcast(), b.bitcast());
    let (c, d): (U16x16, U16x16) = (c.bitcast(), d.bitcast());
    a.min(b).min(c.min(d))
}

/// `d` of these overflows no half.
const LARGEST_OF_Q4_0: u32 = (127 + 18) << 23;
const LARGEST_OF_Q8_0: u32 = (127 + 22) << 23;

impl Chunk for Q40 {
    const BLOCK: usize = 32;

    /// Of negative weights, and of others, with the sign.
    type Maxima = [U32x8; 2];

    #[inline(always)]
    fn maxima<I: Input>(avx2: Token, block: &[u8]) -> [U32x8; 2] {
        // Of numbers with a sign the bits are greater than of those without; flipped, it is the other way round.
        [I::lane_maxima::<{ u32::MAX }, 0>(avx2, block), I::lane_maxima::<{ u32::MAX }, { 1 << 31 }>(avx2, block)]
    }

    #[inline(always)]
    fn scales<I: Input>(
        avx2: Token,
        maxima: &[[U32x8; 2]; 8],
        chunk: &[u8],
        scales: &mut [u8],
    ) -> Option<Factors> {
        let sign = U32x8::splat(avx2, 1 << 31);
        let [a, b, c, d, e, f, g, h] = *maxima;
        let negative = largest(avx2, [a[0], b[0], c[0], d[0], e[0], f[0], g[0], h[0]]).max(sign) ^ sign;
        let positive = largest(avx2, [a[1], b[1], c[1], d[1], e[1], f[1], g[1], h[1]]).max(sign) ^ sign;
        let magnitudes = negative.max(positive);
        if !are_ordinary(magnitudes, LARGEST_OF_Q4_0) {
            return None;
        }
        // The maximum's sign is that of the first element which has it. `d` has the opposite one, of a zero block, too.
        let mut signs = negative.simd_gt(positive).select(U32x8::splat(avx2, 0), sign);
        let both = (negative.simd_eq(positive) & magnitudes.simd_gt(0)).to_bitmask();
        if both != 0 {
            signs = first_signs::<I>(avx2, chunk, both, magnitudes, signs);
        }
        let d = (magnitudes.bitcast::<F32x8>() / 8.0).bitcast::<U32x8>() | signs;
        lanes::to_halves(avx2, d.bitcast()).store_slice(scales);
        let id = (reciprocals(avx2, 8.0, magnitudes).bitcast::<U32x8>() | signs).bitcast();
        Some(Factors { rough: id, exact: id })
    }

    #[inline(always)]
    fn guess(avx2: Token, x: [F32x8; 4], rough: f32) -> (U8x32, U16x16) {
        let (codes, fractions) = round(avx2, x, rough, 8.5);
        (codes.min(64 + 15) & 0xf, fractions)
    }

    #[inline(always)]
    fn exact(_: Token, x: f32x16<Token>, id: f32) -> u32x16<Token> {
        q4_0_codes(x, id)
    }
}

/// The signs of `d`, where blocks of `both` have their maximum with both signs.
#[cold]
#[inline(never)]
fn first_signs<I: Input>(avx2: Token, chunk: &[u8], both: u64, magnitudes: U32x8, signs: U32x8) -> U32x8 {
    let (magnitudes, mut signs): ([u32; 8], [u32; 8]) = (magnitudes.into(), signs.into());
    avx2.vectorize(
        #[inline(always)]
        || {
            for (index, block) in
                chunk.chunks_exact(32 * I::BYTES).enumerate().filter(|(index, _)| both >> index & 1 == 1)
            {
                for weights in block.chunks_exact(8 * I::BYTES).rev() {
                    let bits: [u32; 8] = I::load(avx2, weights).bitcast::<U32x8>().into();
                    for bits in bits.into_iter().rev().filter(|bits| bits & MAGNITUDE == magnitudes[index]) {
                        signs[index] = !bits & (1 << 31);
                    }
                }
            }
        },
    );
    signs.simd_into(avx2)
}

impl Chunk for Q80 {
    const BLOCK: usize = 32;

    type Maxima = U32x8;

    #[inline(always)]
    fn maxima<I: Input>(avx2: Token, block: &[u8]) -> U32x8 {
        I::lane_maxima::<MAGNITUDE, 0>(avx2, block)
    }

    #[inline(always)]
    fn scales<I: Input>(avx2: Token, maxima: &[U32x8; 8], _: &[u8], scales: &mut [u8]) -> Option<Factors> {
        let magnitudes = largest(avx2, *maxima);
        if !are_ordinary(magnitudes, LARGEST_OF_Q8_0) {
            return None;
        }
        let d = magnitudes.bitcast::<F32x8>() / 127.0;
        lanes::to_halves(avx2, d).store_slice(scales);
        Some(Factors { rough: reciprocals(avx2, 127.0, magnitudes), exact: reciprocals(avx2, 1.0, d.bitcast()) })
    }

    #[inline(always)]
    fn guess(avx2: Token, x: [F32x8; 4], rough: f32) -> (U8x32, U16x16) {
        round_to_bytes(avx2, x, rough)
    }

    #[inline(always)]
    fn exact(_: Token, x: f32x16<Token>, id: f32) -> u32x16<Token> {
        q8_0_codes(x, id)
    }
}
