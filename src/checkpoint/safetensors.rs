//! An open safetensors file: a checked header, and tensors that are read by ranges.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::Metadata;

use super::StoredDtype;
use super::data::{Data, Section, io_error};
use super::storage::Storage;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// The length that the safetensors crates allow a header.
pub(crate) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Bytes of the header's length, before the header.
pub(crate) const LENGTH_BYTES: u64 = 8;

/// A tensor in a file. Its bytes may start at any alignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name.
    pub name: String,
    /// Type of the elements.
    pub dtype: StoredDtype,
    /// Dimensions, outermost first; none for a scalar.
    pub shape: Vec<u64>,
    /// Where its bytes start, counted from the end of the header; of a checkpoint in several files, from the end of the first
    /// one's header, as if the others' data followed without theirs.
    pub offset: u64,
    /// How many bytes it has.
    pub n_bytes: u64,
}

impl TensorInfo {
    /// Elements: the product of the dimensions.
    #[must_use]
    pub fn n_elems(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Its type, if that is one that can be quantized.
    #[must_use]
    pub fn float(&self) -> Option<Dtype> {
        match self.dtype {
            StoredDtype::F32 => Some(Dtype::F32),
            StoredDtype::F16 => Some(Dtype::F16),
            StoredDtype::BF16 => Some(Dtype::BF16),
            _ => None,
        }
    }
}

/// A safetensors file that was opened and whose header holds together: the tensors fill the data section without gap or
/// overlap, and their sizes follow from shape and type.
#[derive(Debug)]
pub struct SafetensorsFile {
    section: Section,
    n_bytes: u64,
    metadata: BTreeMap<String, String>,
    tensors: Vec<TensorInfo>,
}

impl SafetensorsFile {
    /// Opens a file and checks its header. No tensor is read.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::BadFile`] with what is wrong, both within [`Error::File`].
    pub fn open(path: &Path) -> Result<Self> {
        let opened = open_regular(path).map_err(|error| error.in_file(path))?;
        Self::from_storage(Arc::new(opened), path)
    }

    /// Reads and checks the header of a file that `storage` holds, and that messages call `name`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_storage(storage: Arc<dyn Storage>, name: &Path) -> Result<Self> {
        Self::read(storage, name).map_err(|error| match error {
            Error::File { .. } => error,
            error => error.in_file(name),
        })
    }

    fn read(file: Arc<dyn Storage>, name: &Path) -> Result<Self> {
        let bad = |text: String| Err(Error::BadFile(text));
        let n_bytes = file.n_bytes().map_err(|error| io_error("can't be read", error))?;
        if n_bytes < LENGTH_BYTES {
            return bad(format!("is no safetensors file: it has only {n_bytes} bytes"));
        }
        let mut section = Section { file, path: name.to_owned(), start: 0, first: 0 };
        let mut length = [0; 8];
        section.read_file_at(0, &mut length)?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > MAX_HEADER_BYTES {
            return bad(format!(
                "is no safetensors file: its header would be {header_bytes} bytes long, and at most {MAX_HEADER_BYTES} are allowed"
            ));
        }
        let data_start = LENGTH_BYTES + header_bytes;
        if data_start > n_bytes {
            return bad(format!(
                "is no safetensors file, or is cut short: its header would end at byte {data_start}, and the file has {n_bytes}"
            ));
        }
        let mut header = vec![0; usize::try_from(header_bytes).unwrap_or(0)];
        section.read_file_at(LENGTH_BYTES, &mut header)?;
        if header.first() != Some(&b'{') {
            return bad("is no safetensors file: its header does not start with '{'".to_owned());
        }
        let parsed: Metadata = serde_json::from_slice(&header).map_err(|error| {
            let overlap =
                if error.to_string().contains("invalid offset") { " (tensors overlap or leave a gap)" } else { "" };
            Error::BadFile(format!("is no sound safetensors file: {error}{overlap}"))
        })?;
        let data_bytes = parsed.data_len() as u64;
        let there = n_bytes - data_start;
        if data_bytes > there {
            return bad(format!(
                "is cut short: {} of its {data_bytes} bytes of tensors are missing",
                data_bytes - there
            ));
        }
        if data_bytes < there {
            return bad(format!("is damaged: it has {} bytes more than its header says", there - data_bytes));
        }
        let mut tensors: Vec<_> = parsed
            .tensors()
            .into_iter()
            .map(|(name, info)| TensorInfo {
                name,
                dtype: info.dtype.into(),
                shape: info.shape.iter().map(|&n| n as u64).collect(),
                offset: info.data_offsets.0 as u64,
                n_bytes: (info.data_offsets.1 - info.data_offsets.0) as u64,
            })
            .collect();
        // By name where offsets are equal, as they are for tensors without elements.
        tensors.sort_by(|a, b| (a.offset, a.n_bytes, &a.name).cmp(&(b.offset, b.n_bytes, &b.name)));
        let metadata = parsed.metadata().clone().unwrap_or_default().into_iter().collect();
        section.start = data_start;
        Ok(Self { section, n_bytes, metadata, tensors })
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.section.path
    }

    /// Bytes of the whole file.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// The entries of `__metadata__`.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensors, by where they lie.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.n_bytes - self.section.start
    }

    /// Fills `bytes` with tensor data from `offset` on, counted from the end of the header.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        Data(std::slice::from_ref(&self.section)).read_at(offset, bytes)
    }

    /// The open file, its tensors, and its metadata.
    pub(crate) fn into_parts(self) -> (Section, Vec<TensorInfo>, BTreeMap<String, String>) {
        (self.section, self.tensors, self.metadata)
    }
}

/// Opens a file to read, if it is one.
fn open_regular(path: &Path) -> Result<File> {
    // Looked at before it is opened, because opening a pipe would wait for its other end.
    let kind = std::fs::metadata(path).map_err(|error| io_error("can't be opened", error))?;
    if kind.is_file() {
        return File::open(path).map_err(|error| io_error("can't be opened", error));
    }
    let what = if kind.is_dir() { "a folder" } else { "no regular file" };
    Err(Error::BadFile(format!("is {what}, and a .safetensors file is wanted")))
}
