//! `wgquant quantize`.

use std::time::Instant;

use serde::Serialize;
use wgquant::checkpoint::{Action, QuantizeOptions, QuantizeReport, QuantizedTensor, Selection, quantize};
use wgquant::verify::{ErrorFigures, Verify};

use super::{open_engine, pages};
use crate::args::QuantizeArgs;
use crate::console::Console;
use crate::html::Place;
use crate::report::{Figures, hex};
use crate::table::{bytes, decibels, ratio, tensors};

#[derive(Debug, Serialize)]
struct Document<'a> {
    adapter: &'a str,
    format: &'a str,
    container: &'a str,
    seconds: f64,
    bytes_in: u64,
    bytes_out: u64,
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
    verified: &'a str,
}

pub(crate) fn run(console: Console, args: &QuantizeArgs) -> anyhow::Result<()> {
    let options = QuantizeOptions {
        format: args.format,
        container: args.container,
        selection: Selection {
            include: args.include.clone(),
            exclude: args.exclude.clone(),
            min_elements: args.min_elements,
            copy_unfit: args.copy_unfit,
        },
        verify: args.verify,
        force: args.output.force,
        sync: args.output.sync,
    };
    let output = &args.output.output;
    let place = args.report.as_ref().map(|path| Place::new(path, args.output.force, Some(output))).transpose()?;
    let (engine, mut reporter) = open_engine(console, &args.device)?;
    let started = Instant::now();
    let report = {
        let mut show = |progress: wgquant::checkpoint::Progress<'_>| reporter.show(progress);
        pollster::block_on(quantize(&engine, &args.input, output, &options, &mut show))?
    };
    let seconds = started.elapsed().as_secs_f64();
    if let Some(place) = place {
        let page = pages::quantized(args, &report, seconds, &mut |progress| reporter.show(progress))?;
        place.write(&page)?;
    }
    drop(reporter);
    for notice in &report.notices {
        console.note(notice);
    }
    console.result(&document(&report, seconds), || summary(args, &report, seconds))
}

fn document(report: &QuantizeReport, seconds: f64) -> Document<'_> {
    Document {
        adapter: &report.adapter,
        format: report.format.name(),
        container: report.container.name(),
        seconds,
        bytes_in: report.bytes_in,
        bytes_out: report.bytes_out,
        tensors: report
            .tensors
            .iter()
            .map(|tensor| Tensor {
                name: &tensor.name,
                action: tensor.action.name(),
                shape: &tensor.shape,
                dtype: tensor.dtype.to_string(),
                digest: tensor.digest.as_ref().map(hex),
                figures: Figures::from(tensor.figures.as_ref()),
                verified: tensor.verified.name(),
            })
            .collect(),
    }
}

fn summary(args: &QuantizeArgs, report: &QuantizeReport, seconds: f64) -> String {
    let quantized: Vec<_> = report.tensors.iter().filter(|tensor| tensor.action == Action::Quantized).collect();
    let (n_quantized, n_copied) = (quantized.len(), report.tensors.len() - quantized.len());
    let verified = match args.verify {
        Verify::None => "not verified".to_owned(),
        Verify::Sample => "a sample verified".to_owned(),
        Verify::Full => "every byte verified".to_owned(),
    };
    let mut text = format!(
        "{}: {} to {}, {n_copied} copied; {} to {} ({}) in {seconds:.2} s on {}; {verified}",
        args.output.output.display(),
        tensors(n_quantized),
        report.format,
        bytes(report.bytes_in),
        bytes(report.bytes_out),
        ratio(report.bytes_in, report.bytes_out),
        report.adapter,
    );
    let sqnr = |tensor: &QuantizedTensor| tensor.figures.as_ref().and_then(ErrorFigures::sqnr_db);
    let worst = quantized.iter().filter_map(|tensor| sqnr(tensor).map(|db| (db, tensor)));
    if let Some((db, tensor)) = worst.min_by(|a, b| a.0.total_cmp(&b.0)) {
        text += &format!("; worst is {:?} at {}", tensor.name, decibels(Some(db)));
    }
    text
}
