//! The page of `quantize` and `verify`: totals, the error of each tensor, and values of the worst.

use askama::Template;
use wgquant::checkpoint::Histogram;
use wgquant::verify::ErrorFigures;

use super::plot::{Axis, Tick, bars, unit};
use super::{Table, Total, printable, render};
use crate::table::decibels;

/// Tensors whose values are shown.
const N_WORST: usize = 4;

/// Bars of a histogram.
pub(crate) const N_BINS: usize = 96;

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    version: &'static str,
    title: &'a str,
    files: Vec<String>,
    notices: Vec<String>,
    totals: Vec<Total>,
    scatter: Option<Scatter>,
    cards: Vec<Card>,
    tensors: Table,
}

/// What a page shows.
pub(crate) struct Report<'a> {
    pub(crate) title: &'a str,
    /// Names of the input and the output.
    pub(crate) files: [String; 2],
    pub(crate) notices: Vec<String>,
    pub(crate) totals: Vec<Total>,
    /// Figures of the tensors that have any, in the file's order.
    pub(crate) figures: Vec<(&'a str, &'a ErrorFigures)>,
    /// Values of those that [`worst`] gives.
    pub(crate) histograms: Vec<Histogram>,
    pub(crate) tensors: Table,
}

/// The tensors with the lowest SQNR, worst first. Those without any error are never among them.
pub(crate) fn worst<'a>(figures: &[(&'a str, &ErrorFigures)]) -> Vec<&'a str> {
    let mut found: Vec<_> =
        figures.iter().filter_map(|&(name, figures)| figures.sqnr_db().map(|db| (db, name))).collect();
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    found.into_iter().take(N_WORST).map(|(_, name)| name).collect()
}

impl Report<'_> {
    /// The page.
    ///
    /// # Errors
    /// None that is known of.
    pub(crate) fn page(self) -> anyhow::Result<String> {
        let worst = worst(&self.figures);
        let figures_of =
            |name: &str| self.figures.iter().find(|(other, _)| *other == name).map(|(_, figures)| *figures);
        let cards = worst.iter().zip(&self.histograms).map(|(name, histogram)| card(name, figures_of(name), histogram));
        let cards = cards.collect();
        render(&Page {
            version: env!("CARGO_PKG_VERSION"),
            title: self.title,
            files: self.files.iter().map(|file| printable(file)).collect(),
            notices: self.notices.iter().map(|notice| printable(notice)).collect(),
            totals: self.totals,
            scatter: scatter(&self.figures, &worst),
            cards,
            tensors: self.tensors,
        })
    }
}

struct Scatter {
    summary: String,
    n_exact: usize,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    points: Vec<Point>,
}

struct Point {
    name: String,
    /// Its SQNR, exactly, and as it is shown.
    value: f64,
    text: String,
    x: String,
    y: String,
    marked: bool,
}

/// SQNR by tensor; nothing where no tensor has one.
#[expect(clippy::cast_precision_loss, reason = "no file has so many tensors")]
fn scatter(figures: &[(&str, &ErrorFigures)], worst: &[&str]) -> Option<Scatter> {
    let known: Vec<_> = figures
        .iter()
        .enumerate()
        .filter_map(|(ix, (name, figures))| figures.sqnr_db().map(|db| (ix as f64 + 1.0, *name, db)))
        .collect();
    let low = known.iter().min_by(|a, b| a.2.total_cmp(&b.2))?;
    let high = known.iter().max_by(|a, b| a.2.total_cmp(&b.2))?;
    let x = Axis::exactly(0.0, figures.len() as f64 + 1.0, 6, (60.0, 690.0));
    let y = Axis::around(known.iter().map(|(_, _, db)| *db), 4, (250.0, 14.0));
    let summary = format!(
        "SQNR of {} tensors: from {} ({}) to {} ({}); the table below has all figures",
        known.len(),
        decibels(Some(low.2)),
        printable(low.1),
        decibels(Some(high.2)),
        printable(high.1),
    );
    let mut points: Vec<_> = known
        .iter()
        .map(|&(at, name, db)| Point {
            name: printable(name),
            value: db,
            text: decibels(Some(db)),
            x: unit(x.at(at)),
            y: unit(y.at(db)),
            marked: worst.contains(&name),
        })
        .collect();
    // Those that are marked are drawn last, over the others.
    points.sort_by_key(|point| point.marked);
    // A tensor is a whole number, and the first is 1.
    let is_whole = |tick: &Tick| !tick.label.contains('.') && tick.label != "0";
    let x_ticks = x.ticks().into_iter().filter(is_whole).collect();
    Some(Scatter { summary, n_exact: figures.len() - known.len(), x_ticks, y_ticks: y.ticks(), points })
}

struct Card {
    name: String,
    text: String,
    summary: String,
    x_ticks: Vec<Tick>,
    panels: [Panel; 2],
}

struct Panel {
    label: &'static str,
    class: &'static str,
    label_at: &'static str,
    ticks: Vec<Tick>,
    bars: String,
    counts: String,
}

/// Two histograms of one tensor, one above the other, on the same axes.
fn card(name: &str, figures: Option<&ErrorFigures>, histogram: &Histogram) -> Card {
    let most = histogram.before.iter().chain(&histogram.after).copied().max().unwrap_or_default();
    let x = Axis::exactly(histogram.min, histogram.max, 4, (60.0, 470.0));
    let panel = |label, class, (top, bottom): (f64, f64), label_at, counts: &[u64]| Panel {
        label,
        class,
        label_at,
        ticks: powers(most).map(|(n, label)| Tick { at: unit(height(n, most, (top, bottom))), label }).collect(),
        bars: bars(counts, (60.0, 470.0), bottom, |n| height(n, most, (top, bottom))),
        counts: counts.iter().map(u64::to_string).collect::<Vec<_>>().join(" "),
    };
    let name = printable(name);
    let filled = |counts: &[u64]| counts.iter().filter(|&&n| n > 0).count();
    Card {
        summary: format!(
            "Values of {name} from {:.3e} to {:.3e}: before quantization they fill {} of {} bins, after it {}",
            histogram.min,
            histogram.max,
            filled(&histogram.before),
            histogram.before.len(),
            filled(&histogram.after),
        ),
        name,
        text: decibels(figures.and_then(ErrorFigures::sqnr_db)),
        x_ticks: x.ticks(),
        panels: [
            panel("before", "before", (10.0, 140.0), "8", &histogram.before),
            panel("after", "after", (160.0, 290.0), "158", &histogram.after),
        ],
    }
}

/// How high a count stands: its logarithm, so that 1 shows beside a million, and none is on the ground.
#[expect(clippy::cast_precision_loss, reason = "a few units")]
fn height(n: u64, most: u64, (top, bottom): (f64, f64)) -> f64 {
    let height = |n: u64| (n as f64 + 1.0).log10();
    bottom - (bottom - top) * height(n) / height(most.max(1))
}

/// The powers of ten up to a count, with a third of them at most where there are many.
fn powers(most: u64) -> impl Iterator<Item = (u64, String)> {
    let highest = most.max(1).ilog10();
    let step = usize::try_from(highest / 4 + 1).unwrap_or(1);
    (0..=highest).step_by(step).map(|exponent| {
        let n = 10_u64.pow(exponent);
        let label = match exponent {
            0..3 => n.to_string(),
            3..6 => format!("{} k", n / 1000),
            6..9 => format!("{} M", n / 1_000_000),
            _ => format!("{} G", n / 1_000_000_000),
        };
        (n, label)
    })
}
