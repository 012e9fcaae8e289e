//! `sym4`, `sym8`, `q4_0` and `q8_0`, whose codes are quotients rounded to integers.

use fearless_simd::{f32x8, f32x16, prelude::*, u8x32, u16x32, u32x8, u32x16};

use super::super::gguf::{Q40, Q80, q4_0_codes, q8_0_codes};
use super::super::symmetric::{Sym4, Sym8, codes};
use super::input::{Input, MAGNITUDE, Maxima, largest};
use super::lanes::Lanes;
use super::{Chunk, Factors, LARGEST, are_ordinary, reciprocals};

impl Chunk for Sym4 {
    const BLOCK: usize = 64;

    #[inline(always)]
    fn scales<S: Lanes, I: Input>(simd: S, maxima: &Maxima<S>, _: &[u8], scales: &mut [u8]) -> Option<Factors<S>> {
        symmetric_scales(simd, 7.0, maxima, scales)
    }

    #[inline(always)]
    fn guess<S: Lanes>(simd: S, x: [f32x16<S>; 2], rough: f32) -> (u8x32<S>, u16x32<S>) {
        round(simd, x, rough, 0.5)
    }

    #[inline(always)]
    fn exact<S: Lanes>(_: S, x: f32x16<S>, scale: f32) -> u32x16<S> {
        codes(x, scale)
    }
}

impl Chunk for Sym8 {
    const BLOCK: usize = 64;

    #[inline(always)]
    fn scales<S: Lanes, I: Input>(simd: S, maxima: &Maxima<S>, _: &[u8], scales: &mut [u8]) -> Option<Factors<S>> {
        symmetric_scales(simd, 127.0, maxima, scales)
    }

    #[inline(always)]
    fn guess<S: Lanes>(simd: S, x: [f32x16<S>; 2], rough: f32) -> (u8x32<S>, u16x32<S>) {
        round_to_bytes(simd, x, rough)
    }

    #[inline(always)]
    fn exact<S: Lanes>(_: S, x: f32x16<S>, scale: f32) -> u32x16<S> {
        codes(x, scale)
    }
}

/// Stores scales, the largest |x| by `k`.
#[inline(always)]
fn symmetric_scales<S: Lanes>(simd: S, k: f32, maxima: &Maxima<S>, scales: &mut [u8]) -> Option<Factors<S>> {
    let magnitudes = largest(simd, maxima, 0);
    if !are_ordinary(magnitudes, LARGEST) {
        return None;
    }
    let quotients = magnitudes.bitcast::<f32x8<S>>() / k;
    quotients.bitcast::<u8x32<S>>().store_slice(scales);
    Some(Factors { rough: reciprocals(simd, k, magnitudes), exact: quotients })
}

/// x · `multiplier` + `offset` rounded down, as woven bytes whose low five bits are the result's, for results in -32..32.
#[inline(always)]
fn round<S: Lanes>(simd: S, [a, b]: [f32x16<S>; 2], multiplier: f32, offset: f32) -> (u8x32<S>, u16x32<S>) {
    // Between 128 and 256 a unit has 16 bits of fraction. Boundaries are moved up by two of the last bit, so that what is
    // in doubt on both sides of one has a small fraction.
    let offset = f32x16::splat(simd, 192.0 + offset + 2.0 / 65_536.0);
    let multiplier = f32x16::splat(simd, multiplier);
    let sums: [u32x16<S>; 2] = [a.mul_add(multiplier, offset).bitcast(), b.mul_add(multiplier, offset).bitcast()];
    (simd.third_bytes(sums), least_fractions(sums))
}

/// x · `multiplier` + 1/2 rounded down to woven bytes, for results in -128..128.
#[inline(always)]
fn round_to_bytes<S: Lanes>(simd: S, [a, b]: [f32x16<S>; 2], multiplier: f32) -> (u8x32<S>, u16x32<S>) {
    // As in `round`, but with 15 bits of fraction, which a shift puts in the place of 16.
    let offset = f32x16::splat(simd, 384.5 + 1.5 / 32_768.0);
    let multiplier = f32x16::splat(simd, multiplier);
    let sums = [a.mul_add(multiplier, offset).bitcast(), b.mul_add(multiplier, offset).bitcast()];
    let [a, b]: [u32x16<S>; 2] = sums;
    let sums = [a << 1, b << 1];
    (simd.third_bytes(sums) ^ 0x80, least_fractions(sums))
}

/// The lesser of two vectors' 16-bit fractions. (What is above them is never small.)
#[inline(always)]
fn least_fractions<S: Lanes>([a, b]: [u32x16<S>; 2]) -> u16x32<S> {
    let (a, b): (u16x32<S>, u16x32<S>) = (a.bitcast(), b.bitcast());
    a.min(b)
}

/// `d` of these overflows no half.
const LARGEST_OF_Q4_0: u32 = (127 + 18) << 23;
const LARGEST_OF_Q8_0: u32 = (127 + 22) << 23;

impl Chunk for Q40 {
    const BLOCK: usize = 32;
    const SIGNS_COUNT: bool = true;

    #[inline(always)]
    fn scales<S: Lanes, I: Input>(simd: S, maxima: &Maxima<S>, chunk: &[u8], scales: &mut [u8]) -> Option<Factors<S>> {
        // Of numbers with a sign the bits are greater than of those without; flipped, it is the other way round.
        let sign = u32x8::splat(simd, 1 << 31);
        let negative = largest(simd, maxima, 0).max(sign) ^ sign;
        let positive = largest(simd, maxima, 1).max(sign) ^ sign;
        let magnitudes = negative.max(positive);
        if !are_ordinary(magnitudes, LARGEST_OF_Q4_0) {
            return None;
        }
        // The maximum's sign is that of the first element which has it. `d` has the opposite one, of a zero block, too.
        let mut signs = negative.simd_gt(positive).select(u32x8::splat(simd, 0), sign);
        let both = (negative.simd_eq(positive) & magnitudes.simd_gt(0)).to_bitmask();
        if both != 0 {
            signs = first_signs::<S, I>(simd, chunk, both, magnitudes, signs);
        }
        let d = (magnitudes.bitcast::<f32x8<S>>() / 8.0).bitcast::<u32x8<S>>() | signs;
        simd.narrow_f16(d.bitcast()).store_slice(scales);
        let id = (reciprocals(simd, 8.0, magnitudes).bitcast::<u32x8<S>>() | signs).bitcast();
        Some(Factors { rough: id, exact: id })
    }

    #[inline(always)]
    fn guess<S: Lanes>(simd: S, x: [f32x16<S>; 2], rough: f32) -> (u8x32<S>, u16x32<S>) {
        let (codes, fractions) = round(simd, x, rough, 8.5);
        (codes.min(64 + 15) & 0xf, fractions)
    }

    #[inline(always)]
    fn exact<S: Lanes>(_: S, x: f32x16<S>, id: f32) -> u32x16<S> {
        q4_0_codes(x, id)
    }
}

/// The signs of `d`, where blocks of `both` have their maximum with both signs.
#[cold]
#[inline(never)]
fn first_signs<S: Lanes, I: Input>(
    simd: S,
    chunk: &[u8],
    both: u64,
    magnitudes: u32x8<S>,
    signs: u32x8<S>,
) -> u32x8<S> {
    let (magnitudes, mut signs): ([u32; 8], [u32; 8]) = (magnitudes.into(), signs.into());
    simd.vectorize(
        #[inline(always)]
        || {
            for (index, block) in
                chunk.chunks_exact(32 * I::BYTES).enumerate().filter(|(index, _)| both >> index & 1 == 1)
            {
                for weights in block.chunks_exact(16 * I::BYTES).rev() {
                    let bits: [u32; 16] = I::load(simd, weights).bitcast::<u32x16<S>>().into();
                    for bits in bits.into_iter().rev().filter(|bits| bits & MAGNITUDE == magnitudes[index]) {
                        signs[index] = !bits & (1 << 31);
                    }
                }
            }
        },
    );
    signs.simd_into(simd)
}

impl Chunk for Q80 {
    const BLOCK: usize = 32;

    #[inline(always)]
    fn scales<S: Lanes, I: Input>(simd: S, maxima: &Maxima<S>, _: &[u8], scales: &mut [u8]) -> Option<Factors<S>> {
        let magnitudes = largest(simd, maxima, 0);
        if !are_ordinary(magnitudes, LARGEST_OF_Q8_0) {
            return None;
        }
        let d = magnitudes.bitcast::<f32x8<S>>() / 127.0;
        simd.narrow_f16(d).store_slice(scales);
        Some(Factors { rough: reciprocals(simd, 127.0, magnitudes), exact: reciprocals(simd, 1.0, d.bitcast()) })
    }

    #[inline(always)]
    fn guess<S: Lanes>(simd: S, x: [f32x16<S>; 2], rough: f32) -> (u8x32<S>, u16x32<S>) {
        round_to_bytes(simd, x, rough)
    }

    #[inline(always)]
    fn exact<S: Lanes>(_: S, x: f32x16<S>, id: f32) -> u32x16<S> {
        q8_0_codes(x, id)
    }
}
