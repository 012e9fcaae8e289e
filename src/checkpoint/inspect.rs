//! The job `inspect`.

use std::collections::BTreeMap;
use std::path::Path;

use super::StoredDtype;
use super::native::{METADATA_KEY, NativeFile};
use super::safetensors::SafetensorsFile;
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
    /// Bytes in the file, scales and digest included.
    pub n_bytes: u64,
    /// The digest that the file records.
    pub digest: Option<[u8; 32]>,
}

/// What a file holds.
#[derive(Debug, Clone)]
pub struct InspectReport {
    /// The container, if wgquant wrote it; `None` for a plain safetensors file.
    pub container: Option<Container>,
    /// Bytes of the file.
    pub n_bytes: u64,
    /// The entries of `__metadata__`, without wgquant's own.
    pub metadata: BTreeMap<String, String>,
    /// The tensors: packed weights first, each kind by where it lies.
    pub tensors: Vec<InspectedTensor>,
}

/// Reads what a safetensors file holds, native or plain. Only headers and digests are read; [`verify`](super::verify())
/// checks them.
///
/// # Errors
/// As [`SafetensorsFile::open`] and [`NativeFile::open`].
pub fn inspect(path: &Path) -> Result<InspectReport> {
    let file = SafetensorsFile::open(path)?;
    let n_bytes = file.n_bytes();
    let plain = |tensor: &super::TensorInfo| InspectedTensor {
        name: tensor.name.clone(),
        format: None,
        shape: tensor.shape.clone(),
        dtype: tensor.dtype,
        n_bytes: tensor.n_bytes,
        digest: None,
    };
    if !file.metadata().contains_key(METADATA_KEY) {
        let tensors = file.tensors().iter().map(plain).collect();
        return Ok(InspectReport { container: None, n_bytes, metadata: file.metadata().clone(), tensors });
    }
    let native = NativeFile::from_file(file)?;
    let mut tensors = Vec::with_capacity(native.weights().len() + native.copied().len());
    for weight in native.weights() {
        tensors.push(InspectedTensor {
            name: weight.name.clone(),
            format: Some(weight.format),
            shape: weight.shape.clone(),
            dtype: weight.dtype.into(),
            n_bytes: weight.n_bytes(),
            digest: Some(native.recorded_digest(weight)?),
        });
    }
    tensors.extend(native.copied().iter().map(plain));
    Ok(InspectReport { container: Some(Container::Native), n_bytes, metadata: native.original_metadata(), tensors })
}
