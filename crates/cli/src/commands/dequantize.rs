//! `wgquant dequantize`.

use std::time::Instant;

use serde_json::json;
use wgquant::Container;
use wgquant::checkpoint::{Action, DequantizeOptions, DequantizedTensor, Progress, dequantize};

use super::open_engines;
use crate::args::DequantizeArgs;
use crate::console::Console;
use crate::table::{self, bytes};

pub(crate) fn run(console: Console, args: &DequantizeArgs) -> anyhow::Result<()> {
    let options = DequantizeOptions { dtype: args.dtype, force: args.output.force, sync: args.output.sync };
    let (engines, mut reporter) = open_engines(console, &args.device)?;
    let started = Instant::now();
    let report = {
        let mut show = |progress: Progress<'_>| reporter.show(progress);
        pollster::block_on(dequantize(&engines, &args.input, &args.output.output, options, &mut show))?
    };
    drop(reporter);
    for notice in &report.notices {
        console.note(notice);
    }
    let seconds = started.elapsed().as_secs_f64();
    let tensors: Vec<_> = report.tensors.iter().map(DequantizedTensor::document).collect();
    let document = json!({
        "adapter": report.adapter,
        "seconds": seconds,
        "bytes_in": report.bytes_in,
        "bytes_out": report.bytes_out,
        "tensors": tensors,
    });
    console.result(&document, || {
        let n_dequantized = report.tensors.iter().filter(|tensor| tensor.was == Action::Quantized).count();
        format!(
            "{}: {} dequantized, {} copied; {} to {} in {seconds:.2} s on {}; {}",
            args.output.output.display(),
            table::tensors(n_dequantized),
            report.tensors.len() - n_dequantized,
            bytes(report.bytes_in),
            bytes(report.bytes_out),
            report.adapter,
            match report.container {
                Container::Native => "digests are right",
                _ => "this container records no digests, so wgquant verify tells whether it is whole",
            }
        )
    })
}
