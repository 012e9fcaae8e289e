//! The page of `compare`: size and error of each format, over all tensors and for each.

use askama::Template;
use wgquant::checkpoint::{CompareReport, ComparedFormat, Outcome};
use wgquant::verify::ErrorFigures;

use super::plot::{Axis, Tick, spread, unit};
use super::{Cell, Column, Kind, Row, Table, Total, printable, render};
use crate::table::{bytes, decibels, shape};

#[derive(Template)]
#[template(path = "compare.html")]
struct Page {
    version: &'static str,
    title: &'static str,
    files: Vec<String>,
    notices: Vec<String>,
    totals: Vec<Total>,
    /// All formats, and then those of about one size.
    plots: Vec<Plot>,
    tables: Vec<Table>,
}

struct Plot {
    title: String,
    summary: String,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    /// Through the points on the frontier, by size.
    line: String,
    points: Vec<Point>,
}

struct Point {
    name: &'static str,
    text: String,
    /// Exactly.
    x_value: f64,
    y_value: f64,
    x: String,
    y: String,
    /// Where its name stands, if it has room.
    label_y: Option<String>,
    on_frontier: bool,
}

/// The page.
///
/// # Errors
/// None that is known of.
pub(crate) fn page(file: &str, report: &CompareReport) -> anyhow::Result<String> {
    render(&Page {
        version: env!("CARGO_PKG_VERSION"),
        title: "Comparison of formats",
        files: vec![printable(file)],
        notices: report.notices.iter().map(|notice| printable(notice)).collect(),
        totals: vec![
            Total::new("bytes-in", "before", Cell::bytes(report.bytes_in)),
            Total::new("elements", "weights", Cell::count(report.n_elems)),
            Total::new("n-tensors", "tensors", Cell::count(report.tensors.len() as u64)),
        ],
        plots: plots(report),
        tables: vec![formats(report), tensors(report)],
    })
}

/// Sizes further apart than this, in bits a weight, are not about one size.
const GAP: f64 = 1.0;

/// A plot of all formats, and where there are several sizes a plot of each, in which its formats stand apart.
fn plots(report: &CompareReport) -> Vec<Plot> {
    // A format without any error has no SQNR, and so no point.
    let mut known: Vec<_> =
        report.formats.iter().filter_map(|format| format.figures.sqnr_db().map(|db| (format, db))).collect();
    known.sort_by(|a, b| a.0.bits_per_weight.total_cmp(&b.0.bits_per_weight));
    let groups: Vec<_> = known.chunk_by(|a, b| b.0.bits_per_weight - a.0.bits_per_weight < GAP).collect();
    let is_crowded = groups.len() > 1;
    let details = groups.into_iter().filter(|group| is_crowded && group.len() > 1).map(|group| plot(group, false));
    std::iter::once(plot(&known, is_crowded)).chain(details).collect()
}

/// A plot of formats by size; where it is crowded, only those on the frontier get names.
fn plot(formats: &[(&ComparedFormat, f64)], is_crowded: bool) -> Plot {
    let x = Axis::around(formats.iter().map(|(format, _)| format.bits_per_weight), 5, (70.0, 580.0));
    let y = Axis::around(formats.iter().map(|(_, db)| *db), 5, (350.0, 14.0));
    let mut points: Vec<_> = formats
        .iter()
        .map(|&(format, db)| Point {
            name: format.format.name(),
            text: format!("{}: {:.3} bits, {}", format.format, format.bits_per_weight, decibels(Some(db))),
            x_value: format.bits_per_weight,
            y_value: db,
            x: unit(x.at(format.bits_per_weight)),
            y: unit(y.at(db)),
            label_y: None,
            on_frontier: format.on_frontier,
        })
        .collect();
    let mut named: Vec<_> = points.iter_mut().filter(|point| point.on_frontier || !is_crowded).collect();
    let heights: Vec<_> = named.iter().map(|point| y.at(point.y_value)).collect();
    for (point, at) in named.iter_mut().zip(spread(&heights, 28.0, (16.0, 350.0))) {
        point.label_y = Some(unit(at));
    }
    let on_frontier: Vec<_> = points.iter().filter(|point| point.on_frontier).collect();
    let corners: Vec<_> = on_frontier.iter().map(|point| format!("{} {}", point.x, point.y)).collect();
    let names: Vec<_> = on_frontier.iter().map(|point| point.name).collect();
    let (least, most) = (formats.first(), formats.last());
    let bits = |format: Option<&(&ComparedFormat, f64)>| format.map_or(0.0, |(format, _)| format.bits_per_weight);
    Plot {
        title: match (format!("{:.1}", bits(least)), format!("{:.1}", bits(most))) {
            (least, most) if least == most => format!("{least} bits"),
            (least, most) => format!("{least} to {most} bits"),
        },
        summary: format!(
            "SQNR by bits a weight of {} formats; on the frontier: {}; the table below has all figures",
            points.len(),
            if names.is_empty() { "none".to_owned() } else { names.join(", ") },
        ),
        x_ticks: x.ticks(),
        y_ticks: y.ticks(),
        line: if corners.is_empty() { String::new() } else { format!("M{}", corners.join("L")) },
        points,
    }
}

fn formats(report: &CompareReport) -> Table {
    let rows = report.formats.iter().map(|format| {
        let figures = Some(&format.figures);
        Row {
            marked: format.on_frontier,
            cells: vec![
                Cell::text(format.format.name()),
                Cell::text(if format.on_frontier { "yes" } else { "no" }),
                Cell::number(format.bits_per_weight, format!("{:.3}", format.bits_per_weight)),
                Cell::bytes(format.bytes_out),
                Cell::sqnr(figures),
                Cell::error(figures, ErrorFigures::mse),
                Cell::error(figures, |figures| figures.max_abs_error),
                Cell::count(format.n_unfit as u64),
            ],
        }
    });
    Table {
        id: "formats",
        title: "Formats",
        about: Some(
            "Over all tensors that were compared. One that a format does not fit stays as it is: it counts with its own size and \
             no error.",
        ),
        columns: vec![
            Column { heading: "format", kind: Kind::Text },
            Column { heading: "frontier", kind: Kind::Text },
            Column { heading: "bits/weight", kind: Kind::Number },
            Column { heading: "size", kind: Kind::Number },
            Column { heading: "SQNR", kind: Kind::Number },
            Column { heading: "MSE", kind: Kind::Number },
            Column { heading: "max error", kind: Kind::Number },
            Column { heading: "unfit tensors", kind: Kind::Number },
        ],
        rows: rows.collect(),
    }
}

fn tensors(report: &CompareReport) -> Table {
    let heading = |heading, kind| Column { heading, kind };
    let mut columns = vec![
        heading("tensor", Kind::Text),
        heading("type", Kind::Text),
        heading("shape", Kind::Shape),
        heading("before", Kind::Number),
    ];
    columns.extend(report.formats.iter().map(|format| heading(format.format.name(), Kind::Number)));
    let rows = report.tensors.iter().map(|tensor| {
        let mut cells = vec![
            Cell::text(&tensor.name),
            Cell::text(&tensor.dtype.to_string()),
            Cell::text(&shape(&tensor.shape)),
            Cell::bytes(tensor.bytes_in),
        ];
        cells.extend(tensor.outcomes.iter().map(|outcome| match outcome {
            Outcome::Fits { bytes_out, figures } => {
                let cell = Cell::sqnr(Some(figures));
                Cell { text: format!("{}, {}", cell.text, bytes(*bytes_out)), ..cell }
            }
            Outcome::Unfit(reason) => {
                Cell { text: "does not fit".to_owned(), value: String::new(), more: printable(reason) }
            }
        }));
        Row { marked: false, cells }
    });
    Table {
        id: "tensors",
        title: "Tensors",
        about: Some("SQNR and size that each format gives; formats' columns are sorted by SQNR."),
        columns,
        rows: rows.collect(),
    }
}
