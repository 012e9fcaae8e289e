//! `wgquant quantize --shard-task` and `wgquant finish`.

use std::time::Instant;

use anyhow::bail;
use serde::Serialize;
use wgquant::checkpoint::{Progress, QuantizeOptions, Task, TaskReport, finish_tasks, quantize_task};

use super::{open_engines, pages, quantize};
use crate::args::QuantizeArgs;
use crate::console::Console;
use crate::html::Place;
use crate::options::quantize_options;
use crate::progress::Reporter;
use crate::table::tensors;

#[derive(Debug, Serialize)]
struct Document<'a> {
    /// Names of the files that this task made.
    files: &'a [String],
    /// How many the whole output has.
    files_in_all: usize,
    #[serde(flatten)]
    quantized: quantize::Document<'a>,
}

/// Does one task's part.
pub(crate) fn run(console: Console, args: &QuantizeArgs, options: &QuantizeOptions, task: Task) -> anyhow::Result<()> {
    let output = &args.output.output;
    let (engines, mut reporter) = open_engines(console, &args.device)?;
    let started = Instant::now();
    let done = {
        let mut show = |progress: Progress<'_>| reporter.show(progress);
        pollster::block_on(quantize_task(&engines, &args.input, output, options, task, &mut show))?
    };
    drop(reporter);
    let seconds = started.elapsed().as_secs_f64();
    let TaskReport { files, n_files, report } = &done;
    for notice in &report.notices {
        console.note(notice);
    }
    if files.is_empty() {
        console.note(&format!(
            "nothing is left for this task, because the output has {n_files} file{}: a smaller --shard-size gives more",
            if *n_files == 1 { "" } else { "s" }
        ));
    }
    let document = Document { files, files_in_all: *n_files, quantized: quantize::document(report, seconds) };
    console.result(&document, || {
        format!(
            "{}: {} of {n_files} files, {}, in {seconds:.2} s on {}; wgquant finish makes the output when all are done",
            output.display(),
            files.len(),
            tensors(report.tensors.len()),
            report.adapter
        )
    })
}

/// Makes the output of all parts.
pub(crate) fn finish(console: Console, args: &QuantizeArgs) -> anyhow::Result<()> {
    for (is_there, option) in
        [(args.shard_task.is_some(), "--shard-task"), (args.resume, "--resume"), (args.dry_run, "--dry-run")]
    {
        if is_there {
            bail!("wgquant finish has no use for {option}: leave it out");
        }
    }
    let options = quantize_options(args)?;
    let output = &args.output.output;
    let place = args.report.as_ref().map(|path| Place::new(path, args.output.force, Some(output))).transpose()?;
    let mut reporter = Reporter::new(console, None);
    let started = Instant::now();
    let report = finish_tasks(&args.input, output, &options, &mut |progress: Progress<'_>| reporter.show(progress))?;
    let seconds = started.elapsed().as_secs_f64();
    if let Some(place) = place {
        place.write(&pages::quantized(args, options.verify, &report, seconds, &mut |progress| {
            reporter.show(progress);
        })?)?;
    }
    drop(reporter);
    for notice in &report.notices {
        console.note(notice);
    }
    console.result(&quantize::document(&report, seconds), || quantize::summary(args, options.verify, &report, seconds))
}
