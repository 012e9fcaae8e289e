//! How far values moved.

use std::ops::Range;

use fearless_simd::Level;

use crate::dtype::{Dtype, Weights};
use crate::simd;

/// How far dequantized values are from the originals, over the elements that were looked at. Means are right to six digits, and
/// the same to the bit on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ErrorFigures {
    /// Elements looked at.
    pub n_elems: u64,
    /// Largest |x − x̂|, each difference rounded to `f32`, as all figures have it: most of them fit.
    pub max_abs_error: f64,
    /// The block that has it.
    pub worst_block: u64,
    sum_squared_error: f64,
    sum_squared: f64,
}

impl ErrorFigures {
    /// Mean squared error.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    pub fn mse(&self) -> f64 {
        self.sum_squared_error / self.n_elems.max(1) as f64
    }

    /// Signal to quantization noise in decibels; `None` where there is no error at all.
    #[must_use]
    pub fn sqnr_db(&self) -> Option<f64> {
        (self.sum_squared_error > 0.0).then(|| 10.0 * (self.sum_squared / self.sum_squared_error).log10())
    }

    /// All of it, to the bit.
    pub(crate) fn to_bits(self) -> [u64; 5] {
        let Self { n_elems, max_abs_error, worst_block, sum_squared_error, sum_squared } = self;
        [n_elems, max_abs_error.to_bits(), worst_block, sum_squared_error.to_bits(), sum_squared.to_bits()]
    }

    /// What [`Self::to_bits`] gave.
    pub(crate) fn from_bits([n_elems, max, worst_block, error, squared]: [u64; 5]) -> Self {
        let [max_abs_error, sum_squared_error, sum_squared] = [max, error, squared].map(f64::from_bits);
        Self { n_elems, max_abs_error, worst_block, sum_squared_error, sum_squared }
    }

    /// The figures of several tensors together; the worst block is that of the tensor with the largest error.
    #[must_use]
    pub fn total<'a>(of: impl IntoIterator<Item = &'a Self>) -> Self {
        of.into_iter().fold(Self::default(), |mut total, one| {
            if one.max_abs_error > total.max_abs_error {
                (total.max_abs_error, total.worst_block) = (one.max_abs_error, one.worst_block);
            }
            total.n_elems += one.n_elems;
            total.sum_squared_error += one.sum_squared_error;
            total.sum_squared += one.sum_squared;
            total
        })
    }

    /// Adds weights that come back as they were.
    pub(crate) fn add_exact(&mut self, weights: Weights<'_>) {
        self.n_elems += weights.len() as u64;
        self.sum_squared += (0..weights.len()).map(|index| f64::from(weights.get(index)).powi(2)).sum::<f64>();
    }

    /// Adds whole blocks of so many elements, given their weights and the values that they come back as; the first has this number.
    pub(crate) fn add_values(&mut self, (first_block, block): (u64, usize), weights: Weights<'_>, values: &[f32]) {
        for (start, figures) in (0..).step_by(STRETCH).zip(stretches(weights, values)) {
            self.add(first_block + start / block as u64 + figures.worst_block(block), &figures);
        }
    }

    /// Adds a stretch's figures, whose largest error is in this block. Stretches are added in order.
    pub(crate) fn add(&mut self, worst_block: u64, figures: &StretchFigures) {
        let max_abs_error = f64::from(figures.max_abs_error);
        if max_abs_error > self.max_abs_error {
            (self.max_abs_error, self.worst_block) = (max_abs_error, worst_block);
        }
        self.n_elems += u64::from(figures.n_elems);
        self.sum_squared_error += figures.squared_error;
        self.sum_squared += figures.squared;
    }
}

/// Elements whose figures are taken together: whole blocks of every format. A tensor's stretches begin at multiples of it, so that
/// sums don't depend on how it was cut into chunks and shared among threads.
pub(crate) const STRETCH: usize = 1 << 11;

/// Elements of a stretch whose sums are taken in `f32` before they are added in `f64`.
pub(crate) const PIECE: usize = 64;

/// Elements among which the largest error is looked for: of no two blocks.
pub(crate) const UNIT: usize = 32;

/// Lanes that sums are taken in, which no additions in a row hold up.
pub(crate) const LANES: usize = 8;

/// Sums of squares that stay as they are. Beyond it an `f32` may have lost squares that are too small for it, or has none for one that
/// is too large.
const FITTING: Range<f64> = 1e-26..1e30;

/// What a stretch adds to the figures.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct StretchFigures {
    n_elems: u32,
    max_abs_error: f32,
    /// First element of the unit that has it.
    worst: u32,
    squared_error: f64,
    squared: f64,
}

/// The figures of one stretch after another.
pub(crate) fn stretches<'a>(weights: Weights<'a>, values: &'a [f32]) -> impl Iterator<Item = StretchFigures> + 'a {
    let level = Level::new();
    (0..)
        .step_by(STRETCH)
        .zip(values.chunks(STRETCH))
        .map(move |(start, values)| StretchFigures::of(level, weights.slice(start..start + values.len()), values))
}

impl StretchFigures {
    /// Of at most a stretch.
    pub(crate) fn of(level: Level, weights: Weights<'_>, values: &[f32]) -> Self {
        if let (Dtype::F32, Ok(weights)) = (weights.dtype(), bytemuck::try_cast_slice(weights.bytes())) {
            return simd::figures(level, weights, values);
        }
        let mut wide = [0.0; STRETCH];
        let wide = &mut wide[..values.len()];
        weights.widen_into(wide);
        simd::figures(level, wide, values)
    }

    /// Sums are to six digits, and always taken in the same order: this one.
    pub(crate) fn new(weights: &[f32], values: &[f32]) -> Self {
        let (mut max, mut worst) = (0.0_f32, 0);
        for (unit, (weights, values)) in weights.chunks(UNIT).zip(values.chunks(UNIT)).enumerate() {
            for (x, value) in weights.iter().zip(values) {
                let error = (x - value).abs();
                (max, worst) = if error > max { (error, unit * UNIT) } else { (max, worst) };
            }
        }
        let (mut squared_error, mut squared) = ([0.0_f64; LANES], [0.0_f64; LANES]);
        for (weights, values) in weights.chunks(PIECE).zip(values.chunks(PIECE)) {
            let (mut piece_error, mut piece) = ([0.0_f32; LANES], [0.0_f32; LANES]);
            for (at, (x, value)) in weights.iter().zip(values).enumerate() {
                let error = x - value;
                piece_error[at % LANES] += error * error;
                piece[at % LANES] += x * x;
            }
            for lane in 0..LANES {
                squared_error[lane] += f64::from(piece_error[lane]);
                squared[lane] += f64::from(piece[lane]);
            }
        }
        // Halves are added until one lane is left, as vectors do it.
        for half in [4, 2, 1] {
            for lane in 0..half {
                squared_error[lane] += squared_error[lane + half];
                squared[lane] += squared[lane + half];
            }
        }
        Self::of_sums((weights, values), (max, worst), squared_error[0], squared[0])
    }

    /// With sums in `f64` alone where those with `f32` in them may not do.
    pub(crate) fn of_sums(
        (weights, values): (&[f32], &[f32]),
        (max_abs_error, worst): (f32, usize),
        squared_error: f64,
        squared: f64,
    ) -> Self {
        // No error at all is none that was lost.
        let fits = (FITTING.contains(&squared_error) || max_abs_error == 0.0) && FITTING.contains(&squared);
        let (squared_error, squared) = if fits { (squared_error, squared) } else { wide_sums(weights, values) };
        #[expect(clippy::cast_possible_truncation, reason = "a stretch is short")]
        Self { n_elems: weights.len() as u32, max_abs_error, worst: worst as u32, squared_error, squared }
    }

    /// Where in the stretch its largest error is, counted in blocks of so many elements.
    pub(crate) fn worst_block(&self, block: usize) -> u64 {
        u64::from(self.worst) / block as u64
    }
}

/// Sums of the squares of errors and of weights.
#[cold]
fn wide_sums(weights: &[f32], values: &[f32]) -> (f64, f64) {
    let squares = weights.iter().zip(values).map(|(x, value)| (f64::from(x - value).powi(2), f64::from(*x).powi(2)));
    squares.fold((0.0, 0.0), |(errors, all), (error, one)| (errors + error, all + one))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Within a millionth of what sums in `f64` give, however large or small the weights are, or none at all.
    #[test]
    fn sums_are_right_whatever_the_weights() {
        for exponent in [-149, -120, -80, -60, -40, -20, 0, 20, 50, 60, 100, 126] {
            let of = |i: u16| (f64::from(i % 97) - 48.0) / 31.0 * 2.0_f64.powi(exponent);
            #[expect(clippy::cast_possible_truncation, reason = "made to be")]
            let weights: Vec<f32> = (0..2048).map(|i| of(i) as f32).collect();
            for moved in [0.0, 0.015_625, 1.0] {
                let values: Vec<f32> = weights.iter().map(|x| x * (1.0 - moved)).collect();
                let figures = StretchFigures::new(&weights, &values);
                let (squared_error, squared) = wide_sums(&weights, &values);
                for (actual, expected) in [(figures.squared_error, squared_error), (figures.squared, squared)] {
                    let far = (actual - expected).abs();
                    assert!(far <= 1e-6 * expected, "2^{exponent}, {moved}: {actual:e}, not {expected:e}");
                }
            }
        }
        assert_eq!(StretchFigures::new(&[0.0; 70], &[0.0; 70]), StretchFigures { n_elems: 70, ..Default::default() });
    }

    #[test]
    fn the_worst_block_is_the_first_of_those() {
        let weights = [1.0; STRETCH];
        let mut values = weights;
        assert_eq!(StretchFigures::new(&weights, &values).worst_block(32), 0);
        for at in [1000, 1500] {
            values[at] = 0.5;
        }
        let figures = StretchFigures::new(&weights, &values);
        assert_eq!([32, 64].map(|block| figures.worst_block(block)), [1000 / 32, 1000 / 64]);
        values[2047] = 0.25;
        assert_eq!(StretchFigures::new(&weights, &values).worst_block(64), 31);
    }
}
