//! How far values moved, block by block.

use fearless_simd::{Level, f32x16, f64x8, prelude::*};

use super::{LANES, dispatch};
use crate::verify::BlockFigures;

/// Fills `figures` with those of blocks of so many elements, of which the last may be short.
pub(crate) fn figures(level: Level, block: usize, weights: &[f32], values: &[f32], figures: &mut [BlockFigures]) {
    let done = dispatch!(level, simd => whole_blocks(simd, block, weights, values, figures));
    let (weights, values) = (&weights[done * block..], &values[done * block..]);
    for ((weights, values), figures) in weights.chunks(block).zip(values.chunks(block)).zip(&mut figures[done..]) {
        *figures = BlockFigures::new(weights, values);
    }
}

/// [`BlockFigures::new`] of the whole blocks, whose number it gives. Left to itself, the compiler pairs sums of a lane in
/// short vectors in place of lanes in long ones.
#[inline(always)]
fn whole_blocks<S: Simd>(
    simd: S,
    block: usize,
    weights: &[f32],
    values: &[f32],
    figures: &mut [BlockFigures],
) -> usize {
    let mut done = 0;
    if !block.is_multiple_of(LANES) {
        return done;
    }
    let blocks = weights.chunks_exact(block).zip(values.chunks_exact(block));
    for ((weights, values), figures) in blocks.zip(figures) {
        let zeros = f64x8::splat(simd, 0.0);
        let mut sums = [zeros; 3];
        for (weights, values) in weights.chunks_exact(LANES).zip(values.chunks_exact(LANES)) {
            let (x_low, x_high) = f32x16::from_slice(simd, weights).widen();
            let (value_low, value_high) = f32x16::from_slice(simd, values).widen();
            sums = add(add(sums, x_low, value_low), x_high, value_high);
        }
        let [max, squared_error, squared] = sums;
        *figures =
            BlockFigures::of_lanes(block as u64, max.reduce_max(), &squared_error.to_array(), &squared.to_array());
        done += 1;
    }
    done
}

#[inline(always)]
fn add<S: Simd>([max, squared_error, squared]: [f64x8<S>; 3], x: f64x8<S>, value: f64x8<S>) -> [f64x8<S>; 3] {
    let error = (x - value).abs();
    [max.max(error), squared_error + error * error, squared + x * x]
}
