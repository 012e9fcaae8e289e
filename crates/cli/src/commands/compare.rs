//! `wgquant compare`.

use std::time::Instant;

use serde::Serialize;
use wgquant::checkpoint::{CompareOptions, CompareReport, Figures, Outcome, Progress, Selection, compare};
use wgquant::verify::ErrorFigures;

use crate::args::CompareArgs;
use crate::console::Console;
use crate::html::{self, Place};
use crate::progress::Reporter;
use crate::table::{self, Align, Column, bytes, decibels, table};

#[derive(Debug, Serialize)]
struct Document<'a> {
    seconds: f64,
    elements: u64,
    bytes_in: u64,
    formats: Vec<Format<'a>>,
    tensors: Vec<Tensor<'a>>,
}

#[derive(Debug, Serialize)]
struct Format<'a> {
    format: &'a str,
    bits_per_weight: f64,
    bytes_out: u64,
    #[serde(flatten)]
    figures: Figures,
    unfit_tensors: usize,
    frontier: bool,
}

#[derive(Debug, Serialize)]
struct Tensor<'a> {
    name: &'a str,
    shape: &'a [u64],
    dtype: String,
    bytes_in: u64,
    formats: Vec<OfTensor<'a>>,
}

/// What a format makes of a tensor. Where it does not fit, `unfit` says why, and the rest is null.
#[derive(Debug, Serialize)]
struct OfTensor<'a> {
    format: &'a str,
    bytes_out: Option<u64>,
    #[serde(flatten)]
    figures: Figures,
    worst_block: Option<u64>,
    unfit: Option<&'a str>,
}

pub(crate) fn run(console: Console, args: &CompareArgs) -> anyhow::Result<()> {
    let page = &args.page;
    let place = page.report.as_ref().map(|path| Place::new(path, page.force, None)).transpose()?;
    let mut formats: Vec<_> = Vec::new();
    let asked = if args.formats.is_empty() { wgquant::Format::ALL } else { &args.formats };
    for &format in asked {
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    let selection = Selection {
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        min_elements: args.min_elements,
        copy_unfit: true,
        ..Selection::default()
    };
    let started = Instant::now();
    let report = {
        let mut reporter = Reporter::new(console, None);
        compare(&args.original, &CompareOptions { formats, selection }, &mut |progress: Progress<'_>| {
            reporter.show(progress);
        })?
    };
    let seconds = started.elapsed().as_secs_f64();
    for notice in &report.notices {
        console.note(notice);
    }
    if let Some(place) = place {
        place.write(&html::compare::page(&args.original.display().to_string(), &report)?)?;
    }
    console.result(&document(&report, seconds), || text(&report))
}

fn document(report: &CompareReport, seconds: f64) -> Document<'_> {
    let formats = report.formats.iter().map(|format| Format {
        format: format.format.name(),
        bits_per_weight: format.bits_per_weight,
        bytes_out: format.bytes_out,
        figures: Figures::from(Some(&format.figures)),
        unfit_tensors: format.n_unfit,
        frontier: format.on_frontier,
    });
    let tensors = report.tensors.iter().map(|tensor| {
        let outcomes = report.formats.iter().zip(&tensor.outcomes);
        let formats = outcomes.map(|(format, outcome)| {
            let (bytes_out, figures, unfit) = match outcome {
                Outcome::Fits { bytes_out, figures } => (Some(*bytes_out), Some(figures), None),
                Outcome::Unfit(reason) => (None, None, Some(reason.as_str())),
            };
            OfTensor {
                format: format.format.name(),
                bytes_out,
                figures: Figures::from(figures),
                worst_block: figures.map(|figures| figures.worst_block),
                unfit,
            }
        });
        Tensor {
            name: &tensor.name,
            shape: &tensor.shape,
            dtype: tensor.dtype.to_string(),
            bytes_in: tensor.bytes_in,
            formats: formats.collect(),
        }
    });
    Document {
        seconds,
        elements: report.n_elems,
        bytes_in: report.bytes_in,
        formats: formats.collect(),
        tensors: tensors.collect(),
    }
}

fn text(report: &CompareReport) -> String {
    let sqnr = |figures: &ErrorFigures, _| decibels(figures.sqnr_db());
    let size = |_: &ErrorFigures, bytes_out| bytes(bytes_out);
    format!(
        "SQNR of each tensor\n{}\n\nsize of each tensor\n{}\n\n{}, {} of weights\n{}",
        tensors(report, sqnr),
        tensors(report, size),
        table::tensors(report.tensors.len()),
        bytes(report.bytes_in),
        formats(report),
    )
}

/// A column a format.
fn tensors(report: &CompareReport, show: impl Fn(&ErrorFigures, u64) -> String) -> String {
    let mut columns: Vec<Column> = vec![("tensor", Align::Left), ("before", Align::Right)];
    columns.extend(report.formats.iter().map(|format| (format.format.name(), Align::Right)));
    let rows = report.tensors.iter().map(|tensor| {
        let mut row = vec![tensor.name.clone(), bytes(tensor.bytes_in)];
        row.extend(tensor.outcomes.iter().map(|outcome| match outcome {
            Outcome::Fits { bytes_out, figures } => show(figures, *bytes_out),
            Outcome::Unfit(_) => "unfit".to_owned(),
        }));
        row
    });
    table(&columns, rows)
}

/// The formats over all tensors, and below what the table's words mean.
fn formats(report: &CompareReport) -> String {
    let columns = [
        ("format", Align::Left),
        ("bits/weight", Align::Right),
        ("size", Align::Right),
        ("max error", Align::Right),
        ("MSE", Align::Right),
        ("SQNR", Align::Right),
        ("unfit", Align::Right),
        ("frontier", Align::Left),
    ];
    let rows = report.formats.iter().map(|format| {
        vec![
            format.format.name().to_owned(),
            format!("{:.3}", format.bits_per_weight),
            bytes(format.bytes_out),
            format!("{:.3e}", format.figures.max_abs_error),
            format!("{:.3e}", format.figures.mse()),
            decibels(format.figures.sqnr_db()),
            format.n_unfit.to_string(),
            if format.on_frontier { "yes" } else { "-" }.to_owned(),
        ]
    });
    let mut text = table(&columns, rows);
    text += "\nfrontier: no other format is as small and as exact";
    if report.formats.iter().any(|format| format.n_unfit > 0) {
        text += "\nunfit: tensors that a format can't pack stay as they are, and count so (--json says why)";
    }
    text
}
