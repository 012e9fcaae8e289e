//! The job `verify`.

use std::collections::BTreeMap;
use std::path::Path;

use super::StoredDtype;
use super::check::{check_copy, check_weight};
use super::container::gguf::differing_key;
use super::container::rules;
use super::packed_file::PackedFile;
use super::progress::{OnProgress, Ticker};
use super::quantize_report::Action;
use super::safetensors::TensorInfo;
use super::source::Source;
use super::weight::PackedTensor;
use crate::error::{Error, Result};
use crate::verify::ErrorFigures;

/// What was found of a tensor.
#[derive(Debug, Clone)]
pub struct VerifiedTensor {
    /// Name.
    pub name: String,
    /// What became of it.
    pub action: Action,
    /// Its shape in the original (or in the quantized file, where the original has no such tensor).
    pub shape: Vec<u64>,
    /// Its type, likewise.
    pub dtype: StoredDtype,
    /// BLAKE3 over codes, then scales, if it was found right.
    pub digest: Option<[u8; 32]>,
    /// How far its values moved, over all of them; none for what was copied or differs.
    pub figures: Option<ErrorFigures>,
    /// What differs, as a sentence that names the tensor.
    pub mismatch: Option<String>,
}

/// What was found of a quantized checkpoint.
#[derive(Debug, Clone)]
pub struct VerifyReport {
    /// Every tensor of the original in its order, then those that only the quantized file has.
    pub tensors: Vec<VerifiedTensor>,
    /// What differs beside the tensors, as a sentence.
    pub mismatch: Option<String>,
}

impl VerifyReport {
    /// What differs first, as a sentence; `None` if everything is as it should be.
    #[must_use]
    pub fn first_mismatch(&self) -> Option<&str> {
        self.tensors.iter().filter_map(|tensor| tensor.mismatch.as_deref()).next().or(self.mismatch.as_deref())
    }
}

/// Holds a quantized file against its original: every tensor there and none besides, every code and scale as the
/// reference gives it, every digest, and every bit of what was copied. What differs is in the report, for all tensors.
///
/// # Errors
/// [`Error::BadFile`] if either file does not hold together, and [`Error::Io`].
pub fn verify(original: &Path, quantized: &Path, progress: &mut OnProgress<'_>) -> Result<VerifyReport> {
    verify_packed(&Source::open(original)?, &PackedFile::open(quantized)?, progress)
}

/// [`verify()`] for checkpoints that are open already.
///
/// # Errors
/// [`Error::Io`], [`Error::Stopped`].
pub fn verify_packed(original: &Source, quantized: &PackedFile, progress: &mut OnProgress<'_>) -> Result<VerifyReport> {
    let ticker = Ticker::new(original.data_bytes(), progress);
    let mut weights: BTreeMap<_, _> = quantized.weights().iter().map(|weight| (weight.name.as_str(), weight)).collect();
    let mut copied: BTreeMap<_, _> = quantized.copied().iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut tensors = Vec::with_capacity(original.tensors().len());
    for tensor in original.tensors() {
        let mut found = VerifiedTensor {
            name: tensor.name.clone(),
            action: Action::Copied,
            shape: tensor.shape.clone(),
            dtype: tensor.dtype,
            digest: None,
            figures: None,
            mismatch: None,
        };
        let outcome = match (weights.remove(tensor.name.as_str()), copied.remove(tensor.name.as_str())) {
            // A GGUF file may have been quantized in part before.
            (Some(weight), _) if tensor.dtype.as_blocks().is_some() => {
                let mut packed = quantized.source().tensors().iter();
                match packed.find(|packed| packed.name == weight.name) {
                    Some(copy) => verify_copy((original, tensor), (quantized, copy), &ticker),
                    None => Err(Error::BadFile("is missing from the quantized file".to_owned())),
                }
            }
            (Some(weight), _) => {
                found.action = Action::Quantized;
                verify_weight((original, tensor), (quantized, weight), &ticker).map(|(figures, digest)| {
                    (found.figures, found.digest) = (Some(figures), Some(digest));
                })
            }
            (None, Some(copy)) => verify_copy((original, tensor), (quantized, copy), &ticker),
            (None, None) => Err(Error::BadFile("is missing from the quantized file".to_owned())),
        };
        match outcome {
            Ok(()) => {}
            Err(error @ (Error::File { .. } | Error::Stopped | Error::GivenUp)) => return Err(error),
            Err(error @ Error::Mismatch(_)) => found.mismatch = Some(error.to_string()),
            Err(error) => found.mismatch = Some(error.in_tensor(&tensor.name).to_string()),
        }
        tensors.push(found);
    }
    let extra = |action, name: &str, shape: &[u64], dtype| VerifiedTensor {
        name: name.to_owned(),
        action,
        shape: shape.to_vec(),
        dtype,
        digest: None,
        figures: None,
        mismatch: Some(Error::BadFile("is not in the original".to_owned()).in_tensor(name).to_string()),
    };
    for weight in weights.values() {
        tensors.push(extra(Action::Quantized, &weight.name, &weight.shape, weight.dtype.into()));
    }
    for tensor in copied.values() {
        tensors.push(extra(Action::Copied, &tensor.name, &tensor.shape, tensor.dtype));
    }
    let mismatch = (!rules(quantized.container()).same_metadata(original.metadata(), quantized.original_metadata()))
        .then(|| {
            let text = "its __metadata__ differs from the original's".to_owned();
            Error::BadFile(text).in_file(quantized.source().path()).to_string()
        });
    let mismatch = mismatch.or_else(|| {
        let key = differing_key(original.gguf()?, quantized.source().gguf()?)?;
        let text = format!("its metadata differs from the original's at the key {key:?}");
        Some(Error::BadFile(text).in_file(quantized.source().path()).to_string())
    });
    Ok(VerifyReport { tensors, mismatch })
}

fn verify_weight(
    (original, tensor): (&Source, &TensorInfo),
    (quantized, weight): (&PackedFile, &PackedTensor),
    ticker: &Ticker<'_>,
) -> Result<(ErrorFigures, [u8; 32])> {
    let same_dtype =
        if weight.dtype_is_known { tensor.float() == Some(weight.dtype) } else { tensor.float().is_some() };
    if !same_dtype || tensor.shape != weight.shape {
        return Err(Error::BadFile(format!(
            "the quantized file records {} of shape {:?}, and the original has {} of shape {:?}",
            weight.dtype, weight.shape, tensor.dtype, tensor.shape
        )));
    }
    check_weight((original.data(), tensor), (quantized.data(), weight), None, &mut ticker.of(&tensor.name))
}

fn verify_copy(
    (original, tensor): (&Source, &TensorInfo),
    (quantized, copy): (&PackedFile, &TensorInfo),
    ticker: &Ticker<'_>,
) -> Result<()> {
    if (tensor.dtype, &tensor.shape) != (copy.dtype, &copy.shape) {
        return Err(Error::BadFile(format!(
            "the quantized file has {} of shape {:?}, and the original has {} of shape {:?}",
            copy.dtype, copy.shape, tensor.dtype, tensor.shape
        )));
    }
    check_copy((original.data(), tensor), (quantized.data(), copy.offset), &mut ticker.of(&tensor.name))
}
