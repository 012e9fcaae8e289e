//! What the job `quantize` says of itself.

use super::StoredDtype;
use super::safetensors::TensorInfo;
use super::weight::PackedTensor;
use crate::format::{Container, Format};
use crate::verify::{ErrorFigures, Verify};

/// What became of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Packed.
    Quantized,
    /// Copied through, bit for bit.
    Copied,
}

impl Action {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quantized => "quantized",
            Self::Copied => "copied",
        }
    }
}

/// A tensor of a quantized checkpoint.
#[derive(Debug, Clone)]
pub struct QuantizedTensor {
    /// Name.
    pub name: String,
    /// What became of it.
    pub action: Action,
    /// Its format; none for what was copied.
    pub format: Option<Format>,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its type in the input.
    pub dtype: StoredDtype,
    /// Bytes in the input.
    pub bytes_in: u64,
    /// Bytes in the output, all parts included.
    pub bytes_out: u64,
    /// BLAKE3 over codes, then scales; none for what was copied.
    pub digest: Option<[u8; 32]>,
    /// How far the values that were verified moved; none for what was copied or not verified.
    pub figures: Option<ErrorFigures>,
    /// How much of it was verified. What is copied is compared only where everything is.
    pub verified: Verify,
}

/// What a run did.
#[derive(Debug, Clone)]
pub struct QuantizeReport {
    /// Who did it, as [`Engine::description`](crate::Engine::description) says, with ` + ` between several.
    pub adapter: String,
    /// The format, but for overrides.
    pub format: Format,
    /// The layout.
    pub container: Container,
    /// Bytes of the input's files with the tensors.
    pub bytes_in: u64,
    /// Bytes of the output's files with the tensors.
    pub bytes_out: u64,
    /// Every tensor, in the input's order.
    pub tensors: Vec<QuantizedTensor>,
    /// How many of them an earlier run had done.
    pub n_resumed: usize,
    /// Sentences that a person should read.
    pub notices: Vec<String>,
}

/// What would become of a tensor.
#[derive(Debug, Clone)]
pub struct PlannedTensor {
    /// Name.
    pub name: String,
    /// Its format; none for what would be copied.
    pub format: Option<Format>,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its type in the input.
    pub dtype: StoredDtype,
    /// Bytes in the input.
    pub bytes_in: u64,
    /// Bytes in the output, all parts included.
    pub bytes_out: u64,
}

/// What a run would do.
#[derive(Debug, Clone)]
pub struct PlanReport {
    /// Bytes of the input's files with the tensors.
    pub bytes_in: u64,
    /// Bytes of the output's files with the tensors.
    pub bytes_out: u64,
    /// How many files those are.
    pub n_files: usize,
    /// Every tensor, in the input's order.
    pub tensors: Vec<PlannedTensor>,
    /// Sentences that a person should read.
    pub notices: Vec<String>,
}

impl QuantizedTensor {
    /// A tensor that was packed.
    pub(crate) fn packed(
        tensor: &TensorInfo,
        weight: &PackedTensor,
        digest: Option<[u8; 32]>,
        figures: Option<ErrorFigures>,
        verified: Verify,
    ) -> Self {
        Self {
            action: Action::Quantized,
            format: Some(weight.format),
            bytes_out: weight.n_bytes,
            digest,
            figures,
            verified,
            ..Self::copied(tensor, verified)
        }
    }

    /// A tensor that was copied.
    pub(crate) fn copied(tensor: &TensorInfo, verify: Verify) -> Self {
        Self {
            name: tensor.name.clone(),
            action: Action::Copied,
            format: None,
            shape: tensor.shape.clone(),
            dtype: tensor.dtype,
            bytes_in: tensor.n_bytes,
            bytes_out: tensor.n_bytes,
            digest: None,
            figures: None,
            verified: if verify == Verify::Full { Verify::Full } else { Verify::None },
        }
    }
}
