//! Ranges of a file's tensor data.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Bytes that are held of a tensor at a time when it is copied, hashed or compared.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// A section of a file that positions count in; of a safetensors file, what comes after the header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Data<'a> {
    /// The open file.
    pub(crate) file: &'a File,
    /// What it is called, for messages.
    pub(crate) path: &'a Path,
    /// Where the section starts in the file.
    pub(crate) start: u64,
}

impl Data<'_> {
    /// Fills `bytes` from position `at` on.
    pub(crate) fn read_at(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let mut file = self.file;
        file.seek(SeekFrom::Start(self.start.saturating_add(at)))
            .and_then(|_| file.read_exact(bytes))
            .map_err(|error| io_error("can't be read", error).in_file(self.path))
    }

    /// Writes `bytes` at position `at`.
    pub(crate) fn write_at(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let mut file = self.file;
        file.seek(SeekFrom::Start(self.start.saturating_add(at)))
            .and_then(|_| file.write_all(bytes))
            .map_err(|error| io_error("can't be written", error).in_file(self.path))
    }

    /// Reads `n_bytes` from position `at` on and hands them out in pieces, each with its distance from `at`.
    pub(crate) fn for_each_piece(
        &self,
        at: u64,
        n_bytes: u64,
        mut take: impl FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = vec![0; piece_len(n_bytes)];
        let mut done = 0;
        while done < n_bytes {
            let piece = &mut buffer[..piece_len(n_bytes - done)];
            self.read_at(at + done, piece)?;
            take(done, piece)?;
            done += piece.len() as u64;
        }
        Ok(())
    }
}

/// How much of `n_bytes` to take at once.
pub(crate) fn piece_len(n_bytes: u64) -> usize {
    usize::try_from(n_bytes).map_or(PIECE_BYTES, |n| n.min(PIECE_BYTES))
}

/// The error of reading or writing, with what was being done.
pub(crate) fn io_error(what: impl Into<String>, source: std::io::Error) -> Error {
    Error::Io { what: what.into(), source }
}
