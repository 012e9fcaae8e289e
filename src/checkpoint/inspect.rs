//! The job `inspect`.

use std::collections::BTreeMap;
use std::path::Path;

use super::StoredDtype;
use super::container::detect;
use super::packed_file::PackedFile;
use super::source::Source;
use crate::error::Result;
use crate::format::{Container, Format};

/// A tensor, as a person thinks of it: a packed weight is one, with its parts.
#[derive(Debug, Clone)]
pub struct InspectedTensor {
    /// Name.
    pub name: String,
    /// Its format, if it is packed.
    pub format: Option<Format>,
    /// Its shape, of a packed weight the one it had.
    pub shape: Vec<u64>,
    /// Its type, of a packed weight the one it had.
    pub dtype: StoredDtype,
    /// Bytes in the file, of a packed weight those of all its parts.
    pub n_bytes: u64,
    /// The digest: what the file records, or else what its codes and scales give.
    pub digest: Option<[u8; 32]>,
}

/// What a file holds.
#[derive(Debug, Clone)]
pub struct InspectReport {
    /// The container; `None` for a plain file.
    pub container: Option<Container>,
    /// Bytes of the file.
    pub n_bytes: u64,
    /// The entries of `__metadata__`, without what the container added.
    pub metadata: BTreeMap<String, String>,
    /// The tensors: packed weights first, each kind by where it lies.
    pub tensors: Vec<InspectedTensor>,
}

/// Reads what a checkpoint holds, quantized or plain. Only headers and digests are read, where there are digests;
/// [`verify`](super::verify()) checks them.
///
/// # Errors
/// As [`Source::open`] and [`PackedFile::open`].
pub fn inspect(path: &Path) -> Result<InspectReport> {
    inspect_source(Source::open(path)?)
}

/// [`inspect()`] for a checkpoint that is open already.
///
/// # Errors
/// As [`PackedFile::from_source`].
pub fn inspect_source(source: Source) -> Result<InspectReport> {
    let n_bytes = source.n_bytes();
    let plain = |tensor: &super::TensorInfo| InspectedTensor {
        name: tensor.name.clone(),
        format: None,
        shape: tensor.shape.clone(),
        dtype: tensor.dtype,
        n_bytes: tensor.n_bytes,
        digest: None,
    };
    let Some(container) = detect(&source) else {
        let tensors = source.tensors().iter().map(plain).collect();
        return Ok(InspectReport { container: None, n_bytes, metadata: source.metadata().clone(), tensors });
    };
    let file = PackedFile::in_container(source, container)?;
    let mut tensors = Vec::with_capacity(file.weights().len() + file.copied().len());
    for weight in file.weights() {
        tensors.push(InspectedTensor {
            name: weight.name.clone(),
            format: Some(weight.format),
            shape: weight.shape.clone(),
            dtype: weight.dtype.into(),
            n_bytes: weight.n_bytes,
            digest: Some(file.digest(weight)?),
        });
    }
    tensors.extend(file.copied().iter().map(plain));
    let metadata = file.original_metadata().clone();
    Ok(InspectReport { container: Some(container), n_bytes, metadata, tensors })
}
