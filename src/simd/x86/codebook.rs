//! `nf4` and `fp4`, whose codes are numbers of thresholds below a weight.

use fearless_simd::{f32x16, prelude::*, u32x16};

use super::super::codebook::{FP4_CODES, Fp4, Nf4, fp4_codes, nf4_codes};
use super::input::{Input, MAGNITUDE, largest};
use super::{Chunk, F32x8, Factors, LARGEST, Token, U8x16, U8x32, U16x16, U32x8, are_ordinary, lanes, reciprocals};
use crate::quant::{fp4, nf4};

/// Ascending thresholds by cells, intervals so short that none has two of them.
struct Cells<const N: usize> {
    /// How many thresholds lie in lower cells, and one.
    above: [u8; N],
    /// Where in a cell its threshold is, in 65,536ths of the cell, rounded down and less 2; a byte each.
    low: [u8; N],
    high: [u8; N],
}

impl<const N: usize> Cells<N> {
    /// The integer part of x · [`CELLS_BY_ONE`] + `offset` is the cell of x.
    const fn new(thresholds: &[f32], offset: f32) -> Self {
        let mut cells = Self { above: [1; N], low: [0xff; N], high: [0xff; N] };
        let mut i = 0;
        while i < thresholds.len() {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "less than N cells")]
            let position = ((thresholds[i] as f64 * CELLS_BY_ONE as f64 + offset as f64) * 65_536.0) as usize;
            let (cell, fraction) = (position >> 16, position & 0xffff);
            assert!(fraction > 8 && fraction < 65_528, "a threshold in doubt has two cells");
            let [low, high, ..] = (fraction - 2).to_le_bytes();
            assert!(cells.low[cell] == 0xff && cells.high[cell] == 0xff, "two thresholds in one cell");
            (cells.low[cell], cells.high[cell]) = (low, high);
            let mut above = cell + 1;
            while above < N {
                cells.above[above] += 1;
                above += 1;
            }
            i += 1;
        }
        cells
    }
}

/// Cells from 0 to 1; a half, so that no block's maximum is at the end of one.
const CELLS_BY_ONE: f32 = 15.5;
/// Cell 0 of `nf4` is that of -1.
const NF4_OFFSET: f32 = 16.0;
static NF4: Cells<32> = Cells::new(&nf4::thresholds(), NF4_OFFSET);
static FP4: Cells<16> = Cells::new(&fp4::THRESHOLDS, 0.0);

/// Stores magnitudes as scales.
#[inline(always)]
fn absmax_scales(avx2: Token, maxima: &[U32x8; 8], scales: &mut [u8]) -> Option<Factors> {
    let magnitudes = largest(avx2, *maxima);
    if !are_ordinary(magnitudes, LARGEST) {
        return None;
    }
    magnitudes.bitcast::<U8x32>().store_slice(scales);
    Some(Factors { rough: reciprocals(avx2, CELLS_BY_ONE, magnitudes), exact: reciprocals(avx2, 1.0, magnitudes) })
}

/// Positions in cells: x · `multiplier` + `offset`, for results in 0..32, as fixed-point numbers with 16 bits of fraction
/// and something in the bits from 22 on.
#[inline(always)]
fn positions(avx2: Token, [a, b, c, d]: [F32x8; 4], multiplier: f32, offset: f32) -> [U32x8; 4] {
    let (multiplier, offset) = (F32x8::splat(avx2, multiplier), F32x8::splat(avx2, 192.0 + offset));
    [
        a.mul_add(multiplier, offset).bitcast(),
        b.mul_add(multiplier, offset).bitcast(),
        c.mul_add(multiplier, offset).bitcast(),
        d.mul_add(multiplier, offset).bitcast(),
    ]
}

/// Woven numbers of thresholds exceeded, from what stands in the weights' cells.
#[inline(always)]
fn count(avx2: Token, [a, b, c, d]: [U32x8; 4], above: U8x32, low: U8x32, high: U8x32) -> (U8x32, U16x16) {
    let (first, second) = (lanes::lower_words(avx2, a, b), lanes::lower_words(avx2, c, d));
    // Even bytes belong to the first two vectors.
    let (low, high): (U16x16, U16x16) = (low.bitcast(), high.bitcast());
    let threshold_first: U16x16 = lanes::lower_bytes(avx2, low, high).bitcast();
    let threshold_second: U16x16 = lanes::upper_bytes(avx2, low, high).bitcast();
    let distances = (first - threshold_first).min(second - threshold_second);
    // A mask's lanes are 0 and -1. (Comparing this way round takes one instruction less.)
    let first: U16x16 = first.simd_le(threshold_first).to_vector().bitcast();
    let second: U16x16 = second.simd_le(threshold_second).to_vector().bitcast();
    (above + lanes::lower_bytes(avx2, first, second), distances)
}

#[inline(always)]
fn table<const N: usize>(avx2: Token, bytes: &[u8; N], first: usize) -> U8x32 {
    U8x32::block_splat(U8x16::from_slice(avx2, &bytes[first..first + 16]))
}

#[inline(always)]
fn look_up_32(avx2: Token, bytes: &[u8; 32], index: U8x32) -> U8x32 {
    let low = table(avx2, bytes, 0).swizzle_dyn_within_blocks(index);
    let high = table(avx2, bytes, 16).swizzle_dyn_within_blocks(index);
    lanes::by_bit_4(avx2, index, low, high)
}

impl Chunk for Nf4 {
    const BLOCK: usize = 64;

    type Maxima = U32x8;

    #[inline(always)]
    fn maxima<I: Input>(avx2: Token, block: &[u8]) -> U32x8 {
        I::lane_maxima::<MAGNITUDE, 0>(avx2, block)
    }

    #[inline(always)]
    fn scales<I: Input>(avx2: Token, maxima: &[U32x8; 8], _: &[u8], scales: &mut [u8]) -> Option<Factors> {
        absmax_scales(avx2, maxima, scales)
    }

    #[inline(always)]
    fn guess(avx2: Token, x: [F32x8; 4], rough: f32) -> (U8x32, U16x16) {
        let positions = positions(avx2, x, rough, NF4_OFFSET);
        // 64 and the cell
        let cell = lanes::weave_third_bytes(avx2, positions);
        let above = look_up_32(avx2, &NF4.above, cell);
        count(avx2, positions, above, look_up_32(avx2, &NF4.low, cell), look_up_32(avx2, &NF4.high, cell))
    }

    #[inline(always)]
    fn exact(avx2: Token, x: f32x16<Token>, reciprocal: f32) -> u32x16<Token> {
        nf4_codes(avx2, x, reciprocal)
    }
}

impl Chunk for Fp4 {
    const BLOCK: usize = 64;

    type Maxima = U32x8;

    #[inline(always)]
    fn maxima<I: Input>(avx2: Token, block: &[u8]) -> U32x8 {
        I::lane_maxima::<MAGNITUDE, 0>(avx2, block)
    }

    #[inline(always)]
    fn scales<I: Input>(avx2: Token, maxima: &[U32x8; 8], _: &[u8], scales: &mut [u8]) -> Option<Factors> {
        absmax_scales(avx2, maxima, scales)
    }

    #[inline(always)]
    fn guess(avx2: Token, x: [F32x8; 4], rough: f32) -> (U8x32, U16x16) {
        let [a, b, c, d] = x;
        let positions = positions(avx2, [a.abs(), b.abs(), c.abs(), d.abs()], rough, 0.0);
        // 64 and the cell
        let cell = lanes::weave_third_bytes(avx2, positions);
        let above = table(avx2, &FP4.above, 0).swizzle_dyn_within_blocks(cell);
        let low = table(avx2, &FP4.low, 0).swizzle_dyn_within_blocks(cell);
        let high = table(avx2, &FP4.high, 0).swizzle_dyn_within_blocks(cell);
        let (level, distances) = count(avx2, positions, above, low, high);
        let code = table(avx2, &FP4_CODES, 0).swizzle_dyn_within_blocks(level);
        // 8 where x < 0, which -0.0 is not.
        let negative: [U32x8; 4] = [is_negative(a), is_negative(b), is_negative(c), is_negative(d)];
        (code | (lanes::weave_low_bytes(avx2, negative) & 8), distances)
    }

    #[inline(always)]
    fn exact(avx2: Token, x: f32x16<Token>, reciprocal: f32) -> u32x16<Token> {
        fp4_codes(avx2, x, reciprocal)
    }
}

#[inline(always)]
fn is_negative(x: F32x8) -> U32x8 {
    x.simd_lt(0.0).to_vector().bitcast()
}
