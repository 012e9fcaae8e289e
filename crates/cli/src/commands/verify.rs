//! `wgquant verify`.

use anyhow::bail;
use serde::Serialize;
use wgquant::checkpoint::{Action, Progress, VerifiedTensor, verify};

use super::pages;
use crate::args::VerifyArgs;
use crate::console::Console;
use crate::html::Place;
use crate::progress::Reporter;
use crate::report::{Figures, hex};
use crate::table::{self, Align, decibels};

#[derive(Debug, Serialize)]
struct Document<'a> {
    matches: bool,
    tensors: Vec<Tensor<'a>>,
}

#[derive(Debug, Serialize)]
struct Tensor<'a> {
    name: &'a str,
    action: &'a str,
    shape: &'a [u64],
    dtype: String,
    digest: Option<String>,
    #[serde(flatten)]
    figures: Figures,
    worst_block: Option<u64>,
    verified: &'static str,
    matches: bool,
    mismatch: Option<&'a str>,
}

pub(crate) fn run(console: Console, args: &VerifyArgs) -> anyhow::Result<()> {
    let page = &args.page;
    let place = page.report.as_ref().map(|path| Place::new(path, page.force, None)).transpose()?;
    let mut reporter = Reporter::new(console, None);
    let report = verify(&args.original, &args.quantized, &mut |progress: Progress<'_>| reporter.show(progress))?;
    if let Some(place) = place {
        place.write(&pages::verified(args, &report, &mut |progress| reporter.show(progress))?)?;
    }
    drop(reporter);
    let tensors: Vec<_> = report
        .tensors
        .iter()
        .map(|tensor| Tensor {
            name: &tensor.name,
            action: tensor.action.name(),
            shape: &tensor.shape,
            dtype: tensor.dtype.to_string(),
            digest: tensor.digest.as_ref().map(hex),
            figures: Figures::from(tensor.figures.as_ref()),
            worst_block: tensor.figures.as_ref().map(|figures| figures.worst_block),
            verified: "full",
            matches: tensor.mismatch.is_none(),
            mismatch: tensor.mismatch.as_deref(),
        })
        .collect();
    let document = Document { matches: report.first_mismatch().is_none(), tensors };
    console.result(&document, || text(&report.tensors, args, document.matches))?;
    match report.first_mismatch() {
        None => Ok(()),
        Some(first) => {
            let more = report.tensors.iter().filter(|tensor| tensor.mismatch.is_some()).count().saturating_sub(1);
            match more {
                0 => bail!("{first}"),
                1 => bail!("{first} (1 more tensor differs)"),
                _ => bail!("{first} ({more} more tensors differ)"),
            }
        }
    }
}

fn text(tensors: &[VerifiedTensor], args: &VerifyArgs, matches: bool) -> String {
    let columns = [
        ("tensor", Align::Left),
        ("action", Align::Left),
        ("max error", Align::Right),
        ("MSE", Align::Right),
        ("SQNR", Align::Right),
        ("worst block", Align::Right),
        ("matches", Align::Left),
    ];
    let rows = tensors.iter().map(|tensor| {
        let figure = |show: &dyn Fn(&wgquant::verify::ErrorFigures) -> String| {
            tensor.figures.as_ref().map_or_else(|| "-".to_owned(), show)
        };
        vec![
            tensor.name.clone(),
            tensor.action.name().to_owned(),
            figure(&|figures| format!("{:.3e}", figures.max_abs_error)),
            figure(&|figures| format!("{:.3e}", figures.mse())),
            figure(&|figures| decibels(figures.sqnr_db())),
            figure(&|figures| figures.worst_block.to_string()),
            if tensor.mismatch.is_none() { "yes" } else { "NO" }.to_owned(),
        ]
    });
    let table = table::table(&columns, rows);
    if !matches {
        return table;
    }
    let n_quantized = tensors.iter().filter(|tensor| tensor.action == Action::Quantized).count();
    format!(
        "{table}\n{}: every byte is as it should be ({} quantized, {} copied)",
        args.quantized.display(),
        table::tensors(n_quantized),
        tensors.len() - n_quantized
    )
}
