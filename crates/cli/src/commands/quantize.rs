//! `wgquant quantize`.

use std::time::Instant;

use serde::Serialize;
use serde_json::{Value, json};
use wgquant::Format;
use wgquant::checkpoint::{Action, QuantizeOptions, QuantizeReport, QuantizedTensor, Source, plan, quantize_source};
use wgquant::verify::{ErrorFigures, Verify};

use super::{open_engines_beside, pages, peak_memory};
use crate::args::QuantizeArgs;
use crate::console::Console;
use crate::html::Place;
use crate::options::quantize_options;
use crate::table::{Align, bytes, decibels, ratio, shape, table, tensors};

#[derive(Debug, Serialize)]
pub(super) struct Document<'a> {
    adapter: &'a str,
    format: &'a str,
    container: &'a str,
    seconds: f64,
    bytes_in: u64,
    bytes_out: u64,
    /// Tensors that an earlier run had done.
    resumed: usize,
    /// Bytes that the process had resident at most; `null` where the system doesn't say.
    peak_memory: Option<u64>,
    tensors: Vec<Value>,
}

pub(crate) fn run(console: Console, args: &QuantizeArgs) -> anyhow::Result<()> {
    let options = quantize_options(args)?;
    if args.dry_run {
        return dry_run(console, args, &options);
    }
    if let Some(task) = args.shard_task {
        return super::tasks::run(console, args, &options, task);
    }
    let output = &args.output.output;
    let place = args.report.as_ref().map(|path| Place::new(path, args.output.force, Some(output))).transpose()?;
    let read = || Source::open(&args.input);
    let (engines, mut reporter, source) = open_engines_beside(console, &args.device, read)?;
    let started = Instant::now();
    let report = {
        let mut show = |progress: wgquant::checkpoint::Progress<'_>| reporter.show(progress);
        pollster::block_on(quantize_source(&engines, &source, output, &options, &mut show))?
    };
    let seconds = started.elapsed().as_secs_f64();
    if let Some(place) = place {
        let page = pages::quantized(args, options.verify, &report, seconds, &mut |progress| reporter.show(progress))?;
        place.write(&page)?;
    }
    drop(reporter);
    for notice in &report.notices {
        console.note(notice);
    }
    console.result(&document(&report, seconds), || summary(args, options.verify, &report, seconds))
}

/// Shows what would be done.
fn dry_run(console: Console, args: &QuantizeArgs, options: &QuantizeOptions) -> anyhow::Result<()> {
    let plan = plan(&args.input, &args.output.output, options)?;
    for notice in &plan.notices {
        console.note(notice);
    }
    let rows = plan.tensors.iter().map(|tensor| {
        json!({
            "name": tensor.name,
            "action": if tensor.format.is_some() { Action::Quantized } else { Action::Copied }.name(),
            "format": tensor.format.map(Format::name),
            "shape": tensor.shape,
            "dtype": tensor.dtype.to_string(),
            "bytes_in": tensor.bytes_in,
            "bytes_out": tensor.bytes_out,
        })
    });
    let document = json!({
        "dry_run": true,
        "container": options.container.name(),
        "bytes_in": plan.bytes_in,
        "bytes_out": plan.bytes_out,
        "files": plan.n_files,
        "tensors": rows.collect::<Vec<_>>(),
    });
    console.result(&document, || {
        let columns = [
            ("tensor", Align::Left),
            ("becomes", Align::Left),
            ("dtype", Align::Left),
            ("shape", Align::Left),
            ("bytes", Align::Right),
            ("bytes after", Align::Right),
        ];
        let rows = plan.tensors.iter().map(|tensor| {
            vec![
                tensor.name.clone(),
                tensor.format.map_or("copied", Format::name).to_owned(),
                tensor.dtype.to_string(),
                shape(&tensor.shape),
                tensor.bytes_in.to_string(),
                tensor.bytes_out.to_string(),
            ]
        });
        let n_quantized = plan.tensors.iter().filter(|tensor| tensor.format.is_some()).count();
        format!(
            "{}\n{}: {} would be quantized, {} copied; {} would become {} ({}) in {} file{}; nothing was written",
            table(&columns, rows),
            args.output.output.display(),
            tensors(n_quantized),
            plan.tensors.len() - n_quantized,
            bytes(plan.bytes_in),
            bytes(plan.bytes_out),
            ratio(plan.bytes_in, plan.bytes_out),
            plan.n_files,
            if plan.n_files == 1 { "" } else { "s" },
        )
    })
}

pub(super) fn document(report: &QuantizeReport, seconds: f64) -> Document<'_> {
    Document {
        adapter: &report.adapter,
        format: report.format.name(),
        container: report.container.name(),
        seconds,
        bytes_in: report.bytes_in,
        bytes_out: report.bytes_out,
        resumed: report.n_resumed,
        peak_memory: peak_memory(),
        tensors: report.tensors.iter().map(QuantizedTensor::document).collect(),
    }
}

pub(super) fn summary(args: &QuantizeArgs, verify: Verify, report: &QuantizeReport, seconds: f64) -> String {
    let quantized: Vec<_> = report.tensors.iter().filter(|tensor| tensor.action == Action::Quantized).collect();
    let (n_quantized, n_copied) = (quantized.len(), report.tensors.len() - quantized.len());
    let verified = match verify {
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
    if let Some(peak) = peak_memory() {
        text += &format!("; at most {} of memory", bytes(peak));
    }
    if report.n_resumed > 0 {
        text += &format!("; {} done by an earlier run", tensors(report.n_resumed));
    }
    let sqnr = |tensor: &QuantizedTensor| tensor.figures.as_ref().and_then(ErrorFigures::sqnr_db);
    let worst = quantized.iter().filter_map(|tensor| sqnr(tensor).map(|db| (db, tensor)));
    if let Some((db, tensor)) = worst.min_by(|a, b| a.0.total_cmp(&b.0)) {
        text += &format!("; worst is {:?} at {}", tensor.name, decibels(Some(db)));
    }
    text
}
