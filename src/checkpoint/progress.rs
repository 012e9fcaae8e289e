//! How far a job is.

/// How far a job is. Bytes are those of the job's input as it goes through them; one that also verifies counts them again.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The tensor that is being worked on.
    pub tensor: &'a str,
    /// Bytes done, of the whole job.
    pub done_bytes: u64,
    /// Bytes there are to do.
    pub total_bytes: u64,
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
    pub(crate) fn add(&mut self, tensor: &str, n_bytes: u64) {
        self.done_bytes += n_bytes;
        (self.report)(Progress { tensor, done_bytes: self.done_bytes, total_bytes: self.total_bytes });
    }
}
