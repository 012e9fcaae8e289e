//! Bytes on their way: in memory within what the service may take, beyond that in a temporary file without a name.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use wgquant::checkpoint::Storage;

use crate::problem::{Kind, Problem, is_full};

/// Memory is taken and given back in parts of so many bytes.
const SEGMENT_BYTES: usize = 256 << 10;

/// The data under a lock, also after a panic elsewhere.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much of something is taken, of what there may be.
#[derive(Debug)]
struct Meter {
    used: AtomicU64,
    max: u64,
}

impl Meter {
    fn new(max: u64) -> Self {
        Self { used: AtomicU64::new(0), max }
    }

    /// Takes so many bytes if there are.
    fn take(&self, n: u64) -> bool {
        let more = |used: u64| used.checked_add(n).filter(|&sum| sum <= self.max);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give(&self, n: u64) {
        self.used.fetch_sub(n, Ordering::Relaxed);
    }
}

/// What all bodies and answers together may take of memory and of the disk.
#[derive(Debug)]
pub struct Budget {
    memory: Meter,
    disk: Meter,
    folder: PathBuf,
    /// Segments that are free. They are kept, because an allocator would keep them too, but in as many places as there
    /// are threads, and no sum would bound those.
    idle: Mutex<Vec<Segment>>,
}

type Segment = Box<[u8]>;

impl Budget {
    /// At most `memory` bytes of memory, and `disk` bytes of temporary files in `folder`.
    #[must_use]
    pub fn new(memory: u64, disk: u64, folder: PathBuf) -> Self {
        Self { memory: Meter::new(memory), disk: Meter::new(disk), folder, idle: Mutex::default() }
    }

    /// Bytes of memory that are taken, and that may be.
    #[must_use]
    pub fn memory(&self) -> (u64, u64) {
        (self.memory.used.load(Ordering::Relaxed), self.memory.max)
    }

    /// Bytes of temporary files that are taken, and that may be.
    #[must_use]
    pub fn disk(&self) -> (u64, u64) {
        (self.disk.used.load(Ordering::Relaxed), self.disk.max)
    }

    /// A segment, if there is memory for one; of zeros if so wanted.
    fn segment(&self, zeroed: bool) -> Option<Segment> {
        if !self.memory.take(SEGMENT_BYTES as u64) {
            return None;
        }
        let idle = lock(&self.idle).pop();
        Some(idle.map_or_else(
            || vec![0; SEGMENT_BYTES].into(),
            |mut segment| {
                if zeroed {
                    segment.fill(0);
                }
                segment
            },
        ))
    }
}

/// What is said of memory and disk that have no more room.
pub(crate) fn spool_problem(error: &Error) -> Problem {
    if is_full(error) {
        let text = "what is on its way takes all that temporary files may take: try again later, or send less";
        return Problem::new(Kind::DiskFull, text).retry_after(10);
    }
    Problem::new(Kind::Internal, format!("a temporary file can't be written: {}", error.kind()))
}

/// The same, for who carries it through the library.
fn explained(error: Error) -> Error {
    if is_full(&error) { spool_problem(&error).into() } else { error }
}

/// An error without the folder's path in it, which is nobody's business.
fn plain(error: Error) -> Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), Error::from_raw_os_error)
}

/// Bytes that are written and read by ranges: the first of them in memory, the rest in a temporary file.
#[derive(Debug)]
pub struct Spool {
    budget: Arc<Budget>,
    /// What lies in memory. A segment has a lock of its own, so that threads work on several at once.
    memory: RwLock<Vec<RwLock<Segment>>>,
    /// What lies in the file, once there is one.
    rest: RwLock<Rest>,
}

#[derive(Debug, Default)]
struct Rest {
    file: Option<Arc<File>>,
    /// All bytes, those in memory too.
    n_bytes: u64,
    /// Bytes of the disk that are taken.
    taken: u64,
}

impl Drop for Spool {
    fn drop(&mut self) {
        let segments = std::mem::take(self.memory.get_mut().unwrap_or_else(PoisonError::into_inner));
        let n_bytes = (segments.len() * SEGMENT_BYTES) as u64;
        lock(&self.budget.idle)
            .extend(segments.into_iter().map(|segment| segment.into_inner().unwrap_or_else(PoisonError::into_inner)));
        // Only now, so that whoever takes the room finds the segments.
        self.budget.memory.give(n_bytes);
        let rest = self.rest.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Its space is free once it is closed.
        rest.file = None;
        self.budget.disk.give(rest.taken);
    }
}

/// One place of bytes: in a segment, or in the file.
enum Place {
    Memory { segment: usize, at: usize, n: usize },
    File { at: u64, n: usize },
}

impl Spool {
    /// Nothing yet.
    #[must_use]
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { budget, memory: RwLock::default(), rest: RwLock::default() }
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.rest.read().unwrap_or_else(PoisonError::into_inner).n_bytes
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a part of it lies in a file, so that reading and writing may wait for a disk.
    #[must_use]
    pub fn has_file(&self) -> bool {
        self.rest.read().unwrap_or_else(PoisonError::into_inner).file.is_some()
    }

    /// Makes it so long, with zeros. It does not get shorter.
    ///
    /// # Errors
    /// [`ErrorKind::QuotaExceeded`] where memory and disk are taken, and what the system says of a temporary file.
    pub fn grow(&self, n_bytes: u64) -> Result<()> {
        self.make_room(n_bytes, true)
    }

    fn make_room(&self, n_bytes: u64, zeroed: bool) -> Result<()> {
        let mut rest = self.rest.write().unwrap_or_else(PoisonError::into_inner);
        let mut memory = self.memory.write().unwrap_or_else(PoisonError::into_inner);
        while rest.file.is_none() && (memory.len() * SEGMENT_BYTES) as u64 <= n_bytes.saturating_sub(1) && n_bytes > 0 {
            match self.budget.segment(zeroed) {
                Some(segment) => memory.push(RwLock::new(segment)),
                None => rest.file = Some(Arc::new(tempfile::tempfile_in(&self.budget.folder).map_err(plain)?)),
            }
        }
        let in_file = n_bytes.saturating_sub((memory.len() * SEGMENT_BYTES) as u64);
        if let (Some(file), Some(more)) = (&rest.file, in_file.checked_sub(rest.taken).filter(|&more| more > 0)) {
            if !self.budget.disk.take(more) {
                return Err(ErrorKind::QuotaExceeded.into());
            }
            let grown = file.set_len(in_file);
            rest.taken += more;
            grown?;
        }
        rest.n_bytes = rest.n_bytes.max(n_bytes);
        Ok(())
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// As [`Self::grow`] and [`Storage::write_range`].
    pub fn append(&self, bytes: &[u8]) -> Result<()> {
        let at = self.len();
        // What is not yet written of a segment lies behind the end, and nobody reads it.
        self.make_room(at + bytes.len() as u64, false)?;
        self.write(at, bytes)
    }

    /// The place of the first of `n` bytes from `at` on, and how many of them lie there.
    fn place(&self, n_segments: usize, at: u64, n: usize) -> Place {
        let in_memory = (n_segments * SEGMENT_BYTES) as u64;
        match usize::try_from(at) {
            Ok(start) if at < in_memory => {
                let (segment, at) = (start / SEGMENT_BYTES, start % SEGMENT_BYTES);
                Place::Memory { segment, at, n: n.min(SEGMENT_BYTES - at) }
            }
            _ => Place::File { at: at.saturating_sub(in_memory), n },
        }
    }

    fn file(&self, at: u64, n: usize) -> Result<Option<Arc<File>>> {
        let rest = self.rest.read().unwrap_or_else(PoisonError::into_inner);
        match at.checked_add(n as u64) {
            Some(end) if end <= rest.n_bytes => Ok(rest.file.clone()),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Storage for Spool {
    fn n_bytes(&self) -> Result<u64> {
        Ok(self.len())
    }

    fn read_range(&self, mut at: u64, mut bytes: &mut [u8]) -> Result<()> {
        let file = self.file(at, bytes.len())?;
        let memory = self.memory.read().unwrap_or_else(PoisonError::into_inner);
        while !bytes.is_empty() {
            let n = match self.place(memory.len(), at, bytes.len()) {
                Place::Memory { segment, at, n } => {
                    let segment = memory[segment].read().unwrap_or_else(PoisonError::into_inner);
                    bytes[..n].copy_from_slice(&segment[at..at + n]);
                    n
                }
                Place::File { at, n } => {
                    let file = file.as_deref().ok_or_else(|| Error::from(ErrorKind::UnexpectedEof))?;
                    file.read_range(at, &mut bytes[..n])?;
                    n
                }
            };
            (at, bytes) = (at + n as u64, &mut bytes[n..]);
        }
        Ok(())
    }

    fn write_range(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.write(at, bytes).map_err(explained)
    }

    fn set_n_bytes(&self, n_bytes: u64) -> Result<()> {
        self.grow(n_bytes).map_err(explained)
    }

    fn scratch(&self) -> Option<&Path> {
        Some(&self.budget.folder)
    }
}

impl Spool {
    fn write(&self, mut at: u64, mut bytes: &[u8]) -> Result<()> {
        let file = self.file(at, bytes.len())?;
        let memory = self.memory.read().unwrap_or_else(PoisonError::into_inner);
        while !bytes.is_empty() {
            let n = match self.place(memory.len(), at, bytes.len()) {
                Place::Memory { segment, at, n } => {
                    let mut segment = memory[segment].write().unwrap_or_else(PoisonError::into_inner);
                    segment[at..at + n].copy_from_slice(&bytes[..n]);
                    n
                }
                Place::File { at, n } => {
                    let file = file.as_deref().ok_or_else(|| Error::from(ErrorKind::UnexpectedEof))?;
                    file.write_range(at, &bytes[..n])?;
                    n
                }
            };
            (at, bytes) = (at + n as u64, &bytes[n..]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(memory: u64, disk: u64) -> (Arc<Budget>, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        (Arc::new(Budget::new(memory, disk, folder.path().to_owned())), folder)
    }

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| u8::try_from(i * 7919 % 251).expect("small")).collect()
    }

    #[test]
    fn bytes_come_back_from_memory_and_file() {
        let n = 3 * SEGMENT_BYTES + 17;
        for segments in [0, 1, 2, 4, 9] {
            let (budget, folder) = budget((segments * SEGMENT_BYTES) as u64, 1 << 30);
            let spool = Spool::new(Arc::clone(&budget));
            let wanted = bytes(n);
            for piece in wanted.chunks(100_001) {
                spool.append(piece).expect("room");
            }
            assert_eq!((spool.len(), spool.has_file()), (n as u64, segments < 4), "{segments}");
            for (at, len) in [(0, n), (1, n - 1), (SEGMENT_BYTES - 1, 2), (2 * SEGMENT_BYTES, 1), (n, 0)] {
                let mut found = vec![0; len];
                spool.read_range(at as u64, &mut found).expect("there");
                assert!(found == wanted[at..at + len], "{segments} segments, {len} bytes at {at}");
            }
            assert_eq!(spool.read_range(1, &mut vec![0; n]).expect_err("too far").kind(), ErrorKind::UnexpectedEof);
            assert_eq!(spool.write_range(n as u64, &[1]).expect_err("too far").kind(), ErrorKind::UnexpectedEof);
            let in_memory = segments.min(4) * SEGMENT_BYTES;
            assert_eq!((budget.memory().0, budget.disk().0), (in_memory as u64, n.saturating_sub(in_memory) as u64));
            drop(spool);
            assert_eq!((budget.memory().0, budget.disk().0), (0, 0));
            assert_eq!(folder.path().read_dir().expect("a folder").count(), 0, "a file without a name");
        }
    }

    #[test]
    fn room_that_was_used_before_is_zero() {
        let (budget, _folder) = budget(SEGMENT_BYTES as u64, 1 << 20);
        let spool = Spool::new(Arc::clone(&budget));
        spool.append(&bytes(SEGMENT_BYTES)).expect("room");
        drop(spool);
        let spool = Spool::new(budget);
        spool.grow(SEGMENT_BYTES as u64 + 9).expect("room");
        let mut found = vec![1; SEGMENT_BYTES + 9];
        spool.read_range(0, &mut found).expect("there");
        assert!(found.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn more_than_there_may_be_is_refused() {
        let (budget, _folder) = budget(SEGMENT_BYTES as u64, 100);
        let first = Spool::new(Arc::clone(&budget));
        first.grow(SEGMENT_BYTES as u64 + 60).expect("room");
        let second = Spool::new(Arc::clone(&budget));
        let refused = second.grow(41).expect_err("no room");
        assert_eq!(refused.kind(), ErrorKind::QuotaExceeded);
        second.grow(40).expect("room");
        drop(first);
        second.grow(100).expect("room");
        drop(second);
        assert_eq!((budget.memory().0, budget.disk().0), (0, 0));
    }
}
