//! The job `quantize` in tasks: processes that know nothing of each other, on one machine or on many, and one that
//! finishes what they made.
//!
//! The unit is a file of the output. Which files there are follows from the input's headers and the options, as in a run of
//! one process; so does which task makes which. A task makes each file in a folder of its own, checks it, and renames it
//! into `NAME.wgquant-parts/files`; then a record of it, with its digest, gets its name. So a task can be killed, repeated
//! and run twice at once: a file is there whole or not at all, and its bytes are always the same. Nothing looks like a
//! model before the last step, which holds every file against its record, adds the index, and renames the folder.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::data::io_error;
use super::journal::{ANOTHER_RUN, Entry, FigureBits, difference};
use super::output::{Kind, Output, Target, beside};
use super::plan::Plan;
use super::progress::{OnProgress, Ticker};
use super::quantize::{QuantizeOptions, Ran, describe, n_passes, recorded, run, target};
use super::quantize_report::{QuantizeReport, QuantizedTensor};
use super::source::{INDEX_FILE, Source};
use crate::engine::Engine;
use crate::error::{Error, Result};

/// What is added to an output's name for the folder that its tasks work in.
const PARTS: &str = ".wgquant-parts";
/// In there, the folder that becomes the output.
pub(super) const FILES: &str = "files";
/// In there, what is locked by the run that finishes.
const LOCK: &str = "lock";
/// Parts that a message names at most.
const MAX_NAMED: usize = 5;
/// Bytes of a file that are read at a time for its digest.
const DIGEST_BYTES: usize = 1 << 20;

/// One of several tasks that do a job together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    number: usize,
    of: usize,
}

impl Task {
    /// Task `number` of `of`, counted from 1.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such task.
    pub fn new(number: usize, of: usize) -> Result<Self> {
        if number == 0 || number > of {
            return Err(Error::Refused(format!("there is no task {number} of {of}: tasks count from 1")));
        }
        Ok(Self { number, of })
    }
}

/// What a task did.
#[derive(Debug, Clone)]
pub struct TaskReport {
    /// Names of the files that are its part; none if there are more tasks than files.
    pub files: Vec<String>,
    /// How many files the whole output has.
    pub n_files: usize,
    /// Its tensors and their bytes. Those of files that were there already count as resumed.
    pub report: QuantizeReport,
}

/// A file that is done.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// What the job is, as in a journal.
    job: Value,
    /// Who did it.
    made_by: String,
    /// How many tasks there were.
    n_tasks: usize,
    /// The file's length, and the BLAKE3 digest of all its bytes.
    pub(super) bytes: u64,
    pub(super) blake3: String,
    tensors: Vec<Entry>,
}

/// Does one task's part of what [`quantize()`](super::quantize()) does: some files of an output that is a folder. All tasks
/// need the same input and options, and see the same folders. When all are done, [`finish_tasks()`] makes the output of
/// their parts. A task that is repeated keeps what it finds done; with `options.force` it does all of it again.
///
/// # Errors
/// As [`quantize()`](super::quantize()); and [`Error::Refused`] for an output of one file, and where parts of another job
/// lie. Files that are done stay, of the others nothing remains.
pub async fn quantize_task(
    engines: &(impl AsRef<[Engine]> + ?Sized),
    input: &Path,
    output: &Path,
    options: &QuantizeOptions,
    task: Task,
    progress: &mut OnProgress<'_>,
) -> Result<TaskReport> {
    let engines = engines.as_ref();
    let job = Job::open(input, output, options)?;
    let Job { source, plan, parts, .. } = &job;
    let numbers = files_of(plan, source, task);
    let tensors = numbers.iter().flat_map(|&number| plan.files[number].clone());
    let bytes_in = tensors.map(|ix| source.tensors()[ix].n_bytes).sum::<u64>();
    let ticker = Ticker::new(bytes_in.saturating_mul(n_passes(options.verify)), progress);
    let mut done = TaskReport {
        files: Vec::new(),
        n_files: plan.files.len(),
        report: job.report(Engine::description_of(engines), bytes_in, options),
    };
    std::fs::create_dir_all(parts.join(FILES)).map_err(|error| io_error("can't be created", error).in_file(parts))?;
    for number in numbers {
        let name = job.name(number);
        let ran = match job.done(number, options, &ticker)? {
            Some(tensors) => Ran { n_resumed: tensors.len(), tensors, notices: Vec::new() },
            None => job.make(engines, number, options, task, &ticker).await?,
        };
        done.report.tensors.extend(ran.tensors);
        done.report.n_resumed += ran.n_resumed;
        done.report.notices.extend(ran.notices);
        done.report.bytes_out += plan.layout.files[number].n_bytes();
        done.files.push(name);
    }
    Ok(done)
}

/// Makes the output of the parts that tasks with the same input and options have made: holds every file against its digest,
/// adds the index and the input's other files, and gives the folder its name. It can be repeated.
///
/// # Errors
/// [`Error::Refused`] that names the parts which are missing or another job's, [`Error::BadFile`] for one that is not what
/// its task wrote, [`Error::Io`]. All parts stay.
pub fn finish_tasks(
    input: &Path,
    output: &Path,
    options: &QuantizeOptions,
    progress: &mut OnProgress<'_>,
) -> Result<QuantizeReport> {
    let parts = beside(output, PARTS);
    if !parts.is_dir() {
        let text = "no task has made a part of it: run quantize with --shard-task first, with the same options";
        return Err(Error::Refused(text.to_owned()).in_file(output));
    }
    // Of a run that was killed when all was done but to tidy up.
    let is_named = !parts.join(FILES).exists() && output.is_dir();
    let force = options.force || is_named;
    let job = Job::open(input, output, &QuantizeOptions { force, ..options.clone() })?;
    let _lock = lock(&job.parts).map_err(|error| error.in_file(output))?;
    let files = if is_named { output.to_owned() } else { job.parts.join(FILES) };
    let records = job.records(Some(&files))?;

    let ticker = Ticker::new(job.plan.layout.n_bytes(), progress);
    for (number, record) in records.iter().enumerate() {
        job.check(number, &files, record, &ticker)?;
    }
    let report = job.finished(&records, options);
    if !is_named {
        job.name_it(&files, options)?;
    }
    let removed = std::fs::remove_dir_all(&job.parts);
    removed.map_err(|error| io_error("can't be removed, and the output is complete", error).in_file(&job.parts))?;
    Ok(report)
}

/// What all tasks and the last step know.
pub(super) struct Job {
    pub(super) source: Source,
    target: Target,
    pub(super) plan: Plan,
    /// The folder that tasks work in.
    pub(super) parts: PathBuf,
    /// What the parts' bytes depend on.
    description: Value,
}

impl Job {
    pub(super) fn open(input: &Path, output: &Path, options: &QuantizeOptions) -> Result<Self> {
        let source = Source::open(input)?;
        let target = target(&source, output, options)?;
        let plan = Plan::new(&source, options).map_err(|error| error.in_file(input))?;
        if target.kind() == Kind::File {
            let text = "is to be one file, which tasks can't share: give --shard-size, so that it becomes a folder";
            return Err(Error::Refused(text.to_owned()).in_file(output));
        }
        let (parts, description) = (beside(output, PARTS), describe(&source, options)?);
        Ok(Self { source, target, plan, parts, description })
    }

    /// A report without tensors.
    fn report(&self, adapter: String, bytes_in: u64, options: &QuantizeOptions) -> QuantizeReport {
        QuantizeReport {
            adapter,
            format: options.format,
            container: options.container,
            bytes_in,
            bytes_out: 0,
            tensors: Vec::new(),
            n_resumed: 0,
            notices: self.plan.notices.clone(),
        }
    }

    /// What the tasks did together.
    pub(super) fn finished(&self, records: &[Record], options: &QuantizeOptions) -> QuantizeReport {
        let mut made_by: Vec<&str> = Vec::new();
        for record in records {
            if !made_by.contains(&record.made_by.as_str()) {
                made_by.push(&record.made_by);
            }
        }
        let mut report = self.report(made_by.join(", "), self.source.n_bytes(), options);
        report.bytes_out = self.plan.layout.n_bytes();
        let tensors = records.iter().enumerate().flat_map(|(number, record)| self.recorded(number, record, options));
        report.tensors = tensors.collect();
        report
    }

    pub(super) fn name(&self, number: usize) -> String {
        self.plan.layout.names().nth(number).unwrap_or_default()
    }

    fn record_path(&self, number: usize) -> PathBuf {
        self.parts.join(format!("{}.json", self.name(number)))
    }

    /// The record of a file, if there is one that can be read.
    pub(super) fn record(&self, number: usize) -> Option<Record> {
        let text = std::fs::read(self.record_path(number)).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        (record.tensors.len() == self.plan.files[number].len()).then_some(record)
    }

    /// Refuses a part of another job.
    pub(super) fn check_job(&self, number: usize, record: &Record) -> Result<()> {
        match difference(&record.job, &self.description) {
            None => Ok(()),
            Some(what) => Err(Error::Refused(format!(
                "its part {} was made with another {what}: run its task again with --force",
                self.name(number)
            ))
            .in_file(self.target.path())),
        }
    }

    /// The tensors of a file that is there already, as it should be.
    fn done(
        &self,
        number: usize,
        options: &QuantizeOptions,
        ticker: &Ticker<'_>,
    ) -> Result<Option<Vec<QuantizedTensor>>> {
        let Some(record) = self.record(number).filter(|_| !options.force) else { return Ok(None) };
        self.check_job(number, &record)?;
        let path = self.parts.join(FILES).join(self.name(number));
        if !digest(&path, |_| Ok(())).is_ok_and(|found| found == (record.bytes, record.blake3.clone())) {
            return Ok(None);
        }
        let tensors = self.recorded(number, &record, options);
        for tensor in &tensors {
            ticker.of(&tensor.name).add(tensor.bytes_in.saturating_mul(n_passes(options.verify)))?;
        }
        Ok(Some(tensors))
    }

    /// The tensors of a file as its record has them.
    fn recorded(&self, number: usize, record: &Record, options: &QuantizeOptions) -> Vec<QuantizedTensor> {
        let range = self.plan.files[number].clone();
        let steps = self.source.tensors()[range.clone()].iter().zip(&self.plan.steps[range]);
        steps.zip(&record.tensors).map(|((tensor, step), done)| recorded(tensor, step, done, options.verify)).collect()
    }

    /// Makes a file and its record.
    async fn make(
        &self,
        engines: &[Engine],
        number: usize,
        options: &QuantizeOptions,
        task: Task,
        ticker: &Ticker<'_>,
    ) -> Result<Ran> {
        let (name, failed) = (self.name(number), |error| io_error("can't be written", error).in_file(&self.parts));
        let place = tempfile::Builder::new().prefix(&format!("{name}.")).tempdir_in(&self.parts).map_err(failed)?;
        let place = place.keep(); // the output takes it away
        let output = Output::of_one_file(self.target.clone(), place.clone(), &self.plan.layout, number)?;
        let job = (engines, &self.source, &self.plan);
        let (mut output, ran) = run(job, self.plan.files[number].clone(), output, options.verify, ticker).await?;
        output.close();
        let made = place.join(&name);
        if options.sync {
            File::open(&made).and_then(|file| file.sync_all()).map_err(failed)?;
        }
        let (bytes, blake3) = digest(&made, |_| Ok(()))?;
        let done = ran.tensors.iter().map(|tensor| Entry {
            tensor: tensor.name.clone(),
            digest: tensor.digest.map(|digest| blake3::Hash::from(digest).to_hex().to_string()).unwrap_or_default(),
            figures: tensor.figures.map(FigureBits::from),
        });
        let (job, made_by) = (self.description.clone(), Engine::description_of(engines));
        let record = Record { job, made_by, n_tasks: task.of, bytes, blake3, tensors: done.collect() };
        let text = serde_json::to_vec(&record).map_err(|error| failed(error.into()))?;
        let record = place.join("record");
        std::fs::write(&record, text).map_err(failed)?;
        // An old record does not fit the new file, nor the other way round.
        match std::fs::remove_file(self.record_path(number)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        std::fs::rename(&made, self.parts.join(FILES).join(&name)).map_err(failed)?;
        std::fs::rename(&record, self.record_path(number)).map_err(failed)?;
        drop(output);
        Ok(ran)
    }

    /// The records of all files; those whose file is in the folder `files`, if one is given.
    pub(super) fn records(&self, files: Option<&Path>) -> Result<Vec<Record>> {
        let found: Vec<_> = (0..self.plan.files.len())
            .map(|number| {
                self.record(number).filter(|_| files.is_none_or(|files| files.join(self.name(number)).is_file()))
            })
            .collect();
        let n_tasks = found.iter().flatten().map(|record| record.n_tasks).next();
        let missing: Vec<_> = (0..found.len()).filter(|&number| found[number].is_none()).collect();
        if !missing.is_empty() {
            let named = missing.iter().take(MAX_NAMED).map(|&number| self.with_task(number, n_tasks));
            let mut named = named.collect::<Vec<_>>().join(", ");
            if missing.len() > MAX_NAMED {
                named += &format!(" and {} more", missing.len() - MAX_NAMED);
            }
            let text = match missing.len() {
                1 => format!("its part {named} is missing"),
                _ => format!("its parts {named} are missing"),
            };
            return Err(Error::Refused(text).in_file(self.target.path()));
        }
        let records: Vec<_> = found.into_iter().flatten().collect();
        for (number, record) in records.iter().enumerate() {
            self.check_job(number, record)?;
        }
        Ok(records)
    }

    /// A file, and the task that makes it.
    fn with_task(&self, number: usize, n_tasks: Option<usize>) -> String {
        let name = self.name(number);
        let makes = |&task: &Task| files_of(&self.plan, &self.source, task).contains(&number);
        let tasks = n_tasks.map(|of| (1..=of.min(self.plan.files.len())).map(move |number| Task { number, of }));
        match tasks.and_then(|mut tasks| tasks.find(makes)) {
            Some(Task { number, of }) => format!("{name} (--shard-task {number}/{of})"),
            None => name,
        }
    }

    /// Holds a file against its record.
    fn check(&self, number: usize, files: &Path, record: &Record, ticker: &Ticker<'_>) -> Result<()> {
        let name = self.name(number);
        let found = {
            let mut ticks = ticker.of(&name);
            digest(&files.join(&name), |n_bytes| ticks.add(n_bytes))?
        };
        if found == (record.bytes, record.blake3.clone()) && found.0 == self.plan.layout.files[number].n_bytes() {
            return Ok(());
        }
        let again = self.with_task(number, Some(record.n_tasks));
        let text = format!("its part {again} is not what its task wrote: run that task again");
        Err(Error::BadFile(text).in_file(self.target.path()))
    }

    /// Adds what else is in the folder, the index last, and gives it its name.
    pub(super) fn name_it(&self, files: &Path, options: &QuantizeOptions) -> Result<()> {
        let names: Vec<_> = self.plan.layout.names().collect();
        let failed = |error| io_error("can't be tidied up", error).in_file(files);
        for entry in std::fs::read_dir(files).map_err(failed)? {
            // Parts of a job that was given up.
            let entry = entry.map_err(failed)?;
            if !names.iter().any(|name| entry.file_name() == name.as_str()) {
                std::fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        let output = Output::of_files(self.target.clone(), files.to_owned());
        self.plan.add_other_files(&output, &self.source)?;
        if let Some(index) = &self.plan.layout.index {
            output.add_file(INDEX_FILE, index.as_bytes())?;
        }
        self.source.check_unchanged()?;
        output.finish(options.sync, false)
    }
}

/// The files that are a task's part, by their numbers: the largest input first, each to the task that has least.
pub(super) fn files_of(plan: &Plan, source: &Source, task: Task) -> Vec<usize> {
    let bytes_in = |range: &std::ops::Range<usize>| source.tensors()[range.clone()].iter().map(|tensor| tensor.n_bytes);
    let mut files: Vec<_> = plan.files.iter().map(|range| bytes_in(range).sum::<u64>()).enumerate().collect();
    files.sort_by_key(|&(number, bytes)| (std::cmp::Reverse(bytes), number));
    let mut loads = vec![(0_u64, 0_usize); task.of.min(files.len())];
    let mut own = Vec::new();
    for (number, bytes) in files {
        let Some((ix, load)) = loads.iter_mut().enumerate().min_by_key(|(ix, load)| (**load, *ix)) else { break };
        *load = (load.0.saturating_add(bytes), load.1 + 1);
        if ix + 1 == task.number {
            own.push(number);
        }
    }
    own.sort_unstable();
    own
}

/// A file's length and digest; `tick` is told of every piece.
fn digest(path: &Path, mut tick: impl FnMut(u64) -> Result<()>) -> Result<(u64, String)> {
    use std::io::Read;
    let failed = |error| io_error("can't be read", error).in_file(path);
    let (mut file, mut buffer) = (File::open(path).map_err(failed)?, vec![0; DIGEST_BYTES]);
    let (mut hasher, mut n_bytes) = (blake3::Hasher::new(), 0);
    loop {
        let n = file.read(&mut buffer).map_err(failed)?;
        if n == 0 {
            return Ok((n_bytes, hasher.finalize().to_hex().to_string()));
        }
        hasher.update(&buffer[..n]);
        n_bytes += n as u64;
        tick(n as u64)?;
    }
}

/// Keeps a second run from finishing the same parts.
fn lock(parts: &Path) -> Result<File> {
    let file = File::create(parts.join(LOCK)).map_err(|error| io_error("can't be created", error).in_file(parts))?;
    match file.try_lock() {
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Refused(ANOTHER_RUN.to_owned())),
        // Some file systems have no locks; the job is not held up for that.
        _ => Ok(file),
    }
}
