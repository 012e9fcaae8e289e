//! Plots as SVG: numbers become coordinates here, and templates draw them.

/// A mark on an axis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tick {
    /// Where it is, in the drawing's units.
    pub(crate) at: String,
    pub(crate) label: String,
}

/// An axis: values from `min` to `max` lie from `start` to `end` in the drawing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axis {
    min: f64,
    max: f64,
    step: f64,
    start: f64,
    end: f64,
}

impl Axis {
    /// An axis of round numbers around all values, with about `n_ticks` marks.
    pub(crate) fn around(values: impl IntoIterator<Item = f64>, n_ticks: u32, (start, end): (f64, f64)) -> Self {
        let (mut min, mut max) = values
            .into_iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), value| (min.min(value), max.max(value)));
        if min >= max || !(max - min).is_finite() {
            let middle = if min.is_finite() { min } else { 0.0 };
            (min, max) = (middle - 1.0, middle + 1.0);
        }
        let step = round_step((max - min) / f64::from(n_ticks));
        Self { min: (min / step).floor() * step, max: (max / step).ceil() * step, step, start, end }
    }

    /// An axis from `min` to `max` exactly.
    pub(crate) fn exactly(min: f64, max: f64, n_ticks: u32, (start, end): (f64, f64)) -> Self {
        let (min, max) = if max > min { (min, max) } else { (min - 1.0, min + 1.0) };
        Self { min, max, step: round_step((max - min) / f64::from(n_ticks)), start, end }
    }

    /// Where a value lies.
    pub(crate) fn at(&self, value: f64) -> f64 {
        self.start + (value - self.min) / (self.max - self.min) * (self.end - self.start)
    }

    /// Its marks, at multiples of its step.
    pub(crate) fn ticks(&self) -> Vec<Tick> {
        let first = (self.min / self.step - 1e-6).ceil();
        let values = (0..100).map(|ix| (first + f64::from(ix)) * self.step);
        let inside = values.take_while(|value| *value <= self.max + self.step * 1e-6);
        inside.map(|value| Tick { at: unit(self.at(value)), label: number(value, self.step) }).collect()
    }
}

/// 1, 2 or 5 times a power of ten: the least that is no smaller.
fn round_step(at_least: f64) -> f64 {
    let power = 10_f64.powf(at_least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|&step| step >= at_least)
        .unwrap_or(power * 10.0)
}

/// A multiple of `step`, with as many digits as that has.
fn number(value: f64, step: f64) -> String {
    if !(1e-4..1e6).contains(&step) {
        return if value.abs() < step / 2.0 { "0".to_owned() } else { format!("{value:.1e}") };
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 4")]
    let digits = (-step.log10().floor()).max(0.0) as usize;
    let text = format!("{:.digits$}", value.abs());
    if value < -step / 2.0 { format!("−{text}") } else { text }
}

/// A coordinate.
pub(crate) fn unit(at: f64) -> String {
    format!("{at:.1}")
}

/// Counts as bars of a path, one beside the other from `left` to `right`, standing on `bottom`; `top_of` says how high one is.
pub(crate) fn bars(counts: &[u64], (left, right): (f64, f64), bottom: f64, top_of: impl Fn(u64) -> f64) -> String {
    use std::fmt::Write;
    #[expect(clippy::cast_precision_loss, reason = "few bars")]
    let edge = |ix: usize| left + (right - left) * ix as f64 / counts.len().max(1) as f64;
    let mut path = format!("M{} {}", unit(left), unit(bottom));
    for (ix, &count) in counts.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = write!(path, "V{}H{}", unit(top_of(count)), unit(edge(ix + 1)));
    }
    path + &format!("V{}Z", unit(bottom))
}

/// Moves positions apart, so that neighbours are `gap` apart and all stay within `top..=bottom` where there is room; their
/// order stays.
pub(crate) fn spread(positions: &[f64], gap: f64, (top, bottom): (f64, f64)) -> Vec<f64> {
    let mut order: Vec<usize> = (0..positions.len()).collect();
    order.sort_by(|&a, &b| positions[a].total_cmp(&positions[b]));
    let mut placed = positions.to_vec();
    let mut least = top;
    for &ix in &order {
        placed[ix] = placed[ix].max(least);
        least = placed[ix] + gap;
    }
    let mut most = bottom;
    for &ix in order.iter().rev() {
        placed[ix] = placed[ix].min(most);
        most = placed[ix] - gap;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Axis) -> Vec<String> {
        axis.ticks().into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!(labels(Axis::around([17.3, 44.1], 4, (0.0, 1.0))), ["10", "20", "30", "40", "50"]);
        assert_eq!(labels(Axis::around([4.126, 4.5], 4, (0.0, 1.0))), ["4.1", "4.2", "4.3", "4.4", "4.5"]);
        assert_eq!(labels(Axis::exactly(-0.31, 0.27, 4, (0.0, 1.0))), ["−0.2", "0.0", "0.2"]);
        assert_eq!(labels(Axis::exactly(-3e-7, 3e-7, 3, (0.0, 1.0))), ["−2.0e-7", "0", "2.0e-7"].map(minus));
        for same in [vec![], vec![20.0], vec![20.0, 20.0], vec![f64::NAN]] {
            let axis = Axis::around(same, 4, (0.0, 100.0));
            assert!(axis.ticks().len() >= 2 && axis.at(20.0).is_finite());
        }
    }

    fn minus(label: &str) -> String {
        label.replace('−', "-")
    }

    #[test]
    fn values_lie_where_they_should() {
        let axis = Axis::around([0.0, 10.0], 5, (100.0, 0.0));
        assert_eq!([0.0, 5.0, 10.0].map(|value| axis.at(value)), [100.0, 50.0, 0.0]);
        assert_eq!(axis.ticks()[1], Tick { at: "80.0".to_owned(), label: "2".to_owned() });
        assert_eq!(
            bars(&[0, 2], (0.0, 10.0), 9.0, |n| if n == 0 { 9.0 } else { 1.0 }),
            "M0.0 9.0V9.0H5.0V1.0H10.0V9.0Z"
        );
    }

    #[test]
    fn labels_do_not_overlap() {
        assert_eq!(spread(&[50.0, 10.0, 12.0], 10.0, (0.0, 100.0)), [50.0, 10.0, 20.0]);
        assert_eq!(spread(&[99.0, 98.0, 5.0], 10.0, (0.0, 100.0)), [100.0, 90.0, 5.0]);
    }
}
