//! The native container: what its metadata says, and a file that is checked against it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::StoredDtype;
use super::safetensors::{SafetensorsFile, TensorInfo};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::{Format, FormatInfo, ScaleType};

/// The key of `__metadata__` that makes a safetensors file a native one.
pub const METADATA_KEY: &str = "wgquant";

/// The version of the layout that this release reads and writes.
pub const LAYOUT_VERSION: u64 = 1;

/// Bytes of a BLAKE3 digest.
pub(crate) const DIGEST_BYTES: u64 = 32;

/// The value of [`METADATA_KEY`], as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NativeMetadata {
    pub(crate) version: u64,
    pub(crate) weights: BTreeMap<String, WeightMetadata>,
}

/// What a weight was before it was packed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WeightMetadata {
    pub(crate) format: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) dtype: String,
    pub(crate) block: u64,
}

/// The names of a weight's scales and digest.
pub(crate) fn part_names(weight: &str) -> [String; 2] {
    [format!("{weight}.scales"), format!("{weight}.blake3")]
}

/// The type that a file gives packed codes.
pub(crate) fn codes_dtype(info: &FormatInfo) -> StoredDtype {
    match info.bits {
        8 => StoredDtype::I8,
        _ => StoredDtype::U8,
    }
}

/// The type that a file gives scales.
pub(crate) fn scales_dtype(info: &FormatInfo) -> StoredDtype {
    match info.scale {
        ScaleType::F32 => StoredDtype::F32,
        ScaleType::F16 => StoredDtype::F16,
        ScaleType::E8M0 | ScaleType::Nested => StoredDtype::U8,
    }
}

/// Where a packed weight's parts lie; positions count from the end of the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedTensor {
    /// Name of the weight.
    pub name: String,
    /// Format of its codes and scales.
    pub format: Format,
    /// Shape of the weight.
    pub shape: Vec<u64>,
    /// Type that the weight had.
    pub dtype: Dtype,
    /// Elements of the weight, at least 1.
    pub n_elems: u64,
    /// Where its codes start.
    pub(crate) codes_at: u64,
    /// Where its scales start.
    pub(crate) scales_at: u64,
    /// Where its digest starts.
    pub(crate) digest_at: u64,
}

impl PackedTensor {
    /// Bytes of codes, scales and digest.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.codes_bytes() + self.scales_bytes() + DIGEST_BYTES
    }

    pub(crate) fn codes_bytes(&self) -> u64 {
        self.format.info().codes_bytes(self.n_elems)
    }

    pub(crate) fn scales_bytes(&self) -> u64 {
        self.format.info().scales_bytes(self.n_elems)
    }
}

/// An open native file whose parts are all there, with the types and sizes that its metadata calls for.
#[derive(Debug)]
pub struct NativeFile {
    file: SafetensorsFile,
    weights: Vec<PackedTensor>,
    copied: Vec<TensorInfo>,
}

impl NativeFile {
    /// Opens a native file and checks its header. No tensor is read.
    ///
    /// # Errors
    /// As [`SafetensorsFile::open`], and [`Error::BadFile`] for metadata that is missing, not understood or belied by the
    /// tensors.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_file(SafetensorsFile::open(path)?)
    }

    /// The same for a file that is open already.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_file(file: SafetensorsFile) -> Result<Self> {
        match read_weights(&file) {
            Ok((weights, copied)) => Ok(Self { file, weights, copied }),
            Err(error) => Err(error.in_file(file.path())),
        }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &SafetensorsFile {
        &self.file
    }

    /// Packed weights, by where their codes lie.
    #[must_use]
    pub fn weights(&self) -> &[PackedTensor] {
        &self.weights
    }

    /// Tensors that are what they were, by where they lie.
    #[must_use]
    pub fn copied(&self) -> &[TensorInfo] {
        &self.copied
    }

    /// A weight's digest, as the file has it.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub fn recorded_digest(&self, weight: &PackedTensor) -> Result<[u8; 32]> {
        let mut digest = [0; blake3::OUT_LEN];
        self.file.read_at(weight.digest_at, &mut digest)?;
        Ok(digest)
    }

    /// The entries of `__metadata__` that came with the original.
    #[must_use]
    pub fn original_metadata(&self) -> BTreeMap<String, String> {
        let mut metadata = self.file.metadata().clone();
        metadata.remove(METADATA_KEY);
        metadata
    }
}

fn read_weights(file: &SafetensorsFile) -> Result<(Vec<PackedTensor>, Vec<TensorInfo>)> {
    let metadata = parse_metadata(file)?;
    let by_name: BTreeMap<_, _> = file.tensors().iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut used = BTreeSet::new();
    let mut weights = Vec::with_capacity(metadata.weights.len());
    for (name, entry) in &metadata.weights {
        let weight = read_weight(name, entry, &by_name).map_err(|error| error.in_tensor(name))?;
        for part in [name.clone()].into_iter().chain(part_names(name)) {
            if let Some(part) = used.replace(part) {
                return Err(Error::BadFile(format!("the tensor {part:?} belongs to two weights")));
            }
        }
        weights.push(weight);
    }
    weights.sort_by_key(|weight| weight.codes_at);
    let copied = file.tensors().iter().filter(|tensor| !used.contains(&tensor.name)).cloned().collect();
    Ok((weights, copied))
}

fn parse_metadata(file: &SafetensorsFile) -> Result<NativeMetadata> {
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    let Some(text) = file.metadata().get(METADATA_KEY) else {
        return Err(Error::BadFile(format!("was not quantized by wgquant: its metadata has no key {METADATA_KEY:?}")));
    };
    let damaged = |error| Error::BadFile(format!("its metadata {METADATA_KEY:?} is damaged: {error}"));
    // The version first, because another one may have other fields.
    let Version { version } = serde_json::from_str(text).map_err(damaged)?;
    if version != LAYOUT_VERSION {
        return Err(Error::BadFile(format!(
            "has layout version {version}, and this wgquant reads version {LAYOUT_VERSION}: use the release that wrote it"
        )));
    }
    serde_json::from_str(text).map_err(damaged)
}

fn read_weight(name: &str, entry: &WeightMetadata, tensors: &BTreeMap<&str, &TensorInfo>) -> Result<PackedTensor> {
    let bad = |text: String| Err(Error::BadFile(text));
    let bad_part = |text: String| Err(Error::BadFile(text));
    let format = Format::from_name(&entry.format)?;
    let info = format.info();
    if entry.block != info.block as u64 {
        return bad(format!("its metadata gives a block of {} elements, and {format} has {}", entry.block, info.block));
    }
    let Some(dtype) = Dtype::from_name(&entry.dtype).filter(|dtype| dtype.name() == entry.dtype) else {
        return Err(Error::UnsupportedDtype(entry.dtype.clone()));
    };
    // Room for 8 bytes an element, so that no size computed later overflows.
    let n_elems = entry.shape.iter().try_fold(1, |n: u64, &dimension| n.checked_mul(dimension));
    let Some(n_elems) = n_elems.filter(|n| n.checked_mul(8).is_some()) else {
        return bad(format!("its metadata gives the shape {:?}, which no file can hold", entry.shape));
    };
    if n_elems == 0 {
        return bad(format!("its metadata gives the shape {:?}, which has no elements", entry.shape));
    }
    let [scales, digest] = part_names(name);
    let part = |what, name: &str, dtype: StoredDtype, n: u64| {
        let Some(tensor) = tensors.get(name) else { return bad_part(format!("its {what} ({name:?}) are missing")) };
        if tensor.dtype != dtype || tensor.shape != [n] {
            return bad_part(format!(
                "its {what} should be {dtype} of shape [{n}], and are {} of shape {:?}",
                tensor.dtype, tensor.shape
            ));
        }
        Ok(tensor.offset)
    };
    Ok(PackedTensor {
        name: name.to_owned(),
        format,
        shape: entry.shape.clone(),
        dtype,
        n_elems,
        codes_at: part("codes", name, codes_dtype(info), info.codes_bytes(n_elems))?,
        scales_at: part("scales", &scales, scales_dtype(info), info.n_blocks(n_elems))?,
        digest_at: part("digest bytes", &digest, StoredDtype::U8, DIGEST_BYTES)?,
    })
}
