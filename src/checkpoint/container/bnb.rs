//! The container `bnb`: a folder that transformers loads with bitsandbytes, for `nf4`, `fp4` and their `-dq` kin.
//!
//! A weight `P` becomes `P` (u8 [ceil(n/2), 1]), `P.absmax`, `P.quant_map` and `P.quant_state.bitsandbytes__nf4` or
//! `__fp4`, whose bytes are JSON. With nested scales, `P.absmax` holds codes, and `P.nested_absmax` and
//! `P.nested_quant_map` come to it; the JSON says the offset.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::linear;
use super::{Chosen, Found, Rules};
use crate::checkpoint::StoredDtype;
use crate::checkpoint::layout::{Content, FileLayout, Part};
use crate::checkpoint::nested::{NestedPlaces, OffsetForm};
use crate::checkpoint::safetensors::TensorInfo;
use crate::checkpoint::source::Source;
use crate::checkpoint::weight::{Coding, PackedTensor, Places, count_elems};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::quant::nested::{self, NESTED_BLOCK};
use crate::quant::{fp4, nf4};

const METHOD: &str = "bitsandbytes";

const ABSMAX: &str = ".absmax";
const QUANT_MAP: &str = ".quant_map";
const QUANT_STATE: &str = ".quant_state.bitsandbytes__";

/// What only doubly quantized weights have.
const NESTED_QUANT_MAP: &str = ".nested_quant_map";
const NESTED_ABSMAX: &str = ".nested_absmax";

/// Bytes that the offset of nested scales may take in the JSON; none is longer as text.
const OFFSET_BYTES: usize = 32;

/// No JSON of theirs or ours is longer.
const MAX_STATE_BYTES: u64 = 1 << 16;

/// What the JSON says.
#[derive(Debug, Serialize, Deserialize)]
struct QuantState {
    quant_type: String,
    blocksize: u64,
    dtype: String,
    shape: Vec<u64>,
    #[serde(flatten)]
    nested: Option<NestedState>,
}

/// What it says of nested scales.
#[derive(Debug, Serialize, Deserialize)]
struct NestedState {
    nested_blocksize: u64,
    nested_dtype: String,
    nested_offset: f64,
}

/// The names that bitsandbytes has for formats: that of the codes, and whether scales are nested.
const fn quant_type(format: Format) -> Option<(&'static str, bool)> {
    match format {
        Format::Nf4 => Some(("nf4", false)),
        Format::Nf4Dq => Some(("nf4", true)),
        Format::Fp4 => Some(("fp4", false)),
        Format::Fp4Dq => Some(("fp4", true)),
        _ => None,
    }
}

/// A folder.
pub(super) struct Bnb;

impl Rules for Bnb {
    fn check_source(&self, source: &Source) -> Result<()> {
        linear::check_source(source)
    }

    fn refuses(&self, tensor: &TensorInfo) -> Option<&'static str> {
        linear::refuses(tensor)
    }

    fn is_of_one_format(&self) -> bool {
        true
    }

    fn parts(&self, weight: Chosen<'_>) -> Vec<Part> {
        let (tensor, info) = (weight.tensor, weight.format.info());
        let (name, n_elems) = (&tensor.name, tensor.n_elems());
        let codes_bytes = info.codes_bytes(n_elems);
        let Some((quant_type, is_nested)) = quant_type(weight.format) else { return Vec::new() };
        let state = QuantState {
            quant_type: quant_type.to_owned(),
            blocksize: info.block as u64,
            dtype: linear::torch_name(weight.dtype).to_owned(),
            shape: tensor.shape.clone(),
            nested: is_nested.then(|| NestedState {
                nested_blocksize: NESTED_BLOCK as u64,
                nested_dtype: NESTED_DTYPE.to_owned(),
                nested_offset: 0.0,
            }),
        };
        let mut state = json!(state).to_string().into_bytes();
        let state_name = format!("{name}{QUANT_STATE}{quant_type}");
        let map = |suffix: &str, map: &[f32]| {
            let bytes = map.iter().flat_map(|value| value.to_le_bytes()).collect();
            Part::fixed(format!("{name}{suffix}"), StoredDtype::F32, vec![map.len() as u64], bytes)
        };
        let mut parts = vec![
            Part {
                name: name.clone(),
                dtype: StoredDtype::U8,
                shape: vec![codes_bytes, 1],
                n_bytes: codes_bytes,
                content: Content::Codes,
            },
            Part {
                name: format!("{name}{ABSMAX}"),
                dtype: if is_nested { StoredDtype::U8 } else { StoredDtype::F32 },
                shape: vec![info.n_blocks(n_elems)],
                n_bytes: info.stored_scales_bytes(n_elems),
                content: Content::Scales,
            },
            map(QUANT_MAP, &quant_map(weight.format)),
        ];
        if is_nested {
            // Room for the longest offset, because the header is written before it is known.
            state.resize(state.len() + OFFSET_BYTES, b' ');
            parts.push(Part {
                name: format!("{name}{NESTED_ABSMAX}"),
                dtype: StoredDtype::F32,
                shape: vec![info.n_nested_blocks(n_elems)],
                n_bytes: info.nested_absmax_bytes(n_elems),
                content: Content::NestedAbsmax,
            });
            parts.push(map(NESTED_QUANT_MAP, &nested::map()));
            parts.push(Part::nested_offset(state_name, StoredDtype::U8, vec![state.len() as u64], state));
        } else {
            parts.push(Part::fixed(state_name, StoredDtype::U8, vec![state.len() as u64], state));
        }
        parts
    }

    fn offset_form(&self) -> OffsetForm {
        OFFSET_FORM
    }

    fn layout(&self, source: &Source, _weights: &[Chosen<'_>], parts: &[Part]) -> Result<FileLayout> {
        FileLayout::new(&linear::metadata(source), parts)
    }

    fn config(&self, source: &Source, weights: &[Chosen<'_>], copied: &[&TensorInfo]) -> Result<Option<String>> {
        let Some(first) = weights.first() else {
            return Err(Error::Refused("has no tensor to pack in bnb: see --min-elements".to_owned()));
        };
        let left = linear::left_modules(copied);
        refuse_confusion(&left, weights)?;
        let (quant_type, is_nested) = quant_type(first.format).unwrap_or_default();
        let quantization = json!({
            "quant_method": METHOD,
            "load_in_4bit": true,
            "load_in_8bit": false,
            "bnb_4bit_quant_type": quant_type,
            "bnb_4bit_use_double_quant": is_nested,
            "bnb_4bit_compute_dtype": linear::torch_name(first.dtype),
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": left,
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
            || source.tensors().iter().any(|tensor| tensor.name.contains(QUANT_STATE))
    }

    fn read(&self, source: &Source) -> Result<Found> {
        let (mut weights, mut parts) = (Vec::new(), Vec::new());
        for state in source.tensors() {
            let Some((name, quant_type)) = state.name.rsplit_once(QUANT_STATE) else { continue };
            let weight = read_weight(source, name, quant_type, state).map_err(|error| match error {
                Error::File { .. } => error,
                error => error.in_tensor(name),
            })?;
            parts.extend([name.to_owned(), state.name.clone()]);
            parts.extend([ABSMAX, QUANT_MAP].map(|suffix| format!("{name}{suffix}")));
            if weight.nested().is_some() {
                parts.extend([NESTED_ABSMAX, NESTED_QUANT_MAP].map(|suffix| format!("{name}{suffix}")));
            }
            weights.push(weight);
        }
        if weights.is_empty() {
            return Err(Error::BadFile(
                "its config.json says bitsandbytes, but it holds no 4-bit weights of it, and no others are read"
                    .to_owned(),
            ));
        }
        Ok(Found { weights, parts, metadata: source.metadata().clone() })
    }
}

/// The value of each code, as bitsandbytes stores them: code 8 of fp4 as +0.0.
fn quant_map(format: Format) -> [f32; 16] {
    match format {
        Format::Fp4 | Format::Fp4Dq => fp4::values().map(|value| value + 0.0),
        _ => nf4::VALUES,
    }
}

/// Names of modules to leave that would make transformers leave a packed one too, or fail, are refused: it would then not
/// load the packed weights.
fn refuse_confusion(left: &[&str], weights: &[Chosen<'_>]) -> Result<()> {
    if let Some(left) = left.iter().find(|left| left.contains(linear::REGEX_SIGNS)) {
        return Err(Error::Refused(format!(
            "transformers can't be told to leave {left:?} as it is, because it reads the name as a regular expression: use \
             --container native"
        )));
    }
    for packed in weights.iter().filter_map(|weight| linear::module(&weight.tensor.name)) {
        if let Some(left) = left.iter().find(|left| linear::is_left_with(left, packed)) {
            return Err(Error::Refused(format!(
                "transformers can't be told to leave {left:?} as it is, because it would then leave {packed:?} too, whose name \
                 starts or ends with it: quantize both or neither (see --include, --exclude and --min-elements)"
            )));
        }
    }
    Ok(())
}

/// The type of second-level scales.
const NESTED_DTYPE: &str = "float32";

/// The key of the JSON that says the offset of nested scales.
const NESTED_OFFSET: &str = "nested_offset";

/// In the JSON, as `f64`, which is longer than need be but comes back exactly in every reader.
const OFFSET_FORM: OffsetForm = OffsetForm {
    read: |said| {
        let offset = parse_state(said)?.nested.map(|nested| nested.nested_offset);
        #[expect(clippy::cast_possible_truncation, reason = "as bitsandbytes reads it")]
        offset.map(|offset| offset as f32).ok_or_else(|| Error::BadFile("its quant_state gives no offset".to_owned()))
    },
    write: |said, offset| {
        let mut state: Value = serde_json::from_slice(said).map_err(damaged)?;
        state[NESTED_OFFSET] = json!(f64::from(offset));
        let text = state.to_string();
        let Some((start, rest)) = said.split_at_mut_checked(text.len()) else {
            return Err(Error::Refused(format!("its quant_state has no room for the offset {offset}")));
        };
        start.copy_from_slice(text.as_bytes());
        rest.fill(b' ');
        Ok(())
    },
};

fn damaged(error: serde_json::Error) -> Error {
    Error::BadFile(format!("its quant_state is damaged: {error}"))
}

fn parse_state(text: &[u8]) -> Result<QuantState> {
    serde_json::from_slice::<Value>(text).and_then(serde_json::from_value).map_err(damaged)
}

fn read_state(source: &Source, tensor: &TensorInfo) -> Result<QuantState> {
    let is_text = matches!(tensor.dtype, StoredDtype::U8 | StoredDtype::I8);
    let n_bytes = usize::try_from(tensor.n_bytes).ok().filter(|_| is_text && tensor.n_bytes <= MAX_STATE_BYTES);
    let Some(n_bytes) = n_bytes else {
        return Err(Error::BadFile(format!(
            "its quant_state should be U8 of at most {MAX_STATE_BYTES} bytes, and is {} of {} bytes",
            tensor.dtype, tensor.n_bytes
        )));
    };
    let mut text = vec![0; n_bytes];
    source.read_at(tensor.offset, &mut text)?;
    parse_state(&text)
}

/// A weight's format, from what its quant_state and the name of that say.
fn read_format(said: &QuantState, name: &str) -> Result<Format> {
    let bad = |text: String| Err(Error::BadFile(text));
    let is_it = |format: &Format| quant_type(*format) == Some((said.quant_type.as_str(), said.nested.is_some()));
    let format = Format::ALL.iter().copied().find(is_it).filter(|_| said.quant_type == name);
    let Some(format) = format else {
        return bad(format!(
            "its quant_state says type {:?} under the name {name:?}; nf4 and fp4 are read",
            said.quant_type
        ));
    };
    let block = format.info().block as u64;
    if said.blocksize != block {
        return bad(format!("its quant_state gives blocks of {} elements, and only {block} is read", said.blocksize));
    }
    match &said.nested {
        Some(NestedState { nested_blocksize, nested_dtype, .. })
            if (*nested_blocksize, nested_dtype.as_str()) != (NESTED_BLOCK as u64, NESTED_DTYPE) =>
        {
            bad(format!(
                "its quant_state gives blocks of {nested_blocksize} scales of type {nested_dtype}, and only {NESTED_BLOCK} of \
                 {NESTED_DTYPE} are read"
            ))
        }
        _ => Ok(format),
    }
}

fn read_weight(source: &Source, name: &str, quant_type: &str, state: &TensorInfo) -> Result<PackedTensor> {
    let bad = |text: String| Err(Error::BadFile(text));
    let said = read_state(source, state)?;
    let format = read_format(&said, quant_type)?;
    let info = format.info();
    let Some(dtype) = linear::from_torch(&said.dtype) else { return Err(Error::UnsupportedDtype(said.dtype)) };
    let Some(n_elems) = count_elems(&said.shape).filter(|&n| n > 0) else {
        return bad(format!("its quant_state gives the shape {:?}, which no packed weight has", said.shape));
    };
    let part = |what: &str, suffix: &str, dtype: StoredDtype, shapes: &[&[u64]]| {
        let name = format!("{name}{suffix}");
        let Some(tensor) = source.find(&name) else {
            return Err(Error::BadFile(format!("its {what} ({name:?}) are missing")));
        };
        if tensor.dtype != dtype || !shapes.contains(&tensor.shape.as_slice()) {
            return Err(Error::BadFile(format!(
                "its {what} should be {dtype} of shape {:?}, and are {} of shape {:?}",
                shapes.first().copied().unwrap_or_default(),
                tensor.dtype,
                tensor.shape
            )));
        }
        Ok(tensor)
    };
    let map = |what: &str, suffix: &str, values: &[f32]| {
        let tensor = part(what, suffix, StoredDtype::F32, &[&[values.len() as u64]])?;
        let mut bytes = vec![[0; 4]; values.len()];
        source.read_at(tensor.offset, bytes.as_flattened_mut())?;
        if values.iter().zip(&bytes).any(|(value, bytes)| value.to_le_bytes() != *bytes) {
            return Err(Error::BadFile(format!("its {what} (\"{name}{suffix}\") are others than {format} has")));
        }
        Ok(tensor.n_bytes)
    };
    let codes_bytes = info.codes_bytes(n_elems);
    let codes = part("codes", "", StoredDtype::U8, &[&[codes_bytes, 1], &[codes_bytes], &[1, codes_bytes]])?;
    let scale_type = if said.nested.is_some() { StoredDtype::U8 } else { StoredDtype::F32 };
    let scales = part("scales", ABSMAX, scale_type, &[&[info.n_blocks(n_elems)]])?;
    let mut n_bytes = codes.n_bytes + scales.n_bytes + state.n_bytes;
    n_bytes += map("code values", QUANT_MAP, &quant_map(format))?;
    let mut nested = None;
    if said.nested.is_some() {
        let n_nested = info.n_nested_blocks(n_elems);
        let absmax = part("second-level scales", NESTED_ABSMAX, StoredDtype::F32, &[&[n_nested]])?;
        n_bytes += absmax.n_bytes + map("scale values", NESTED_QUANT_MAP, &nested::map())?;
        nested = Some(NestedPlaces {
            codes_at: scales.offset,
            absmax_at: absmax.offset,
            offset_at: state.offset,
            offset_bytes: state.n_bytes,
            offset_form: OFFSET_FORM,
        });
    }
    Ok(PackedTensor {
        name: name.to_owned(),
        format,
        shape: said.shape,
        dtype,
        n_elems,
        n_bytes,
        dtype_is_known: true,
        places: Places::Apart { codes_at: codes.offset, scales_at: scales.offset, coding: Coding::PLAIN, nested },
        digest_at: None,
    })
}
