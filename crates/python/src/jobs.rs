//! The jobs on files, with progress and a way to stop.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use wgquant::checkpoint::{
    self, CompareOptions, DequantizeOptions, OnProgress, Override, Progress, QuantizeOptions, Selection, Task,
};
use wgquant::{Format, Result};

use crate::engines::engines_for_job;
use crate::errors::{OrRaise, exception};
use crate::packed::dtype_of;
use crate::reports::{Compared, Report, compared};

/// Signals are looked for, and progress reported, this often.
const INTERVAL: Duration = Duration::from_millis(50);

/// How a checkpoint is quantized, by the names that Python has for it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Options {
    format: String,
    container: String,
    include: Vec<String>,
    exclude: Vec<String>,
    min_elements: Option<u64>,
    copy_unfit: bool,
    overrides: Vec<(String, Option<String>)>,
    shard_size: Option<u64>,
    verify: String,
    force: bool,
    resume: bool,
    sync: bool,
}

impl Options {
    fn build(self) -> PyResult<QuantizeOptions> {
        let format_of = |name: &str| Format::from_name(name).or_raise();
        let overrides = self
            .overrides
            .into_iter()
            .map(|(pattern, format)| Ok(Override { pattern, format: format.as_deref().map(format_of).transpose()? }));
        Ok(QuantizeOptions {
            format: format_of(&self.format)?,
            container: self.container.parse().or_raise()?,
            selection: Selection {
                include: self.include,
                exclude: self.exclude,
                min_elements: self.min_elements,
                copy_unfit: self.copy_unfit,
                overrides: overrides.collect::<PyResult<_>>()?,
            },
            verify: self.verify.parse().or_raise()?,
            force: self.force,
            resume: self.resume,
            shard_size: self.shard_size,
            sync: self.sync,
            keep_journal: false,
        })
    }
}

/// Looks for signals, and keeps what the interpreter raised for one.
pub(crate) struct Signals {
    last: Instant,
    pub(crate) raised: Option<PyErr>,
}

impl Default for Signals {
    fn default() -> Self {
        Self { last: Instant::now(), raised: None }
    }
}

impl Signals {
    /// Calls `report` with the interpreter's lock, if that is due, and says whether to stop.
    pub(crate) fn look(&mut self, report: impl FnOnce(Python<'_>) -> PyResult<()>) -> bool {
        if self.raised.is_none() && self.last.elapsed() >= INTERVAL {
            self.look_now(report);
        }
        self.raised.is_some()
    }

    fn look_now(&mut self, report: impl FnOnce(Python<'_>) -> PyResult<()>) {
        self.last = Instant::now();
        self.raised = Python::attach(report).err();
    }
}

/// Runs a job without the interpreter's lock. Its progress goes to `callback`, and what that raises, or a signal such as
/// Ctrl-C's, ends it: what it has finished stays if it is to `keep` that for another run.
fn run_job<T: Send>(
    py: Python<'_>,
    callback: Option<Py<PyAny>>,
    keep: bool,
    job: impl FnOnce(&mut OnProgress<'_>) -> Result<T> + Send,
) -> PyResult<T> {
    let mut signals = Signals::default();
    let slot = &mut signals;
    let done = py.detach(move || {
        job(&mut |progress: Progress<'_>| {
            let was_raised = slot.raised.is_some();
            let report = |py: Python<'_>| report(py, callback.as_ref(), progress);
            if progress.done_bytes >= progress.total_bytes && !was_raised {
                slot.look_now(report);
            } else {
                slot.look(report);
            }
            if slot.raised.is_some() && !was_raised {
                if keep { progress.stop() } else { progress.give_up() }
            }
        })
    });
    match signals.raised {
        Some(error) => Err(error),
        None => done.map_err(|error| exception(&error)),
    }
}

fn report(py: Python<'_>, callback: Option<&Py<PyAny>>, progress: Progress<'_>) -> PyResult<()> {
    py.check_signals()?;
    if let Some(callback) = callback {
        callback.call1(py, (progress.tensor, progress.done_bytes, progress.total_bytes))?;
    }
    Ok(())
}

#[pyfunction]
pub(crate) fn quantize_file(
    py: Python<'_>,
    source: PathBuf,
    destination: PathBuf,
    options: Options,
    device: &str,
    memory: Option<u64>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Report> {
    let options = options.build()?;
    let done = run_job(py, progress, options.resume, |progress| {
        let engines = engines_for_job(device, memory)?;
        pollster::block_on(checkpoint::quantize(&engines, &source, &destination, &options, progress))
    });
    Ok(done?.into())
}

#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the caller in Python names them")]
pub(crate) fn quantize_task(
    py: Python<'_>,
    source: PathBuf,
    destination: PathBuf,
    options: Options,
    task: (usize, usize),
    device: &str,
    memory: Option<u64>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Report> {
    let (options, task) = (options.build()?, Task::new(task.0, task.1).or_raise()?);
    let done = run_job(py, progress, false, |progress| {
        let engines = engines_for_job(device, memory)?;
        pollster::block_on(checkpoint::quantize_task(&engines, &source, &destination, &options, task, progress))
    })?;
    Ok(Report::from(done.report).of_files(done.files, done.n_files))
}

#[pyfunction]
pub(crate) fn finish_tasks(
    py: Python<'_>,
    source: PathBuf,
    destination: PathBuf,
    options: Options,
    progress: Option<Py<PyAny>>,
) -> PyResult<Report> {
    let options = options.build()?;
    let done =
        run_job(py, progress, false, |progress| checkpoint::finish_tasks(&source, &destination, &options, progress));
    Ok(done?.into())
}

/// What a task of so many would do: names, lengths and recorded digests of its files, how many files there are in all, and
/// the runs of bytes that it reads of the input's files.
type TaskPlan = (Vec<(String, u64, Option<String>)>, usize, Vec<(PathBuf, u64, u64)>);

#[pyfunction]
pub(crate) fn plan_task(
    py: Python<'_>,
    source: PathBuf,
    destination: PathBuf,
    options: Options,
    task: (usize, usize),
) -> PyResult<TaskPlan> {
    let (options, task) = (options.build()?, Task::new(task.0, task.1).or_raise()?);
    let plan = py.detach(|| checkpoint::plan_task(&source, &destination, &options, task)).or_raise()?;
    let files = plan.files.into_iter().map(|file| (file.name, file.n_bytes, file.digest)).collect();
    let reads = plan.reads.into_iter().map(|(path, run)| (path, run.start, run.end)).collect();
    Ok((files, plan.n_files, reads))
}

#[pyfunction]
pub(crate) fn finish_elsewhere(
    py: Python<'_>,
    source: PathBuf,
    destination: PathBuf,
    options: Options,
) -> PyResult<Report> {
    let options = options.build()?;
    let done =
        run_job(py, None, false, |progress| checkpoint::finish_elsewhere(&source, &destination, &options, progress));
    Ok(done?.into())
}

#[pyfunction]
pub(crate) fn holds_weights(name: PathBuf) -> bool {
    checkpoint::holds_weights(&name)
}

#[pyfunction]
pub(crate) fn plan(py: Python<'_>, source: PathBuf, destination: PathBuf, options: Options) -> PyResult<Report> {
    let options = options.build()?;
    Ok(py.detach(|| checkpoint::plan(&source, &destination, &options)).or_raise()?.into())
}

#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the caller in Python names them")]
pub(crate) fn dequantize_file(
    py: Python<'_>,
    source: PathBuf,
    destination: PathBuf,
    dtype: Option<&str>,
    force: bool,
    sync: bool,
    device: &str,
    memory: Option<u64>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Report> {
    let options = DequantizeOptions { dtype: dtype.map(dtype_of).transpose()?, force, sync };
    let done = run_job(py, progress, false, |progress| {
        let engines = engines_for_job(device, memory)?;
        pollster::block_on(checkpoint::dequantize(&engines, &source, &destination, options, progress))
    });
    Ok(done?.into())
}

/// The report, and the first mismatch.
#[pyfunction]
pub(crate) fn verify(
    py: Python<'_>,
    original: PathBuf,
    quantized: PathBuf,
    progress: Option<Py<PyAny>>,
) -> PyResult<(Report, Option<String>)> {
    let report: Report =
        run_job(py, progress, false, |progress| checkpoint::verify(&original, &quantized, progress))?.into();
    let mismatch = report.mismatch().map(str::to_owned);
    Ok((report, mismatch))
}

#[pyfunction]
pub(crate) fn inspect(py: Python<'_>, path: PathBuf) -> PyResult<Report> {
    Ok(py.detach(|| checkpoint::inspect(&path)).or_raise()?.into())
}

/// The formats in all, and then each for each tensor.
#[pyfunction]
pub(crate) fn compare(
    py: Python<'_>,
    original: PathBuf,
    formats: Option<Vec<String>>,
    include: Vec<String>,
    exclude: Vec<String>,
    min_elements: Option<u64>,
    progress: Option<Py<PyAny>>,
) -> PyResult<(Vec<Compared>, Vec<Compared>)> {
    let mut chosen = Vec::new();
    for name in formats.unwrap_or_else(|| Format::ALL.iter().map(|format| format.name().to_owned()).collect()) {
        let format = Format::from_name(&name).or_raise()?;
        if !chosen.contains(&format) {
            chosen.push(format);
        }
    }
    let selection = Selection { include, exclude, min_elements, copy_unfit: true, ..Selection::default() };
    let options = CompareOptions { formats: chosen, selection };
    Ok(compared(run_job(py, progress, false, |progress| checkpoint::compare(&original, &options, progress))?))
}
