//! Tensor data, wherever it lies: one section of a file, or of many that count as one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::storage::Storage;
use crate::error::{Error, Result};

/// Bytes that are held of a tensor at a time when it is copied, hashed or compared.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// The part of a file that holds tensors; of a safetensors file, what comes after the header.
#[derive(Debug)]
pub(crate) struct Section {
    /// The open file, or what stands in its place.
    pub(crate) file: Arc<dyn Storage>,
    /// What it is called, for messages.
    pub(crate) path: PathBuf,
    /// Where the section starts in the file.
    pub(crate) start: u64,
    /// The position that its first byte has among all sections.
    pub(crate) first: u64,
}

impl Section {
    /// Fills `bytes` from byte `at` of the file on.
    pub(crate) fn read_file_at(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read_range(at, bytes).map_err(|error| io_error("can't be read", error).in_file(&self.path))
    }

    /// Writes `bytes` at byte `at` of the file.
    pub(crate) fn write_file_at(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_range(at, bytes).map_err(|error| io_error("can't be written", error).in_file(&self.path))
    }
}

/// Sections whose positions count on from one to the next. No tensor lies in two of them. Several threads may read and
/// write at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Data<'a>(pub(crate) &'a [Section]);

impl<'a> Data<'a> {
    /// The section that a position lies in, and its byte in the file.
    fn locate(&self, at: u64) -> Result<(&'a Section, u64)> {
        let after = self.0.partition_point(|section| section.first <= at);
        let section = after.checked_sub(1).and_then(|ix| self.0.get(ix));
        let section = section.ok_or_else(|| Error::BadFile("it has no files".to_owned()))?;
        Ok((section, section.start.saturating_add(at - section.first)))
    }

    /// The file that a position lies in.
    pub(crate) fn path_at(&self, at: u64) -> Option<&'a Path> {
        self.locate(at).ok().map(|(section, _)| section.path.as_path())
    }

    /// Fills `bytes` from position `at` on.
    pub(crate) fn read_at(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let (section, at) = self.locate(at)?;
        section.read_file_at(at, bytes)
    }

    /// Writes `bytes` at position `at`.
    pub(crate) fn write_at(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let (section, at) = self.locate(at)?;
        section.write_file_at(at, bytes)
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
