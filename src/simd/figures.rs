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
        *figures = BlockFigures::of_lanes(block as u64, max.reduce_max(), squared_error.to_array(), squared.to_array());
        done += 1;
    }
    done
}

#[inline(always)]
fn add<S: Simd>([max, squared_error, squared]: [f64x8<S>; 3], x: f64x8<S>, value: f64x8<S>) -> [f64x8<S>; 3] {
    let error = (x - value).abs();
    [max.max(error), squared_error + error * error, squared + x * x]
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
