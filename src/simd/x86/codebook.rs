//! `nf4` and `fp4`, whose codes are numbers of thresholds below a weight.

use fearless_simd::{f32x16, prelude::*, u8x16, u8x32, u16x32, u32x16};

use super::super::codebook::{FP4_CODES, Fp4, Nf4, fp4_codes, nf4_codes};
use super::cells::Cells;
use super::input::{Input, Maxima, largest};
use super::lanes::Lanes;
use super::{Chunk, Factors, LARGEST, are_ordinary, reciprocals};
use crate::quant::{fp4, nf4};

/// Cells from 0 to 1; a half, so that no block's maximum is at the end of one.
const CELLS_BY_ONE: f32 = 15.5;
/// Cell 0 of `nf4` is that of -1.
const NF4_OFFSET: f32 = 16.0;
static NF4: Cells<32> = Cells::new(&nf4::thresholds(), CELLS_BY_ONE, NF4_OFFSET);
static FP4: Cells<16> = Cells::new(&fp4::THRESHOLDS, CELLS_BY_ONE, 0.0);

/// Stores magnitudes as scales.
#[inline(always)]
fn absmax_scales<S: Lanes>(simd: S, maxima: &Maxima<S>, scales: &mut [u8]) -> Option<Factors<S>> {
    let magnitudes = largest(simd, maxima, 0);
    if !are_ordinary(magnitudes, LARGEST) {
        return None;
    }
    magnitudes.bitcast::<u8x32<S>>().store_slice(scales);
    Some(Factors { rough: reciprocals(simd, CELLS_BY_ONE, magnitudes), exact: reciprocals(simd, 1.0, magnitudes) })
}

/// Positions in cells: x · `multiplier` + `offset`, for results in 0..32, as fixed-point numbers with 16 bits of fraction
/// and something in the bits from 22 on.
#[inline(always)]
fn positions<S: Lanes>(simd: S, [a, b]: [f32x16<S>; 2], multiplier: f32, offset: f32) -> [u32x16<S>; 2] {
    let (multiplier, offset) = (f32x16::splat(simd, multiplier), f32x16::splat(simd, 192.0 + offset));
    [a.mul_add(multiplier, offset).bitcast(), b.mul_add(multiplier, offset).bitcast()]
}

impl Chunk for Nf4 {
    const BLOCK: usize = 64;

    #[inline(always)]
    fn scales<S: Lanes, I: Input>(simd: S, maxima: &Maxima<S>, _: &[u8], scales: &mut [u8]) -> Option<Factors<S>> {
        absmax_scales(simd, maxima, scales)
    }

    #[inline(always)]
    fn guess<S: Lanes>(simd: S, x: [f32x16<S>; 2], rough: f32) -> (u8x32<S>, u16x32<S>) {
        simd.count(positions(simd, x, rough, NF4_OFFSET), &NF4)
    }

    #[inline(always)]
    fn exact<S: Lanes>(simd: S, x: f32x16<S>, reciprocal: f32) -> u32x16<S> {
        nf4_codes(simd, x, reciprocal)
    }
}

impl Chunk for Fp4 {
    const BLOCK: usize = 64;

    #[inline(always)]
    fn scales<S: Lanes, I: Input>(simd: S, maxima: &Maxima<S>, _: &[u8], scales: &mut [u8]) -> Option<Factors<S>> {
        absmax_scales(simd, maxima, scales)
    }

    #[inline(always)]
    fn guess<S: Lanes>(simd: S, [a, b]: [f32x16<S>; 2], rough: f32) -> (u8x32<S>, u16x32<S>) {
        let (level, distances) = simd.count(positions(simd, [a.abs(), b.abs()], rough, 0.0), &FP4);
        let codes = u8x32::block_splat(u8x16::from_slice(simd, &FP4_CODES));
        // 8 where x < 0, which -0.0 is not.
        let negative = simd.mask_bytes([a.simd_lt(0.0), b.simd_lt(0.0)]);
        (codes.swizzle_dyn_within_blocks(level) | (negative & 8), distances)
    }

    #[inline(always)]
    fn exact<S: Lanes>(simd: S, x: f32x16<S>, reciprocal: f32) -> u32x16<S> {
        fp4_codes(simd, x, reciprocal)
    }
}
