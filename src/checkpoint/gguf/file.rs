//! An open GGUF file: a checked header, and tensors that are read by ranges.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use super::header::{Header, MAGIC};
use super::metadata::{Entry, SAFETENSORS};
use crate::checkpoint::StoredDtype;
use crate::checkpoint::data::{Section, io_error};
use crate::checkpoint::safetensors::TensorInfo;
use crate::checkpoint::storage::Storage;
use crate::error::Result;

/// A GGUF file that was opened and whose header holds together.
#[derive(Debug)]
pub(crate) struct GgufFile {
    pub(crate) section: Section,
    /// Key-value pairs, in the file's order.
    pub(crate) entries: Vec<Entry>,
    /// What they carry of a safetensors file's metadata.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Tensors, in the file's order.
    pub(crate) tensors: Vec<TensorInfo>,
}

/// Whether a file starts as GGUF files do. A safetensors file can't: its header would be too long.
pub(crate) fn is_gguf(path: &Path) -> bool {
    // Looked at before it is opened, because opening a pipe would wait for its other end.
    let is_file = std::fs::metadata(path).is_ok_and(|found| found.is_file());
    is_file && File::open(path).is_ok_and(|file| starts_as_gguf(&file))
}

/// [`is_gguf`] for what is open already.
pub(crate) fn starts_as_gguf(storage: &dyn Storage) -> bool {
    let mut start = [0; MAGIC.len()];
    storage.read_range(0, &mut start).is_ok() && start == MAGIC
}

/// Reads storage from its start.
struct Reader<'a> {
    storage: &'a dyn Storage,
    at: u64,
    n_bytes: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.n_bytes - self.at).unwrap_or(usize::MAX);
        let n = bytes.len().min(left);
        self.storage.read_range(self.at, &mut bytes[..n])?;
        self.at += n as u64;
        Ok(n)
    }
}

impl GgufFile {
    /// Opens a file and checks its header. No tensor is read.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) and [`Error::BadFile`](crate::Error::BadFile), both within
    /// [`Error::File`](crate::Error::File).
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| io_error("can't be opened", error).in_file(path))?;
        Self::from_storage(Arc::new(file), path)
    }

    /// Reads and checks the header of a file that `storage` holds, and that messages call `path`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn from_storage(file: Arc<dyn Storage>, path: &Path) -> Result<Self> {
        let in_file = |error: crate::Error| error.in_file(path);
        let n_bytes = file.n_bytes().map_err(|error| in_file(io_error("can't be read", error)))?;
        let reader = Reader { storage: &*file, at: 0, n_bytes };
        let header = Header::read(BufReader::new(reader), n_bytes).map_err(in_file)?;
        let carried = |entry: &Entry| {
            let key = entry.key.strip_prefix(SAFETENSORS)?;
            Some((key.to_owned(), entry.as_str()?.to_owned()))
        };
        let metadata = header.metadata.iter().filter_map(carried).collect();
        let tensors = header.tensors.into_iter().map(|tensor| TensorInfo {
            name: tensor.name,
            dtype: tensor.of.stored().unwrap_or(StoredDtype::blocks(tensor.of)),
            shape: tensor.shape,
            // Without elements it lies anywhere.
            offset: if tensor.n_bytes == 0 { 0 } else { tensor.offset },
            n_bytes: tensor.n_bytes,
        });
        let tensors = tensors.collect();
        let section = Section { file, path: path.to_owned(), start: header.data_start, first: 0 };
        Ok(Self { section, entries: header.metadata, metadata, tensors })
    }
}
