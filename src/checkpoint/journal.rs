//! What a job has done, beside the output that it makes: a line a tensor, so that another run can go on.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::data::io_error;
use crate::error::{Error, Result};
use crate::verify::ErrorFigures;

/// No journal of ours is longer: some hundred bytes a tensor.
const MAX_BYTES: u64 = 1 << 30;

/// Why an output can't be written whose journal is another run's.
pub(crate) const ANOTHER_RUN: &str = "another run is writing it at this moment: wait for that, or give another name";

/// A tensor that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) tensor: String,
    /// BLAKE3 of what was written: as [`Packed::digest`](crate::Packed::digest) has it, or of the bytes that were copied.
    pub(crate) digest: String,
    /// What verifying it gave.
    pub(crate) figures: Option<FigureBits>,
}

/// [`ErrorFigures`], to the bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FigureBits(pub(crate) [u64; 5]);

impl From<ErrorFigures> for FigureBits {
    fn from(figures: ErrorFigures) -> Self {
        Self(figures.to_bits())
    }
}

impl From<FigureBits> for ErrorFigures {
    fn from(FigureBits(bits): FigureBits) -> Self {
        Self::from_bits(bits)
    }
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The first: what the job is.
    Job(Value),
    /// A tensor is written.
    Done(Entry),
    /// The last: all is written, and gets its name.
    Finished,
}

/// An open journal. While it is open, no other run can have it.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    done: BTreeMap<String, Entry>,
    is_finished: bool,
}

impl Journal {
    /// Starts the journal of a job, or with `resume` reads the one that is there.
    ///
    /// # Errors
    /// [`Error::Refused`] if another run has it, or if the one to be resumed is another job's; [`Error::Io`].
    pub(crate) fn open(path: &Path, job: &Value, resume: bool) -> Result<Self> {
        let failed = |error| io_error("its journal can't be written", error);
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(|error| io_error("can't be created", error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Refused(ANOTHER_RUN.to_owned()));
            }
            // Some file systems have no locks; the job is not held up for that.
            Err(TryLockError::Error(_)) => {}
        }
        if !is_at(&file, path) {
            // Its run ended between opening and locking it, and took it away.
            return Self::open(path, job, resume);
        }
        let mut journal = Self { file, done: BTreeMap::new(), is_finished: false };
        if resume {
            let lines = read(&mut journal.file)?;
            if journal.take(lines, job)? {
                return Ok(journal);
            }
        }
        journal.file.set_len(0).and_then(|()| journal.file.seek(SeekFrom::Start(0))).map_err(failed)?;
        journal.append(&Line::Job(job.clone()))?;
        Ok(journal)
    }

    /// Whether another run has it.
    pub(crate) fn is_locked(path: &Path) -> bool {
        let file = File::options().read(true).write(true).open(path);
        file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// Whether the run that had it had written everything.
    pub(crate) fn is_finished(path: &Path) -> bool {
        let lines = File::open(path).map(|mut file| read(&mut file));
        matches!(lines, Ok(Ok(lines)) if lines.last().is_some_and(|line| matches!(line, Line::Finished)))
    }

    /// Takes over what lines say; `false` if there are none.
    fn take(&mut self, lines: Vec<Line>, job: &Value) -> Result<bool> {
        let mut lines = lines.into_iter();
        let Some(Line::Job(begun)) = lines.next() else { return Ok(false) };
        if let Some(what) = difference(&begun, job) {
            return Err(Error::Refused(format!(
                "can't be resumed, because it was begun with another {what}: start afresh with --force"
            )));
        }
        for line in lines {
            match line {
                Line::Done(done) => {
                    self.done.insert(done.tensor.clone(), done);
                }
                Line::Finished => self.is_finished = true,
                Line::Job(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether nothing is done.
    pub(crate) fn is_empty(&self) -> bool {
        self.done.is_empty() && !self.is_finished
    }

    /// How many tensors are done.
    pub(crate) fn n_done(&self) -> usize {
        self.done.len()
    }

    /// What is known of a tensor that is done.
    pub(crate) fn find(&self, tensor: &str) -> Option<&Entry> {
        self.done.get(tensor)
    }

    /// Records that a tensor is written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn add(&mut self, done: Entry) -> Result<()> {
        self.append(&Line::Done(done.clone()))?;
        self.done.insert(done.tensor.clone(), done);
        Ok(())
    }

    /// Records that everything is written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn finish(&mut self) -> Result<()> {
        if !self.is_finished {
            self.append(&Line::Finished)?;
            self.is_finished = true;
        }
        Ok(())
    }

    /// One write a line, so that a run that is killed leaves at most the last one torn.
    fn append(&mut self, line: &Line) -> Result<()> {
        let failed = |error: std::io::Error| io_error("its journal can't be written", error);
        let mut text = serde_json::to_vec(line).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(failed)
    }
}

/// All whole lines; a torn one and what follows it is cut off.
fn read(file: &mut File) -> Result<Vec<Line>> {
    let failed = |error| io_error("its journal can't be read", error);
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(failed)?;
    let (mut lines, mut n_bytes) = (Vec::new(), 0);
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        match serde_json::from_slice(line) {
            Ok(read) if line.ends_with(b"\n") => lines.push(read),
            _ => break,
        }
        n_bytes += line.len() as u64;
    }
    if n_bytes < text.len() as u64 {
        // A journal that is only looked at is not writable.
        let _ = file.set_len(n_bytes);
    }
    file.seek(SeekFrom::Start(n_bytes)).map_err(failed)?;
    Ok(lines)
}

/// Whether an open file is still the one at that path.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let number = |stat: std::fs::Metadata| (stat.dev(), stat.ino());
        matches!((file.metadata().map(number), std::fs::metadata(path).map(number)), (Ok(a), Ok(b)) if a == b)
    }
    #[cfg(not(unix))]
    {
        // There an open file can't be taken away.
        let _ = (file, path);
        true
    }
}

/// What of two jobs differs, in a word.
pub(crate) fn difference(begun: &Value, job: &Value) -> Option<String> {
    let (begun, job) = (begun.as_object()?, job.as_object()?);
    let mut keys = job.keys().chain(begun.keys());
    keys.find(|&key| begun.get(key) != job.get(key)).cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn done(tensor: &str) -> Entry {
        Entry { tensor: tensor.to_owned(), digest: "00".to_owned(), figures: Some(FigureBits([1, 2, 3, 4, u64::MAX])) }
    }

    #[test]
    fn a_journal_comes_back_without_its_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let job = json!({ "format": "sym4" });
        let mut journal = Journal::open(&path, &job, true).unwrap();
        journal.add(done("a")).unwrap();
        journal.add(done("b")).unwrap();
        let locked = Journal::open(&path, &job, true).unwrap_err().to_string();
        assert!(locked.contains("another run is writing it"), "{locked}");
        drop(journal);

        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut journal = Journal::open(&path, &job, true).unwrap();
            let before = journal.n_done();
            assert_eq!(before, whole[..cut].iter().filter(|&&byte| byte == b'\n').count().saturating_sub(1));
            journal.add(done("c")).unwrap();
            drop(journal);
            let journal = Journal::open(&path, &job, true).unwrap();
            assert_eq!((journal.n_done(), journal.find("c")), (before + 1, Some(&done("c"))), "cut at {cut}");
        }
    }

    #[test]
    fn another_job_is_refused_and_a_fresh_start_forgets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let job = |format: &str| json!({ "format": format, "input": ["x"] });
        let mut journal = Journal::open(&path, &job("sym4"), false).unwrap();
        journal.add(done("a")).unwrap();
        journal.finish().unwrap();
        drop(journal);
        assert!(Journal::is_finished(&path));
        let refused = Journal::open(&path, &job("nf4"), true).unwrap_err().to_string();
        assert!(refused.contains("begun with another format"), "{refused}");
        assert!(Journal::open(&path, &job("sym4"), true).unwrap().find("a").is_some());
        assert!(Journal::open(&path, &job("nf4"), false).unwrap().is_empty());
        assert!(!Journal::is_finished(&path));
    }
}
