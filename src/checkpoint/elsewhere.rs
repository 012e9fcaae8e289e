//! Tasks whose input or parts lie elsewhere, as in an object store: what a task reads, so that only that is brought here,
//! and the last step without the files that tasks made.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::data::io_error;
use super::progress::{OnProgress, Ticker};
use super::quantize::QuantizeOptions;
use super::quantize_report::QuantizeReport;
use super::source::Source;
use super::tasks::{FILES, Job, Task, files_of};
use crate::error::{Error, Result};

/// What a task will do, and what it needs for that.
#[derive(Debug, Clone)]
pub struct TaskPlan {
    /// The files that are its part; none if there are more tasks than files.
    pub files: Vec<PlannedFile>,
    /// How many files the whole output has.
    pub n_files: usize,
    /// What it reads of the input: files, and runs of bytes in them without gap or overlap between two. The headers of all
    /// files are among them.
    pub reads: Vec<(PathBuf, Range<u64>)>,
}

/// A file of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Its name in the output's folder.
    pub name: String,
    /// Its length.
    pub n_bytes: u64,
    /// The BLAKE3 digest of all its bytes in hexadecimal, if a record of it is here.
    pub digest: Option<String>,
}

/// Plans what [`quantize_task()`](super::quantize_task()) would do, and does nothing of it. Of the input's files, only what
/// their headers say is looked at.
///
/// # Errors
/// As [`quantize_task()`](super::quantize_task()) gives before any work.
pub fn plan_task(input: &Path, output: &Path, options: &QuantizeOptions, task: Task) -> Result<TaskPlan> {
    let job = Job::open(input, output, options)?;
    let (mut files, mut reads) = (Vec::new(), headers(&job.source));
    for number in files_of(&job.plan, &job.source, task) {
        let record = job.record(number).filter(|_| !options.force);
        if let Some(record) = &record {
            job.check_job(number, record)?;
        }
        let n_bytes = job.plan.layout.files[number].n_bytes();
        files.push(PlannedFile { name: job.name(number), n_bytes, digest: record.map(|record| record.blake3) });
        reads.extend(tensors(&job.source, job.plan.files[number].clone()));
    }
    Ok(TaskPlan { files, n_files: job.plan.files.len(), reads: joined(reads) })
}

/// [`finish_tasks()`](super::finish_tasks()) where the records of all parts are here, and the files are elsewhere: the
/// caller has held each against its record, and puts what this makes beside them. That is a folder with all that the output
/// has but the files with weights.
///
/// # Errors
/// [`Error::Refused`] that names the parts whose records are missing or another job's, [`Error::BadFile`] for a record
/// that is not what a task wrote, [`Error::Io`].
pub fn finish_elsewhere(
    input: &Path,
    output: &Path,
    options: &QuantizeOptions,
    progress: &mut OnProgress<'_>,
) -> Result<QuantizeReport> {
    let job = Job::open(input, output, options)?;
    let files = job.parts.join(FILES);
    let failed = |error| io_error("can't be created", error).in_file(&files);
    std::fs::create_dir_all(&files).map_err(failed)?;
    let records = job.records(None)?;
    let ticker = Ticker::new(job.plan.layout.n_bytes(), progress);
    for (number, record) in records.iter().enumerate() {
        let name = job.name(number);
        if record.bytes != job.plan.layout.files[number].n_bytes() {
            let text = format!("the record of its part {name} is not what its task wrote: run that task again");
            return Err(Error::BadFile(text).in_file(output));
        }
        ticker.of(&name).add(record.bytes)?;
    }
    let report = job.finished(&records, options);
    job.name_it(&files, options)?;
    std::fs::remove_dir_all(&job.parts).map_err(|error| io_error("can't be removed", error).in_file(&job.parts))?;
    Ok(report)
}

/// Where the headers lie.
fn headers(source: &Source) -> Vec<(PathBuf, Range<u64>)> {
    source.data().0.iter().map(|section| (section.path.clone(), 0..section.start)).collect()
}

/// Where tensors lie in their files.
fn tensors(source: &Source, numbers: Range<usize>) -> impl Iterator<Item = (PathBuf, Range<u64>)> {
    let sections = source.data().0;
    source.tensors()[numbers].iter().filter(|tensor| tensor.n_bytes > 0).filter_map(move |tensor| {
        let section = sections[..sections.partition_point(|section| section.first <= tensor.offset)].last()?;
        let first = section.start + (tensor.offset - section.first);
        Some((section.path.clone(), first..first + tensor.n_bytes))
    })
}

/// Runs of bytes in order, with those joined that touch.
fn joined(mut runs: Vec<(PathBuf, Range<u64>)>) -> Vec<(PathBuf, Range<u64>)> {
    runs.sort_by(|(a, at), (b, bt)| (a, at.start).cmp(&(b, bt.start)));
    let mut out: Vec<(PathBuf, Range<u64>)> = Vec::new();
    for (path, run) in runs {
        match out.last_mut() {
            Some((last, before)) if *last == path && before.end >= run.start => before.end = before.end.max(run.end),
            _ => out.push((path, run)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_touch_are_one() {
        let run = |path: &str, run| (PathBuf::from(path), run);
        let runs =
            vec![run("b", 0..8), run("a", 8..20), run("a", 0..8), run("a", 30..40), run("a", 20..21), run("b", 9..10)];
        let expected = [run("a", 0..21), run("a", 30..40), run("b", 0..8), run("b", 9..10)];
        assert_eq!(joined(runs), expected);
    }
}
