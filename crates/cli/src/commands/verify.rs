//! `wgquant verify`.

use anyhow::bail;
use serde_json::json;
use wgquant::checkpoint::{Action, Progress, VerifiedTensor, verify};

use super::pages;
use crate::args::VerifyArgs;
use crate::console::Console;
use crate::html::Place;
use crate::progress::Reporter;
use crate::table::{self, Align, decibels};

pub(crate) fn run(console: Console, args: &VerifyArgs) -> anyhow::Result<()> {
    let page = &args.page;
    let place = page.report.as_ref().map(|path| Place::new(path, page.force, None)).transpose()?;
    let mut reporter = Reporter::new(console, None);
    let report = verify(&args.original, &args.quantized, &mut |progress: Progress<'_>| reporter.show(progress))?;
    if let Some(place) = place {
        place.write(&pages::verified(args, &report, &mut |progress| reporter.show(progress))?)?;
    }
    drop(reporter);
    let matches = report.first_mismatch().is_none();
    let tensors: Vec<_> = report.tensors.iter().map(VerifiedTensor::document).collect();
    console.result(&json!({ "matches": matches, "tensors": tensors }), || text(&report.tensors, args, matches))?;
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
