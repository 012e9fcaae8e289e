//! Where the bytes of a checkpoint lie: in a file, or in whatever an app has in place of one.

use std::fmt::Debug;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::time::SystemTime;

/// Bytes that are read and written by ranges, from several threads at once. Files are one kind; an app may have others,
/// such as a request's body that is still arriving (whose reads wait) or a browser's `Blob`.
pub trait Storage: Debug + Send + Sync {
    /// How many bytes there are, or will be.
    ///
    /// # Errors
    /// What the system says.
    fn n_bytes(&self) -> Result<u64>;

    /// Fills `bytes` from byte `at` on.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] if there are not so many, and what the system says.
    fn read_range(&self, at: u64, bytes: &mut [u8]) -> Result<()>;

    /// Writes `bytes` from byte `at` on. An output is written in any order, but no byte twice, except for its header and
    /// what stands in place of values that are only known at a tensor's end.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where nothing can be written, and what the system says.
    fn write_range(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let _ = (at, bytes);
        Err(ErrorKind::Unsupported.into())
    }

    /// Makes room for `n_bytes`, all zero until they are written. Called once for an output, before anything is written.
    ///
    /// # Errors
    /// As [`Self::write_range`].
    fn set_n_bytes(&self, n_bytes: u64) -> Result<()> {
        let _ = n_bytes;
        Err(ErrorKind::Unsupported.into())
    }

    /// When it was changed last, where that is known. A job refuses to end well if its input was changed meanwhile.
    ///
    /// # Errors
    /// What the system says.
    fn modified(&self) -> Result<Option<SystemTime>> {
        Ok(None)
    }

    /// A folder that takes temporary files of a job which writes here: nested scales (`nf4-dq`, `fp4-dq`), four bytes a
    /// block. `None`: they are kept in memory.
    fn scratch(&self) -> Option<&Path> {
        None
    }
}

impl Storage for File {
    fn n_bytes(&self) -> Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_range(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        read_exact_at(self, bytes, at)
    }

    fn write_range(&self, at: u64, bytes: &[u8]) -> Result<()> {
        write_all_at(self, bytes, at)
    }

    fn set_n_bytes(&self, n_bytes: u64) -> Result<()> {
        self.set_len(n_bytes)
    }

    fn modified(&self) -> Result<Option<SystemTime>> {
        Ok(self.metadata()?.modified().ok())
    }
}

/// Bytes in memory, to be read.
impl Storage for Vec<u8> {
    fn n_bytes(&self) -> Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_range(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let found = usize::try_from(at).ok().and_then(|at| self.get(at..at.checked_add(bytes.len())?));
        bytes.copy_from_slice(found.ok_or_else(|| Error::from(ErrorKind::UnexpectedEof))?);
        Ok(())
    }
}

#[cfg(unix)]
use std::os::unix::fs::FileExt;

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], at: u64) -> Result<()> {
    file.read_exact_at(bytes, at)
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], at: u64) -> Result<()> {
    file.write_all_at(bytes, at)
}

#[cfg(windows)]
use std::os::windows::fs::FileExt;

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> Result<()> {
    while !bytes.is_empty() {
        match file.seek_read(bytes, at) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => (bytes, at) = (&mut bytes[n..], at + n as u64),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> Result<()> {
    while !bytes.is_empty() {
        match file.seek_write(bytes, at) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => (bytes, at) = (&bytes[n..], at + n as u64),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

// Where there is no file system to speak of, as in a browser.
#[cfg(not(any(unix, windows)))]
fn read_exact_at(_: &File, _: &mut [u8], _: u64) -> Result<()> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(not(any(unix, windows)))]
fn write_all_at(_: &File, _: &[u8], _: u64) -> Result<()> {
    Err(ErrorKind::Unsupported.into())
}
