//! The container `bnb`: a folder that transformers loads with bitsandbytes, for `nf4` and `fp4`.
//!
//! A weight `P` becomes `P` (u8 [ceil(n/2), 1]), `P.absmax`, `P.quant_map` and `P.quant_state.bitsandbytes__nf4` or
//! `__fp4`, whose bytes are JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::linear;
use super::{Chosen, Found, Rules};
use crate::checkpoint::StoredDtype;
use crate::checkpoint::layout::{Content, Layout, Part};
use crate::checkpoint::safetensors::TensorInfo;
use crate::checkpoint::source::Source;
use crate::checkpoint::weight::{Coding, PackedTensor, Places, count_elems};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::quant::{fp4, nf4};

const METHOD: &str = "bitsandbytes";

const ABSMAX: &str = ".absmax";
const QUANT_MAP: &str = ".quant_map";
const QUANT_STATE: &str = ".quant_state.bitsandbytes__";

/// What only doubly quantized weights have.
const NESTED_ABSMAX: &str = ".nested_absmax";

/// The formats, by bitsandbytes' names, which are ours.
const FORMATS: [Format; 2] = [Format::Nf4, Format::Fp4];

/// No JSON of theirs or ours is longer.
const MAX_STATE_BYTES: u64 = 1 << 16;

const MAP_BYTES: u64 = 64;

/// What the JSON says.
#[derive(Debug, Serialize, Deserialize)]
struct QuantState {
    quant_type: String,
    blocksize: u64,
    dtype: String,
    shape: Vec<u64>,
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

    fn parts(&self, weight: Chosen<'_>) -> Vec<Part> {
        let (tensor, info) = (weight.tensor, weight.format.info());
        let (name, n_elems) = (&tensor.name, tensor.n_elems());
        let codes_bytes = info.codes_bytes(n_elems);
        let state = QuantState {
            quant_type: info.name.to_owned(),
            blocksize: info.block as u64,
            dtype: linear::torch_name(weight.dtype).to_owned(),
            shape: tensor.shape.clone(),
        };
        let state = json!(state).to_string().into_bytes();
        let map: Vec<_> = quant_map(weight.format).iter().flat_map(|value| value.to_le_bytes()).collect();
        vec![
            Part {
                name: name.clone(),
                dtype: StoredDtype::U8,
                shape: vec![codes_bytes, 1],
                n_bytes: codes_bytes,
                content: Content::Codes,
            },
            Part {
                name: format!("{name}{ABSMAX}"),
                dtype: StoredDtype::F32,
                shape: vec![info.n_blocks(n_elems)],
                n_bytes: info.scales_bytes(n_elems),
                content: Content::Scales,
            },
            Part::fixed(format!("{name}{QUANT_MAP}"), StoredDtype::F32, vec![16], map),
            Part::fixed(format!("{name}{QUANT_STATE}{}", info.name), StoredDtype::U8, vec![state.len() as u64], state),
        ]
    }

    fn layout(&self, source: &Source, _weights: &[Chosen<'_>], parts: &[Part]) -> Result<Layout> {
        Layout::new(&linear::metadata(source), parts)
    }

    fn config(&self, source: &Source, weights: &[Chosen<'_>], copied: &[&TensorInfo]) -> Result<Option<String>> {
        let Some(first) = weights.first() else {
            return Err(Error::Refused("has no tensor to pack in bnb: see --min-elements".to_owned()));
        };
        let left = linear::left_modules(copied);
        refuse_confusion(&left, weights)?;
        let quantization = json!({
            "quant_method": METHOD,
            "load_in_4bit": true,
            "load_in_8bit": false,
            "bnb_4bit_quant_type": first.format.name(),
            "bnb_4bit_use_double_quant": false,
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
            weights.push(weight);
            parts.extend([name.to_owned(), state.name.clone()]);
            parts.extend([ABSMAX, QUANT_MAP].map(|suffix| format!("{name}{suffix}")));
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
        Format::Fp4 => fp4::values().map(|value| value + 0.0),
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
    serde_json::from_slice::<Value>(&text)
        .and_then(serde_json::from_value)
        .map_err(|error| Error::BadFile(format!("its quant_state is damaged: {error}")))
}

fn read_weight(source: &Source, name: &str, quant_type: &str, state: &TensorInfo) -> Result<PackedTensor> {
    let bad = |text: String| Err(Error::BadFile(text));
    if source.find(&format!("{name}{NESTED_ABSMAX}")).is_some() {
        return bad("is doubly quantized, which is not read yet".to_owned());
    }
    let said = read_state(source, state)?;
    let format = FORMATS.into_iter().find(|format| format.name() == said.quant_type && said.quant_type == quant_type);
    let Some(format) = format else {
        return bad(format!(
            "its quant_state says type {:?} under the name {quant_type:?}; nf4 and fp4 are read",
            said.quant_type
        ));
    };
    let info = format.info();
    if said.blocksize != info.block as u64 {
        return bad(format!(
            "its quant_state gives blocks of {} elements, and only {} is read",
            said.blocksize, info.block
        ));
    }
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
    let codes_bytes = info.codes_bytes(n_elems);
    let codes = part("codes", "", StoredDtype::U8, &[&[codes_bytes, 1], &[codes_bytes], &[1, codes_bytes]])?;
    let scales = part("scales", ABSMAX, StoredDtype::F32, &[&[info.n_blocks(n_elems)]])?;
    let map = part("code values", QUANT_MAP, StoredDtype::F32, &[&[16]])?;
    let mut bytes = [[0; 4]; 16];
    source.read_at(map.offset, bytes.as_flattened_mut())?;
    if bytes != quant_map(format).map(f32::to_le_bytes) {
        return bad(format!("its quant_map holds other values than {format} has"));
    }
    Ok(PackedTensor {
        name: name.to_owned(),
        format,
        shape: said.shape,
        dtype,
        n_elems,
        n_bytes: codes.n_bytes + scales.n_bytes + MAP_BYTES + state.n_bytes,
        dtype_is_known: true,
        places: Places::Apart { codes_at: codes.offset, scales_at: scales.offset, coding: Coding::PLAIN },
        digest_at: None,
    })
}
