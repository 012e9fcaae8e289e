//! How far a job is, and how it is told to stop.

use std::cell::Cell;

use crate::error::{Error, Result};

/// How far a job is. Bytes are those of the job's input as it goes through them; one that also verifies counts them again.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The tensor that is being worked on; of [`finish_tasks`](super::finish_tasks()), the file.
    pub tensor: &'a str,
    /// Bytes done, of the whole job.
    pub done_bytes: u64,
    /// Bytes there are to do.
    pub total_bytes: u64,
    stop: Option<&'a Cell<bool>>,
}

impl<'a> Progress<'a> {
    /// Progress that belongs to no job, for tests of what shows it.
    #[must_use]
    pub const fn new(tensor: &'a str, done_bytes: u64, total_bytes: u64) -> Self {
        Self { tensor, done_bytes, total_bytes, stop: None }
    }

    /// Ends the job: it fails with [`Error::Stopped`], and nothing of its output remains.
    pub fn stop(&self) {
        if let Some(stop) = self.stop {
            stop.set(true);
        }
    }
}

/// Counts a job's bytes and reports them.
pub(crate) struct Ticker<'a> {
    report: &'a mut dyn FnMut(Progress<'_>),
    done_bytes: u64,
    total_bytes: u64,
}

impl<'a> Ticker<'a> {
    /// A job of `total_bytes`.
    pub(crate) fn new(total_bytes: u64, report: &'a mut dyn FnMut(Progress<'_>)) -> Self {
        Self { report, done_bytes: 0, total_bytes }
    }

    /// Reports that `n_bytes` more are done.
    ///
    /// # Errors
    /// [`Error::Stopped`] if whoever it was reported to says so.
    pub(crate) fn add(&mut self, tensor: &str, n_bytes: u64) -> Result<()> {
        self.done_bytes += n_bytes;
        let stop = Cell::new(false);
        let (done_bytes, total_bytes) = (self.done_bytes, self.total_bytes);
        (self.report)(Progress { tensor, done_bytes, total_bytes, stop: Some(&stop) });
        if stop.get() { Err(Error::Stopped) } else { Ok(()) }
    }
}
