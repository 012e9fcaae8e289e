//! A quantized checkpoint, whatever its container.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::container::{detect, rules};
use super::data::Data;
use super::safetensors::TensorInfo;
use super::source::Source;
use super::weight::PackedTensor;
use crate::error::{Error, Result};
use crate::format::Container;
use crate::packed::Packed;

/// An open quantized checkpoint whose parts are all there, with the types and sizes that its container calls for.
#[derive(Debug)]
pub struct PackedFile {
    source: Source,
    container: Container,
    weights: Vec<PackedTensor>,
    copied: Vec<TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl PackedFile {
    /// Opens a quantized checkpoint and checks what describes it. No weight is read.
    ///
    /// # Errors
    /// As [`Source::open`], and [`Error::BadFile`] for one that is not quantized, or whose description is not understood
    /// or belied by the tensors.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_source(Source::open(path)?)
    }

    /// The same for a checkpoint that is open already.
    ///
    /// # Errors
    /// [`Error::BadFile`] as [`Self::open`].
    pub fn from_source(source: Source) -> Result<Self> {
        let Some(container) = detect(&source) else {
            let known: Vec<_> = Container::ALL.iter().map(|container| container.name()).collect();
            let text =
                format!("was not quantized by wgquant, nor is it in a container that it reads ({})", known.join(", "));
            return Err(Error::BadFile(text).in_file(source.path()));
        };
        Self::in_container(source, container)
    }

    /// The same for one that is known to be in a container.
    pub(crate) fn in_container(source: Source, container: Container) -> Result<Self> {
        let in_file = |error: Error| match error {
            Error::File { .. } => error,
            error => error.in_file(source.path()),
        };
        let found = rules(container).read(&source).map_err(in_file)?;
        let mut weights = found.weights;
        weights.sort_by_key(|weight| weight.places.start());
        let mut parts = BTreeSet::new();
        for part in found.parts {
            if let Some(part) = parts.replace(part) {
                return Err(in_file(Error::BadFile(format!("the tensor {part:?} belongs to two weights"))));
            }
        }
        let copied = source.tensors().iter().filter(|tensor| !parts.contains(&tensor.name)).cloned().collect();
        Ok(Self { source, container, weights, copied, metadata: found.metadata })
    }

    /// The checkpoint that it is.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Its container.
    #[must_use]
    pub fn container(&self) -> Container {
        self.container
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

    /// The entries of `__metadata__` that came with the original.
    #[must_use]
    pub fn original_metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// A weight's digest: as the file records it, or computed from its codes and scales where it does not.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub fn digest(&self, weight: &PackedTensor) -> Result<[u8; 32]> {
        match weight.recorded_digest(self.data())? {
            Some(digest) => Ok(digest),
            None => weight.digest(self.data()),
        }
    }

    /// Reads a packed weight, for example to bring it to a device with [`Gpu::upload`](crate::Gpu::upload): codes in the
    /// format's own order and scales, whatever the container. Its digest is checked where the file records one. All of it
    /// is in memory then, and while it is read from `gguf` and `mxfp4` files twice as much.
    ///
    /// # Errors
    /// [`Error::BadFile`] for a weight that is damaged, and [`Error::Io`], both within [`Error::File`].
    pub fn read(&self, weight: &PackedTensor) -> Result<Packed> {
        weight.read(self.data()).map_err(|error| match error {
            Error::File { .. } => error,
            error => error.in_tensor(&weight.name).in_file(self.source.path()),
        })
    }

    /// The section of the file that positions count in.
    pub(crate) fn data(&self) -> Data<'_> {
        self.source.data()
    }
}
