//! How far values moved, block by block.

use fearless_simd::{Level, prelude::*};

use super::dispatch;
use crate::verify::BlockFigures;

/// Fills `figures` with those of blocks of so many elements, of which the last may be short.
pub(crate) fn figures(level: Level, block: usize, weights: &[f32], values: &[f32], figures: &mut [BlockFigures]) {
    let done = dispatch!(level, simd => {
        let _ = simd;
        each(block, weights, values, figures);
        figures.len()
    });
    if done == 0 {
        each(block, weights, values, figures);
    }
}

#[inline(always)]
fn each(block: usize, weights: &[f32], values: &[f32], figures: &mut [BlockFigures]) {
    for ((weights, values), figures) in weights.chunks(block).zip(values.chunks(block)).zip(figures) {
        *figures = BlockFigures::new(weights, values);
    }
}
