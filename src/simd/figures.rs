//! How far values moved, block by block.

use fearless_simd::{Level, f32x8, f64x4, prelude::*};

use super::dispatch;
use crate::verify::{BlockFigures, LANES};

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
        let mut max = f32x8::splat(simd, 0.0);
        let mut squared_error = [f64x4::splat(simd, 0.0); 2];
        let mut squared = squared_error;
        for (weights, values) in weights.chunks_exact(LANES).zip(values.chunks_exact(LANES)) {
            let x = f32x8::from_slice(simd, weights);
            let error = x - f32x8::from_slice(simd, values);
            max = max.max(error.abs());
            squared_error = add_squares(squared_error, error);
            squared = add_squares(squared, x);
        }
        *figures = BlockFigures {
            n_elems: block as u64,
            max_abs_error: f64::from(max.reduce_max()),
            squared_error: sum(squared_error),
            squared: sum(squared),
        };
        done += 1;
    }
    done
}

/// A square of an `f32` fits an `f64`, so fused or not this rounds once.
#[inline(always)]
fn add_squares<S: Simd>([low, high]: [f64x4<S>; 2], values: f32x8<S>) -> [f64x4<S>; 2] {
    let (a, b) = values.widen();
    [a.mul_add(a, low), b.mul_add(b, high)]
}

/// Adds halves until one lane is left.
#[inline(always)]
fn sum<S: Simd>([low, high]: [f64x4<S>; 2]) -> f64 {
    let (a, b) = (low + high).split();
    let [a, b]: [f64; 2] = (a + b).into();
    a + b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix;

    /// Errors and weights from 2^-15 to 2 with all their bits: their squares don't fit a sum, so that another order would differ.
    #[test]
    fn every_instruction_set_gives_the_same_figures_to_the_bit() {
        let best = Level::new();
        #[cfg(target_arch = "x86_64")]
        let lower = [best.as_avx2().map(Level::Avx2), best.as_sse2().map(Level::Sse2)];
        #[cfg(not(target_arch = "x86_64"))]
        let lower: [Option<Level>; 0] = [];
        let mut random = SplitMix::new(17);
        let mut next = || {
            let [a, b, c, sign, ..] = random.next().to_le_bytes();
            f32::from_le_bytes([a, b, c, 0x38 | (sign & 0x87)])
        };
        for block in [32, 64] {
            for n in [1, block - 1, block, block + 1, 20 * block, 20 * block + 9] {
                let weights: Vec<f32> = (0..n).map(|_| next()).collect();
                let values: Vec<f32> = weights.iter().map(|x| x + next() / 8.0).collect();
                let blocks = weights.chunks(block).zip(values.chunks(block));
                let expected: Vec<_> = blocks.map(|(weights, values)| BlockFigures::new(weights, values)).collect();
                for level in [best].into_iter().chain(lower.into_iter().flatten()) {
                    let mut actual = vec![BlockFigures::default(); expected.len()];
                    figures(level, block, &weights, &values, &mut actual);
                    assert_eq!(actual, expected, "{n} elements in blocks of {block}, {level:?}");
                }
            }
        }
    }
}
