//! How far a job is, and how it is told to stop.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// What a job calls to say how far it is.
pub type OnProgress<'a> = dyn FnMut(Progress<'_>) + Send + 'a;

/// How far a job is. Bytes are those of the job's input as it goes through them; one that also verifies counts them again.
/// What a lost device had done of a tensor is taken off again.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The tensor that is being worked on; of [`finish_tasks`](super::finish_tasks()), the file.
    pub tensor: &'a str,
    /// Bytes done, of the whole job.
    pub done_bytes: u64,
    /// Bytes there are to do.
    pub total_bytes: u64,
    stop: &'a Cell<Option<Stop>>,
}

/// How a job is to end early.
#[derive(Debug, Clone, Copy)]
enum Stop {
    Keep,
    GiveUp,
}

impl Progress<'_> {
    /// Ends the job soon, with [`Error::Stopped`]. What it has finished is kept as after any fault of the machine.
    pub fn stop(&self) {
        self.stop.set(Some(Stop::Keep));
    }

    /// Ends the job soon, with [`Error::GivenUp`]. Nothing of its output remains.
    pub fn give_up(&self) {
        self.stop.set(Some(Stop::GiveUp));
    }
}

/// Counts a job's bytes and reports them, for all threads that work on it.
pub(crate) struct Ticker<'a>(Mutex<State<'a>>);

struct State<'a> {
    report: &'a mut OnProgress<'a>,
    done_bytes: u64,
    total_bytes: u64,
    stop: Cell<Option<Stop>>,
}

impl<'a> Ticker<'a> {
    /// A job of `total_bytes`.
    pub(crate) fn new(total_bytes: u64, report: &'a mut OnProgress<'a>) -> Self {
        Self(Mutex::new(State { report, done_bytes: 0, total_bytes, stop: Cell::new(None) }))
    }

    /// Counts for one tensor.
    pub(crate) fn of<'t>(&'t self, tensor: &'t str) -> Ticks<'t, 'a> {
        Ticks { ticker: self, tensor, n_bytes: 0 }
    }
}

/// What is counted for one tensor.
pub(crate) struct Ticks<'t, 'a> {
    ticker: &'t Ticker<'a>,
    tensor: &'t str,
    n_bytes: u64,
}

impl Ticks<'_, '_> {
    /// Reports that `n_bytes` more are done.
    ///
    /// # Errors
    /// [`Error::Stopped`] or [`Error::GivenUp`] once the job was told to end.
    pub(crate) fn add(&mut self, n_bytes: u64) -> Result<()> {
        let mut state = self.ticker.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { report, done_bytes, total_bytes, stop } = &mut *state;
        self.n_bytes += n_bytes;
        *done_bytes += n_bytes;
        report(Progress { tensor: self.tensor, done_bytes: *done_bytes, total_bytes: *total_bytes, stop });
        match stop.get() {
            None => Ok(()),
            Some(Stop::Keep) => Err(Error::Stopped),
            Some(Stop::GiveUp) => Err(Error::GivenUp),
        }
    }

    /// Takes back what was counted, for another that does the tensor from its start.
    pub(crate) fn take_back(self) {
        let mut state = self.ticker.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.done_bytes -= self.n_bytes;
    }
}
