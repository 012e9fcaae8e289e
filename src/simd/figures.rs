//! How far values moved, a stretch at a time.

use fearless_simd::{Level, f32x8, f64x4, prelude::*};

use super::dispatch;
use crate::verify::{LANES, PIECE, StretchFigures, UNIT};

/// [`StretchFigures::new`].
pub(crate) fn figures(level: Level, weights: &[f32], values: &[f32]) -> StretchFigures {
    let mut figures = None;
    if weights.len().is_multiple_of(PIECE) {
        dispatch!(level, simd => whole_pieces(simd, weights, values, &mut figures));
    }
    figures.unwrap_or_else(|| StretchFigures::new(weights, values))
}

/// Of whole pieces; gives how many there were. Left to itself, the compiler pairs sums of a lane in short vectors in place of lanes
/// in long ones.
#[inline(always)]
fn whole_pieces<S: Simd>(simd: S, weights: &[f32], values: &[f32], figures: &mut Option<StretchFigures>) -> usize {
    let mut squared_error = [f64x4::splat(simd, 0.0); 2];
    let mut squared = squared_error;
    let (mut max, mut worst, mut at) = (0.0, 0, 0);
    for (weights, values) in weights.chunks_exact(PIECE).zip(values.chunks_exact(PIECE)) {
        let mut piece_error = f32x8::splat(simd, 0.0);
        let mut piece = piece_error;
        for (weights, values) in weights.chunks_exact(UNIT).zip(values.chunks_exact(UNIT)) {
            let mut unit_max = f32x8::splat(simd, 0.0);
            for (weights, values) in weights.chunks_exact(LANES).zip(values.chunks_exact(LANES)) {
                let x = f32x8::from_slice(simd, weights);
                let error = x - f32x8::from_slice(simd, values);
                unit_max = unit_max.max(error.abs());
                // Not fused, which not every processor can.
                piece_error += error * error;
                piece += x * x;
            }
            let unit_max = unit_max.reduce_max();
            (max, worst) = if unit_max > max { (unit_max, at) } else { (max, worst) };
            at += UNIT;
        }
        squared_error = add(squared_error, piece_error);
        squared = add(squared, piece);
    }
    *figures = Some(StretchFigures::of_sums((weights, values), (max, worst), sum(squared_error), sum(squared)));
    at / PIECE
}

#[inline(always)]
fn add<S: Simd>([low, high]: [f64x4<S>; 2], piece: f32x8<S>) -> [f64x4<S>; 2] {
    let (a, b) = piece.widen();
    [low + a, high + b]
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
    use crate::verify::STRETCH;

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
        for n in [0, 1, 31, 32, 33, 63, 64, 65, 128, 1000, 1024, STRETCH] {
            for _ in 0..20 {
                let mut weights: Vec<f32> = (0..n).map(|_| next()).collect();
                let mut values: Vec<f32> = weights.iter().map(|x| x + next() / 8.0).collect();
                // The largest error twice: the first of them counts.
                for at in [n / 3, n / 2].into_iter().filter(|&at| at < n) {
                    (weights[at], values[at]) = (1.0, 4.0);
                }
                let expected = StretchFigures::new(&weights, &values);
                for level in [best].into_iter().chain(lower.into_iter().flatten()) {
                    assert_eq!(figures(level, &weights, &values), expected, "{n} elements, {level:?}");
                }
            }
        }
    }
}
