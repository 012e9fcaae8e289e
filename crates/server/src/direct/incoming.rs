//! A checkpoint that is still arriving, read as if it were a file: a read waits until its bytes are there.

use std::io::{ErrorKind, Result};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wgquant::checkpoint::Storage;

use crate::problem::{Kind, Problem};
use crate::queue::Queue;
use crate::spool::{Budget, Spool, lock, spool_problem};

/// How often a read that waits looks whether other work could be done meanwhile.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a read gives up with, so that its worker turns to other work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stalled;

impl std::fmt::Display for Stalled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the client is slow")
    }
}

impl std::error::Error for Stalled {}

/// Whether the library gave up because the client is slow.
pub(crate) fn is_stalled(error: &wgquant::Error) -> bool {
    match error.root() {
        wgquant::Error::Io { source, .. } => {
            source.get_ref().and_then(|inner| inner.downcast_ref::<Stalled>()).is_some()
        }
        _ => false,
    }
}

/// A body on its way.
#[derive(Debug)]
pub(crate) struct Incoming {
    spool: Spool,
    /// The length that the client has declared.
    declared: Option<u64>,
    /// What the header may take, until it has been read.
    header: Mutex<HeaderLimit>,
    state: Mutex<Arrival>,
    changed: Condvar,
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Arrival {
    n_bytes: u64,
    /// Set once nothing more comes.
    end: Option<std::result::Result<(), Problem>>,
    /// How long reads have waited since they last looked for other work.
    waited: Duration,
}

#[derive(Debug)]
struct HeaderLimit {
    max_bytes: u64,
    left: Option<u64>,
}

impl Incoming {
    pub(crate) fn new(budget: Arc<Budget>, declared: Option<u64>, max_header_bytes: u64, queue: Arc<Queue>) -> Self {
        Self {
            spool: Spool::new(budget),
            declared,
            header: Mutex::new(HeaderLimit { max_bytes: max_header_bytes, left: Some(max_header_bytes) }),
            state: Mutex::default(),
            changed: Condvar::new(),
            queue,
        }
    }

    /// Adds what has arrived.
    ///
    /// # Errors
    /// [`Kind::DiskFull`] where neither memory nor disk have room.
    pub(crate) fn push(&self, bytes: &[u8]) -> std::result::Result<(), Problem> {
        let added = if self.spool.has_file() {
            tokio::task::block_in_place(|| self.spool.append(bytes))
        } else {
            self.spool.append(bytes)
        };
        added.map_err(|error| spool_problem(&error))?;
        lock(&self.state).n_bytes += bytes.len() as u64;
        self.changed.notify_all();
        Ok(())
    }

    /// Says that nothing more comes, and whether that is well. Only the first time counts.
    pub(crate) fn end(&self, how: std::result::Result<(), Problem>) {
        lock(&self.state).end.get_or_insert(how);
        self.changed.notify_all();
        self.queue.notify();
    }

    /// Whether nothing more comes.
    pub(crate) fn is_over(&self) -> bool {
        lock(&self.state).end.is_some()
    }

    /// Limits what is read from now on until the header is known.
    pub(crate) fn begin_header(&self) {
        let mut header = lock(&self.header);
        header.left = Some(header.max_bytes);
    }

    /// The header is known.
    pub(crate) fn end_header(&self) {
        lock(&self.header).left = None;
    }

    fn count_header(&self, n: u64) -> Result<()> {
        let mut header = lock(&self.header);
        let Some(left) = header.left else { return Ok(()) };
        match left.checked_sub(n) {
            Some(left) => {
                header.left = Some(left);
                Ok(())
            }
            None => {
                let text = format!(
                    "the checkpoint's header is longer than {} bytes, the most that is taken",
                    header.max_bytes
                );
                Err(Problem::new(Kind::TooLarge, text).into())
            }
        }
    }

    /// Bytes of a body that is all there.
    pub(crate) fn read_body(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.spool.read_range(at, bytes)
    }

    /// Waits until `is_enough`, or the end, which it gives back.
    fn wait(&self, is_enough: impl Fn(&Arrival) -> bool) -> Result<bool> {
        let mut state = lock(&self.state);
        loop {
            if let Some(Err(problem)) = &state.end {
                return Err(problem.clone().into());
            }
            if is_enough(&state) {
                return Ok(true);
            }
            if state.end.is_some() {
                return Ok(false);
            }
            let started = Instant::now();
            (state, _) = self.changed.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            // All waits together, as a body that drips wakes this one ever again.
            state.waited += started.elapsed();
            if state.waited >= PATIENCE {
                state.waited = Duration::ZERO;
                // Not under the lock: the queue looks at this one too.
                drop(state);
                if self.queue.has_ready() {
                    return Err(std::io::Error::other(Stalled));
                }
                state = lock(&self.state);
            }
        }
    }
}

impl Storage for Incoming {
    fn n_bytes(&self) -> Result<u64> {
        if let Some(declared) = self.declared {
            return Ok(declared);
        }
        self.wait(|_| false)?;
        Ok(lock(&self.state).n_bytes)
    }

    fn read_range(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.count_header(bytes.len() as u64)?;
        let end = at.checked_add(bytes.len() as u64).ok_or(ErrorKind::UnexpectedEof)?;
        if !self.wait(|state| state.n_bytes >= end)? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.spool.read_range(at, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incoming(declared: Option<u64>) -> (Arc<Incoming>, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let budget = Arc::new(Budget::new(1 << 20, 1 << 20, folder.path().to_owned()));
        (Arc::new(Incoming::new(budget, declared, 100, Arc::new(Queue::new(1, 1, 1)))), folder)
    }

    #[test]
    fn a_read_waits_for_its_bytes() {
        let (incoming, _folder) = incoming(None);
        let reader = std::thread::spawn({
            let incoming = Arc::clone(&incoming);
            move || {
                let mut bytes = [0; 4];
                incoming.read_range(2, &mut bytes).map(|()| bytes)
            }
        });
        for piece in [b"ab", b"cd", b"ef"] {
            std::thread::sleep(Duration::from_millis(20));
            incoming.push(piece).expect("room");
        }
        assert_eq!(reader.join().expect("no panic").expect("read"), *b"cdef");
        incoming.end(Ok(()));
        assert_eq!(incoming.n_bytes().expect("known"), 6);
        let beyond = incoming.read_range(5, &mut [0; 2]).expect_err("beyond the end");
        assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_client_that_goes_away_ends_a_read() {
        let (incoming, _folder) = incoming(Some(1000));
        assert_eq!(incoming.n_bytes().expect("declared"), 1000);
        let reader = std::thread::spawn({
            let incoming = Arc::clone(&incoming);
            move || incoming.read_range(2, &mut [0; 4])
        });
        incoming.end(Err(Problem::new(Kind::BadRequest, "gone")));
        incoming.end(Ok(()));
        assert!(reader.join().expect("no panic").expect_err("gone").to_string().contains("gone"));
    }

    #[test]
    fn a_header_has_a_limit() {
        let (incoming, _folder) = incoming(None);
        incoming.push(&[0; 300]).expect("room");
        incoming.read_range(0, &mut [0; 60]).expect("within");
        assert!(
            incoming.read_range(60, &mut [0; 60]).expect_err("beyond").to_string().contains("longer than 100 bytes")
        );
        incoming.begin_header();
        incoming.read_range(0, &mut [0; 100]).expect("anew");
        incoming.end_header();
        incoming.read_range(0, &mut [0; 300]).expect("no header any more");
    }
}
