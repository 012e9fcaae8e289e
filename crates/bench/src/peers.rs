//! Peers that come as Python packages: ggml's C code and bitsandbytes, in a process that measures itself when asked to.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::runner::Runner;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/peers.py");

pub(crate) const GGML: [(&str, &str); 3] = [("q4_0", "ggml: q4_0"), ("q8_0", "ggml: q8_0"), ("mxfp4", "ggml: mxfp4")];
pub(crate) const BITSANDBYTES: &str = "bitsandbytes: nf4";

pub(crate) fn add(runner: &mut Runner<'_>, python: &Path, weights: &[f32]) -> Result<()> {
    let data = tempfile::NamedTempFile::new()?;
    std::fs::write(data.path(), bytemuck::cast_slice(weights))?;
    let n_threads = std::thread::available_parallelism()?;
    let mut process = Command::new(python)
        .args([SCRIPT.as_ref(), data.path(), n_threads.to_string().as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} could not be started", python.display()))?;
    let mut questions = process.stdin.take().context("no pipe")?;
    let mut answers = BufReader::new(process.stdout.take().context("no pipe")?);
    let mut ask = move |question: &str| -> Result<f64> {
        writeln!(questions, "{question}")?;
        let mut answer = String::new();
        answers.read_line(&mut answer)?;
        answer.trim().parse().with_context(|| format!("{SCRIPT} said {answer:?} of {question:?}"))
    };
    // The data is read once it answers; the process ends when its input does.
    ask("ready")?;
    drop(data);
    let ask = Arc::new(Mutex::new(ask));
    for (question, name) in GGML.into_iter().chain([("nf4", BITSANDBYTES)]) {
        let ask = ask.clone();
        // bitsandbytes takes seconds for all of it.
        let n_elems = if question == "nf4" { weights.len() / 16 } else { weights.len() };
        runner.add_timed(name, n_elems, move || {
            let mut ask = ask.lock().map_err(|_| anyhow::anyhow!("an earlier question failed"))?;
            Ok(Duration::from_secs_f64(ask(question)?))
        });
    }
    Ok(())
}
