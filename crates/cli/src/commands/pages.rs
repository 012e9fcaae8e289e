//! The reports of `quantize` and `verify`, as pages.

use wgquant::Format;
use wgquant::checkpoint::{Action, OnProgress, PackedFile, QuantizeReport, Source, VerifyReport, hex, histograms};
use wgquant::verify::{ErrorFigures, Verify};

use crate::args::{QuantizeArgs, VerifyArgs};
use crate::html::report::{N_BINS, Report, worst};
use crate::html::{Cell, Column, Kind, Row, Table, Total};
use crate::table::shape;

/// The page of a run of `quantize`; the worst tensors are read again.
///
/// # Errors
/// As [`histograms`].
pub(crate) fn quantized(
    args: &QuantizeArgs,
    verify: Verify,
    report: &QuantizeReport,
    seconds: f64,
    progress: &mut OnProgress<'_>,
) -> anyhow::Result<String> {
    let tensors = &report.tensors;
    let figures: Vec<_> = tensors
        .iter()
        .filter_map(|tensor| tensor.figures.as_ref().map(|figures| (tensor.name.as_str(), figures)))
        .collect();
    let histograms = histograms(&args.input, &args.output.output, &worst(&figures), N_BINS, progress)?;
    let n_quantized = tensors.iter().filter(|tensor| tensor.action == Action::Quantized).count();
    let mut totals = vec![
        text("format", "format", report.format.name()),
        text("container", "container", report.container.name()),
        text("adapter", "adapter", &report.adapter),
    ];
    totals.extend(Total::sizes(report.bytes_in, report.bytes_out));
    totals.extend(counts(n_quantized, tensors.len() - n_quantized));
    let (verified, figures_are) = match verify {
        Verify::None => ("nothing", "There are no error figures, because nothing was verified (--verify none)."),
        Verify::Sample => ("a sample", "Figures are those of the sample that was verified (--verify sample)."),
        Verify::Full => ("every byte", "Figures are those of all values."),
    };
    totals.push(text("verified", "verified", verified));
    totals.extend(errors(&figures));
    totals.push(Total::new("seconds", "time", Cell::number(seconds, format!("{seconds:.2} s"))));
    let rows = tensors.iter().map(|tensor| {
        let figures = tensor.figures.as_ref();
        let mut cells = vec![
            Cell::text(&tensor.name),
            Cell::text(tensor.format.map_or("copied", Format::name)),
            Cell::text(&tensor.dtype.to_string()),
            Cell::text(&shape(&tensor.shape)),
            Cell::bytes(tensor.bytes_in),
            Cell::bytes(tensor.bytes_out),
        ];
        cells.extend(error_cells(figures));
        cells.push(digest(tensor.digest.as_ref()));
        Row { marked: false, cells }
    });
    let mut columns = columns(&["tensor", "becomes", "type"], Kind::Text);
    columns.push(Column { heading: "shape", kind: Kind::Shape });
    columns.extend(self::columns(&["before", "after"], Kind::Number));
    columns.extend(error_columns());
    Report {
        title: "Quantization report",
        files: [args.input.display().to_string(), args.output.output.display().to_string()],
        notices: report.notices.clone(),
        totals,
        histograms,
        tensors: Table { id: "tensors", title: "Tensors", about: Some(figures_are), columns, rows: rows.collect() },
        figures,
    }
    .page()
}

/// The page of a run of `verify`; the worst tensors are read again.
///
/// # Errors
/// As [`histograms`] and [`PackedFile::open`].
pub(crate) fn verified(
    args: &VerifyArgs,
    report: &VerifyReport,
    progress: &mut OnProgress<'_>,
) -> anyhow::Result<String> {
    let tensors = &report.tensors;
    let packed = PackedFile::open(&args.quantized)?;
    let figures: Vec<_> = tensors
        .iter()
        .filter_map(|tensor| tensor.figures.as_ref().map(|figures| (tensor.name.as_str(), figures)))
        .collect();
    let histograms = histograms(&args.original, &args.quantized, &worst(&figures), N_BINS, progress)?;
    let n_quantized = tensors.iter().filter(|tensor| tensor.action == Action::Quantized).count();
    let mut formats: Vec<_> = packed.weights().iter().map(|weight| weight.format.name()).collect();
    formats.sort_unstable();
    formats.dedup();
    let first_mismatch = report.first_mismatch();
    let mut totals = vec![
        text("matches", "matches", if first_mismatch.is_none() { "yes, every byte" } else { "NO" }),
        text("format", "format", &formats.join(", ")),
        text("container", "container", packed.container().name()),
    ];
    totals.extend(Total::sizes(Source::open(&args.original)?.n_bytes(), packed.source().n_bytes()));
    totals.extend(counts(n_quantized, tensors.len() - n_quantized));
    totals.extend(errors(&figures));
    let rows = tensors.iter().map(|tensor| {
        let matches = Cell::text(if tensor.mismatch.is_none() { "yes" } else { "NO" });
        let mut cells = vec![
            Cell::text(&tensor.name),
            Cell::text(tensor.action.name()),
            Cell::text(&tensor.dtype.to_string()),
            Cell::text(&shape(&tensor.shape)),
            matches,
        ];
        cells.extend(error_cells(tensor.figures.as_ref()));
        cells.push(digest(tensor.digest.as_ref()));
        Row { marked: tensor.mismatch.is_some(), cells }
    });
    let mut columns = columns(&["tensor", "action", "type"], Kind::Text);
    columns.extend([Column { heading: "shape", kind: Kind::Shape }, Column { heading: "matches", kind: Kind::Text }]);
    columns.extend(error_columns());
    let mismatches = tensors.iter().filter_map(|tensor| tensor.mismatch.as_ref());
    Report {
        title: "Verification report",
        files: [args.original.display().to_string(), args.quantized.display().to_string()],
        notices: mismatches.chain(&report.mismatch).cloned().collect(),
        totals,
        histograms,
        tensors: Table {
            id: "tensors",
            title: "Tensors",
            about: Some("Figures are those of all values, for tensors that are as they should be."),
            columns,
            rows: rows.collect(),
        },
        figures,
    }
    .page()
}

fn text(id: &'static str, label: &'static str, text: &str) -> Total {
    Total::new(id, label, Cell::text(text))
}

fn counts(n_quantized: usize, n_copied: usize) -> [Total; 2] {
    [
        Total::new("n-quantized", "tensors quantized", Cell::count(n_quantized as u64)),
        Total::new("n-copied", "tensors copied", Cell::count(n_copied as u64)),
    ]
}

/// Error over all tensors that have figures; nothing where none has.
fn errors(figures: &[(&str, &ErrorFigures)]) -> Vec<Total> {
    if figures.is_empty() {
        return Vec::new();
    }
    let total = ErrorFigures::total(figures.iter().map(|(_, figures)| *figures));
    vec![
        Total::new("sqnr", "SQNR over all", Cell::sqnr(Some(&total))),
        Total::new("mse", "MSE over all", Cell::error(Some(&total), ErrorFigures::mse)),
        Total::new("max-error", "largest error", Cell::error(Some(&total), |figures| figures.max_abs_error)),
    ]
}

fn columns(headings: &[&'static str], kind: Kind) -> Vec<Column> {
    headings.iter().map(|&heading| Column { heading, kind }).collect()
}

/// The last columns of both tables.
fn error_columns() -> Vec<Column> {
    let mut columns = columns(&["SQNR", "MSE", "max error", "worst block"], Kind::Number);
    columns.push(Column { heading: "digest (BLAKE3)", kind: Kind::Digest });
    columns
}

fn error_cells(figures: Option<&ErrorFigures>) -> [Cell; 4] {
    [
        Cell::sqnr(figures),
        Cell::error(figures, ErrorFigures::mse),
        Cell::error(figures, |figures| figures.max_abs_error),
        figures.map_or_else(Cell::none, |figures| Cell::count(figures.worst_block)),
    ]
}

fn digest(digest: Option<&[u8; 32]>) -> Cell {
    digest.map_or_else(Cell::none, |digest| Cell::text(&hex(digest)))
}
