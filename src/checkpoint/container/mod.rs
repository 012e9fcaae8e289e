//! Containers: a file each, and a row of [`rules`].
//!
//! A container says what parts a weight becomes, how its codes are stored, what stands beside the weights, and how all
//! that is found again. Everything else (planning, packing, comparing, digests) is the same for all.

mod bnb;
mod compressed_tensors;
pub(super) mod gguf;
pub(super) mod linear;
mod mxfp4;
mod native;

use std::collections::BTreeMap;

use super::layout::{FileLayout, Part};
use super::nested::OffsetForm;
use super::safetensors::TensorInfo;
use super::source::Source;
use super::weight::{Coding, PackedTensor};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::format::{Container, Format};

/// The rules of a container.
pub(crate) fn rules(container: Container) -> &'static dyn Rules {
    match container {
        Container::Native => &native::Native,
        Container::Bnb => &bnb::Bnb,
        Container::CompressedTensors => &compressed_tensors::CompressedTensors,
        Container::Gguf => &gguf::Gguf,
        Container::Mxfp4 => &mxfp4::Mxfp4,
    }
}

/// A weight that is going to be packed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chosen<'a> {
    pub(crate) tensor: &'a TensorInfo,
    pub(crate) dtype: Dtype,
    pub(crate) format: Format,
}

/// What a container does in its own way.
pub(crate) trait Rules: Sync {
    /// Refuses a model that its readers would not load.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused).
    fn check_source(&self, _source: &Source) -> Result<()> {
        Ok(())
    }

    /// Why a tensor can't be packed, if it can't: a clause that follows "because". Such a tensor is left alone, unless it
    /// is named, which is an error.
    fn refuses(&self, _tensor: &TensorInfo) -> Option<&'static str> {
        None
    }

    /// What a person should know of an output of this kind.
    fn notice(&self, _source: &Source) -> Option<String> {
        None
    }

    /// What rows must be a multiple of, beside what the format demands.
    fn row_multiple(&self) -> u64 {
        1
    }

    /// Whether a file of it, or its config, says one format for all weights.
    fn is_of_one_format(&self) -> bool {
        false
    }

    /// What the container's weights become: codes and scales, or blocks; fixed parts; a digest where it has one.
    fn parts(&self, weight: Chosen<'_>) -> Vec<Part>;

    /// How it stores codes apart from scales.
    fn coding(&self, _format: Format) -> Coding {
        Coding::PLAIN
    }

    /// How it says the offset of nested scales.
    fn offset_form(&self) -> OffsetForm {
        OffsetForm::PLAIN
    }

    /// Header and places of all parts: those of chosen weights, and tensors that are copied.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) for what the file can't hold.
    fn layout(&self, source: &Source, weights: &[Chosen<'_>], parts: &[Part]) -> Result<FileLayout>;

    /// Of a container that is a folder, the text of its config.json, given the tensors that are not packed.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) for a model that its readers would misunderstand.
    fn config(&self, _source: &Source, _weights: &[Chosen<'_>], _copied: &[&TensorInfo]) -> Result<Option<String>> {
        Ok(None)
    }

    /// Whether the output is a folder.
    fn is_folder(&self) -> bool {
        false
    }

    /// Whether metadata that was read is the original's, but for what the container's readers need in it.
    fn same_metadata(&self, original: &BTreeMap<String, String>, quantized: &BTreeMap<String, String>) -> bool {
        original == quantized
    }

    /// Whether a checkpoint is one of these, by what it says of itself. It may still be damaged.
    fn is(&self, source: &Source) -> bool;

    /// Finds the weights again, and checks that all their parts are there with fitting types and sizes.
    ///
    /// # Errors
    /// [`Error::BadFile`](crate::Error::BadFile).
    fn read(&self, source: &Source) -> Result<Found>;
}

/// What a container holds.
#[derive(Debug)]
pub(crate) struct Found {
    /// The packed weights.
    pub(crate) weights: Vec<PackedTensor>,
    /// Names of all tensors that are parts of them.
    pub(crate) parts: Vec<String>,
    /// Metadata without what the container added.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// The container that a checkpoint is, if it is one.
pub(crate) fn detect(source: &Source) -> Option<Container> {
    Container::ALL.iter().copied().find(|&container| rules(container).is(source))
}
