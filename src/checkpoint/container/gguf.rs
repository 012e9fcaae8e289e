//! GGUF: one file, weights in blocks. From a GGUF file its metadata is carried over, so that llama.cpp loads what comes
//! out; from safetensors the names stay as they are, for readers that take any.

use super::{Chosen, Found, Rules};
use crate::checkpoint::StoredDtype;
use crate::checkpoint::gguf::metadata::{ARCHITECTURE, Entry, FILE_TYPE, QUANTIZATION_VERSION, SAFETENSORS, find, set};
use crate::checkpoint::gguf::types::{TensorType, file_type};
use crate::checkpoint::gguf::write::{GgufLayout, NewTensor};
use crate::checkpoint::layout::{Content, FileLayout, Part};
use crate::checkpoint::safetensors::TensorInfo;
use crate::checkpoint::source::Source;
use crate::checkpoint::weight::{PackedTensor, Places};
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// The version of ggml's block layouts.
const BLOCKS_VERSION: u32 = 2;

/// What stands for the architecture of a model whose names are not llama.cpp's. GGUF demands the key.
const NO_ARCHITECTURE: &str = "wgquant";

/// Parts of names that llama.cpp leaves alone, because its graphs take these tensors as floats. Source: `llama-quant.cpp`.
const KEPT: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "position_embd.",
    "pos_embd",
    "token_types.weight",
    "ssm_conv1d",
    "ssm_a",
    "shortconv.conv.weight",
    "time_mix_first",
    "time_mix_w0",
    "time_mix_w1",
    "time_mix_w2",
    "time_mix_v0",
    "time_mix_v1",
    "time_mix_v2",
    "time_mix_a0",
    "time_mix_a1",
    "time_mix_a2",
    "time_mix_g1",
    "time_mix_g2",
    "time_mix_decay_w1",
    "time_mix_decay_w2",
    "time_mix_lerp_fused",
    "attn_rel_b.weight",
];

/// One .gguf file.
pub(crate) struct Gguf;

impl Rules for Gguf {
    fn refuses(&self, tensor: &TensorInfo) -> Option<&'static str> {
        if tensor.shape.len() < 2 {
            return Some("GGUF's readers take tensors of one dimension as floats");
        }
        KEPT.iter().any(|part| tensor.name.contains(part)).then_some("llama.cpp takes tensors of such names as floats")
    }

    fn notice(&self, source: &Source) -> Option<String> {
        source.gguf().is_none().then(|| {
            "llama.cpp does not load this file, because it has the names of the input and not llama.cpp's: for llama.cpp, \
             convert the model to GGUF with its own script first, and quantize that"
                .to_owned()
        })
    }

    fn parts(&self, weight: Chosen<'_>) -> Vec<Part> {
        let Some(of) = TensorType::of_format(weight.format) else { return Vec::new() };
        let TensorInfo { name, shape, .. } = weight.tensor.clone();
        let n_bytes = of.n_bytes(&shape).unwrap_or_default();
        vec![Part { name, dtype: StoredDtype::blocks(of), shape, n_bytes, content: Content::Blocks }]
    }

    fn layout(&self, source: &Source, weights: &[Chosen<'_>], parts: &[Part]) -> Result<FileLayout> {
        let mut metadata = source.gguf().map_or_else(|| from_safetensors(source), <[Entry]>::to_vec);
        // As llama.cpp does: the type of most of it.
        let elems = |format| weights.iter().filter(|of| of.format == format).map(|of| of.tensor.n_elems()).sum::<u64>();
        let most = weights.iter().map(|weight| weight.format).max_by_key(|&format| elems(format));
        if let Some(file_type) = most.and_then(file_type) {
            set(&mut metadata, Entry::u32(FILE_TYPE, file_type));
            set(&mut metadata, Entry::u32(QUANTIZATION_VERSION, BLOCKS_VERSION));
        }
        let tensors = parts.iter().map(|part| {
            let of = part.dtype.as_blocks().or_else(|| TensorType::of_stored(part.dtype)).ok_or_else(|| {
                Error::Refused(format!("GGUF has no type {}: take another container", part.dtype)).in_tensor(&part.name)
            });
            of.map(|of| NewTensor { name: &part.name, of, shape: &part.shape })
        });
        let GgufLayout { header, offsets, data_bytes } =
            GgufLayout::new(&metadata, &tensors.collect::<Result<Vec<_>>>()?)?;
        Ok(FileLayout { header, offsets, data_bytes })
    }

    fn is(&self, source: &Source) -> bool {
        source.gguf().is_some()
    }

    fn read(&self, source: &Source) -> Result<Found> {
        let weights: Vec<_> = source.tensors().iter().filter_map(weight).collect();
        let parts = weights.iter().map(|weight| weight.name.clone()).collect();
        Ok(Found { weights, parts, metadata: source.metadata().clone() })
    }
}

/// The metadata of a file that was none of GGUF's: the input's, under a prefix.
fn from_safetensors(source: &Source) -> Vec<Entry> {
    let mut metadata = vec![Entry::string(ARCHITECTURE, NO_ARCHITECTURE)];
    metadata.extend(source.metadata().iter().map(|(key, value)| Entry::string(&format!("{SAFETENSORS}{key}"), value)));
    metadata
}

/// A tensor whose blocks are those of a format.
fn weight(tensor: &TensorInfo) -> Option<PackedTensor> {
    let format = tensor.dtype.as_blocks()?.format()?;
    (tensor.n_bytes > 0).then(|| PackedTensor {
        name: tensor.name.clone(),
        format,
        shape: tensor.shape.clone(),
        dtype: Dtype::F32,
        n_elems: tensor.n_elems(),
        n_bytes: tensor.n_bytes,
        dtype_is_known: false,
        places: Places::Together { at: tensor.offset },
        digest_at: None,
    })
}

/// What of a file's metadata differs from its original's, both being GGUF: the key, beside those that quantizing changes.
pub(crate) fn differing_key(original: &[Entry], quantized: &[Entry]) -> Option<String> {
    let changes = |entry: &&Entry| entry.key == FILE_TYPE || entry.key == QUANTIZATION_VERSION;
    let misses = |all: &[Entry], other: &[Entry]| {
        let mut kept = all.iter().filter(|entry| !changes(entry));
        kept.find(|entry| find(other, &entry.key) != Some(entry)).map(|entry| entry.key.clone())
    };
    misses(original, quantized).or_else(|| misses(quantized, original))
}
