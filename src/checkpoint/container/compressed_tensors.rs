//! The container `compressed-tensors`: what transformers and vLLM call `pack-quantized`, in groups of 64.
//!
//! A weight `P.weight` of shape [N, K] becomes `P.weight_packed` (i32 [N, K·bits/32], the first element in the lowest bits,
//! codes offset to be positive), `P.weight_scale` (f32 [N, K/64]) and `P.weight_shape` (i64 [2]).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::linear::{self, Dtypes};
use super::{Chosen, Found, Rules};
use crate::checkpoint::StoredDtype;
use crate::checkpoint::layout::{Content, FileLayout, Part};
use crate::checkpoint::safetensors::TensorInfo;
use crate::checkpoint::source::Source;
use crate::checkpoint::weight::{Coding, PackedTensor, Places, count_elems};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::Format;

const METHOD: &str = "compressed-tensors";

/// Bits of a stored word.
const WORD_BITS: u64 = 32;

const SHAPE_BYTES: u64 = 16;

const PACKED: &str = "_packed";
const SCALE: &str = "_scale";
const SHAPE: &str = "_shape";

/// What other writers add for weights that are not symmetric, or whose columns are in another order.
const OTHER_PARTS: [&str; 2] = ["_zero_point", "_g_idx"];

/// A folder.
pub(super) struct CompressedTensors;

impl Rules for CompressedTensors {
    fn check_source(&self, source: &Source) -> Result<()> {
        linear::check_source(source)
    }

    fn refuses(&self, tensor: &TensorInfo) -> Option<&'static str> {
        linear::refuses(tensor)
    }

    fn row_multiple(&self) -> u64 {
        64
    }

    fn is_of_one_format(&self) -> bool {
        true
    }

    fn parts(&self, weight: Chosen<'_>) -> Vec<Part> {
        let (tensor, info) = (weight.tensor, weight.format.info());
        let (rows, columns) = dimensions(&tensor.shape);
        let (n_elems, words) = (tensor.n_elems(), columns * info.bits as u64 / WORD_BITS);
        let name = |suffix| format!("{}{suffix}", tensor.name);
        let shape = [rows, columns].iter().flat_map(|n| n.to_le_bytes()).collect();
        vec![
            Part {
                name: name(PACKED),
                dtype: StoredDtype::I32,
                shape: vec![rows, words],
                n_bytes: info.codes_bytes(n_elems),
                content: Content::Codes,
            },
            Part {
                name: name(SCALE),
                dtype: StoredDtype::F32,
                shape: vec![rows, columns / info.block as u64],
                n_bytes: info.scales_bytes(n_elems),
                content: Content::Scales,
            },
            Part::fixed(name(SHAPE), StoredDtype::I64, vec![2], shape),
        ]
    }

    fn coding(&self, format: Format) -> Coding {
        coding(format.info().bits)
    }

    fn layout(&self, source: &Source, weights: &[Chosen<'_>], parts: &[Part]) -> Result<FileLayout> {
        let mut metadata = linear::metadata(source);
        linear::record_dtypes(weights, &mut metadata)?;
        FileLayout::new(&metadata, parts)
    }

    fn config(&self, source: &Source, weights: &[Chosen<'_>], copied: &[&TensorInfo]) -> Result<Option<String>> {
        let Some(format) = weights.first().map(|weight| weight.format) else {
            return Err(Error::Refused("has no tensor to pack in compressed-tensors: see --min-elements".to_owned()));
        };
        let info = format.info();
        let group = json!({
            "targets": ["Linear"],
            "weights": {
                "num_bits": info.bits,
                "type": "int",
                "symmetric": true,
                "strategy": "group",
                "group_size": info.block,
                "dynamic": false,
            },
        });
        let quantization = json!({
            "quant_method": METHOD,
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": { "group_0": group },
            "ignore": linear::left_modules(copied),
        });
        linear::config(source, quantization)
    }

    fn is_folder(&self) -> bool {
        true
    }

    fn same_metadata(&self, original: &BTreeMap<String, String>, quantized: &BTreeMap<String, String>) -> bool {
        linear::same_metadata(original, quantized)
    }

    fn is(&self, source: &Source) -> bool {
        linear::quant_method(source) == Some(METHOD)
            || source.tensors().iter().any(|tensor| tensor.name.ends_with(".weight_packed"))
    }

    fn read(&self, source: &Source) -> Result<Found> {
        if let Some(quantization) = source.config().and_then(|config| config.get(linear::QUANTIZATION_CONFIG)) {
            check_config(quantization)?;
        }
        let (dtypes, metadata) = Dtypes::read(source)?;
        let (mut weights, mut parts) = (Vec::new(), Vec::new());
        for packed in source.tensors() {
            let Some(name) = packed.name.strip_suffix(PACKED).filter(|name| linear::module(name).is_some()) else {
                continue;
            };
            let weight = read_weight(source, name, packed, &dtypes).map_err(|error| match error {
                Error::File { .. } => error,
                error => error.in_tensor(name),
            })?;
            weights.push(weight);
            parts.extend([PACKED, SCALE, SHAPE].map(|suffix| format!("{name}{suffix}")));
        }
        Ok(Found { weights, parts, metadata })
    }
}

/// Rows and columns; callers have two dimensions.
fn dimensions(shape: &[u64]) -> (u64, u64) {
    match *shape {
        [rows, columns] => (rows, columns),
        _ => (1, shape.iter().product()),
    }
}

/// Two's complement with the even element high, to an offset code with the even element low; and back, which is the same.
fn coding(bits: usize) -> Coding {
    match bits {
        8 => {
            let offset = |codes: &mut [u8]| codes.iter_mut().for_each(|code| *code ^= 0x80);
            Coding { encode: Some(offset), decode: offset, narrow: None }
        }
        _ => {
            let turn = |codes: &mut [u8]| codes.iter_mut().for_each(|pair| *pair = pair.rotate_left(4) ^ 0x88);
            Coding { encode: Some(turn), decode: turn, narrow: None }
        }
    }
}

/// Refuses what is packed in another way than the one that is read here.
fn check_config(quantization: &Value) -> Result<()> {
    let format = quantization.get("format").and_then(Value::as_str);
    if format.is_some_and(|format| format != "pack-quantized") {
        return Err(Error::BadFile(format!(
            "is compressed as {:?}, and of compressed-tensors' formats only \"pack-quantized\" is read",
            format.unwrap_or_default()
        )));
    }
    let groups = quantization.get("config_groups").and_then(Value::as_object);
    for scheme in groups.into_iter().flat_map(|groups| groups.values()).filter_map(|group| group.get("weights")) {
        let (bits, size) = (scheme.get("num_bits").and_then(Value::as_u64), scheme.get("group_size"));
        let fits = matches!(bits, Some(4 | 8))
            && scheme.get("type").and_then(Value::as_str) == Some("int")
            && scheme.get("symmetric").and_then(Value::as_bool) == Some(true)
            && size.and_then(Value::as_u64) == Some(64);
        if !fits {
            return Err(Error::BadFile(
                "has weights that are not symmetric integers of 4 or 8 bits in groups of 64, and no others of \
                 compressed-tensors are read"
                    .to_owned(),
            ));
        }
    }
    Ok(())
}

fn read_weight(source: &Source, name: &str, packed: &TensorInfo, dtypes: &Dtypes) -> Result<PackedTensor> {
    let bad = |text: String| Err(Error::BadFile(text));
    let part = |suffix: &str| source.find(&format!("{name}{suffix}"));
    if let Some(other) = OTHER_PARTS.iter().find_map(|suffix| part(suffix)) {
        return bad(format!(
            "is not symmetric or has its columns in another order ({:?}), which is not read",
            other.name
        ));
    }
    let (Some(scale), Some(shape_tensor)) = (part(SCALE), part(SHAPE)) else {
        return bad(format!(
            "its scales ({:?}) or its shape ({:?}) are missing",
            format!("{name}{SCALE}"),
            format!("{name}{SHAPE}")
        ));
    };
    if shape_tensor.n_bytes != SHAPE_BYTES || shape_tensor.dtype != StoredDtype::I64 {
        return bad(format!(
            "its shape should be I64 of shape [2], and is {} of shape {:?}",
            shape_tensor.dtype, shape_tensor.shape
        ));
    }
    let mut bytes = [[0; 8]; 2];
    source.read_at(shape_tensor.offset, bytes.as_flattened_mut())?;
    let shape = bytes.map(u64::from_le_bytes);
    let [rows, columns] = shape;
    let Some(n_elems) = count_elems(&shape).filter(|&n| n > 0 && columns.is_multiple_of(64)) else {
        return bad(format!("records the shape {shape:?}, which no weight in groups of 64 has"));
    };
    let per_word = |format: Format| WORD_BITS / format.info().bits as u64;
    let fits = |format: &Format| packed.shape == [rows, columns / per_word(*format)];
    let formats = [Format::Sym4, Format::Sym8];
    let Some(format) = formats.into_iter().find(fits).filter(|_| packed.dtype == StoredDtype::I32) else {
        return bad(format!(
            "its codes are {} of shape {:?}, which fits neither 4 nor 8 bits for the shape {shape:?}",
            packed.dtype, packed.shape
        ));
    };
    let wanted = [rows, columns / 64];
    // Other writers give scales the model's type.
    let Some(scale_dtype) = scale.float().filter(|_| scale.shape == wanted) else {
        return bad(format!(
            "its scales should be F32, F16 or BF16 of shape {wanted:?}, and are {} of shape {:?}",
            scale.dtype, scale.shape
        ));
    };
    let (dtype, dtype_is_known) = dtypes.of(name)?;
    let narrow = Some(scale_dtype).filter(|&dtype| dtype != Dtype::F32);
    let coding = Coding { narrow, ..coding(format.info().bits) };
    Ok(PackedTensor {
        name: name.to_owned(),
        format,
        shape: shape.to_vec(),
        dtype,
        n_elems,
        n_bytes: packed.n_bytes + scale.n_bytes + SHAPE_BYTES,
        dtype_is_known,
        places: Places::Apart { codes_at: packed.offset, scales_at: scale.offset, coding, nested: None },
        digest_at: None,
    })
}
