//! How fast it is, beside what the machine can do and beside peers, on the same data in the same run.
//!
//! `cargo xtask bench cpu` runs this. Numbers of one run are compared, never those of two: everything runs in turn, once a
//! repetition. Ratios are of one repetition, and of those the median; rates are of the fastest, as whatever else a machine does only
//! ever slows things down.

mod candle;
mod cpu;
mod data;
mod limits;
mod peers;
mod report;
mod runner;

use std::path::PathBuf;

use anyhow::{Result, bail};

use runner::Runner;

const HELP: &str = "\
Usage: wgquant-bench [--elems N] [--repetitions N] [--large] [--python PATH] [--ratios PATH]
  --elems N        weights in each measurement, a multiple of 1024 (64 Mi)
  --repetitions N  how often each is measured (15)
  --large          cost of an element from 1 Ki to 4 Gi weights of bf16 as well (needs 12 GB)
  --ratios PATH    a file that ratios are appended to, as lines of measurement, format and ratio between tabs
  --python PATH    a Python with bitsandbytes and llama-cpp-python, as `cargo xtask interop` installs it
";

struct Options {
    n_elems: usize,
    n_repetitions: usize,
    large: bool,
    python: Option<PathBuf>,
    ratios: Option<PathBuf>,
}

fn options() -> Result<Options> {
    let mut options = Options { n_elems: 64 << 20, n_repetitions: 15, large: false, python: None, ratios: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| anyhow::anyhow!("{argument} needs a value\n{HELP}"));
        match argument.as_str() {
            "--elems" => options.n_elems = value()?.parse()?,
            "--repetitions" => options.n_repetitions = value()?.parse()?,
            "--python" => options.python = Some(value()?.into()),
            "--ratios" => options.ratios = Some(value()?.into()),
            "--large" => options.large = true,
            _ => bail!("{argument:?} is not known\n{HELP}"),
        }
    }
    if options.n_elems == 0 || !options.n_elems.is_multiple_of(1024) {
        bail!("--elems takes a multiple of 1024");
    }
    Ok(options)
}

fn main() -> Result<()> {
    let options = options()?;
    let weights = data::weights(options.n_elems);
    let machine = report::machine(options.n_elems, options.n_repetitions);
    println!("{machine}\n");

    // What is measured. Rows of GPU adapters are added here: each says what limits it, and gives its own time, so that it
    // may come from timestamps.
    let mut runner = Runner::default();
    let out = limits::Out::new(vec![1; weights.len() * 4].into());
    limits::add(&mut runner, &weights, &out);
    cpu::add(&mut runner, &weights, &out);
    candle::add(&mut runner, &weights)?;
    match &options.python {
        Some(python) => peers::add(&mut runner, python, &weights)?,
        None => println!("No Python with the peers: `cargo xtask interop` installs them.\n"),
    }
    let results = runner.run(options.n_repetitions)?;
    report::tables(&results);
    if let Some(path) = &options.ratios {
        report::ratios(&machine, &results, path)?;
    }
    if options.large {
        cpu::sizes(options.n_repetitions)?;
    }
    Ok(())
}
