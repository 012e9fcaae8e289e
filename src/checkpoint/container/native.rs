//! The native container: one safetensors file, whose metadata says what each weight was.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Chosen, Found, Rules};
use crate::checkpoint::StoredDtype;
use crate::checkpoint::layout::{Content, FileLayout, Part};
use crate::checkpoint::nested::{NestedPlaces, OffsetForm};
use crate::checkpoint::source::Source;
use crate::checkpoint::weight::{Coding, PackedTensor, Places, count_elems};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::{Format, FormatInfo, ScaleType};

/// The key of `__metadata__` that makes a safetensors file a native one.
const METADATA_KEY: &str = "wgquant";

/// The version of the layout that this release reads and writes.
const LAYOUT_VERSION: u64 = 1;

/// Bytes of a BLAKE3 digest.
const DIGEST_BYTES: u64 = 32;

/// The value of [`METADATA_KEY`], as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NativeMetadata {
    version: u64,
    weights: BTreeMap<String, WeightMetadata>,
}

/// What a weight was before it was packed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightMetadata {
    format: String,
    shape: Vec<u64>,
    dtype: String,
    block: u64,
}

const SCALES: &str = ".scales";
const NESTED_ABSMAX: &str = ".nested_absmax";
const NESTED_OFFSET: &str = ".nested_offset";
const DIGEST: &str = ".blake3";

/// What is added to a weight's name for those of its other parts.
fn part_suffixes(info: &FormatInfo) -> &'static [&'static str] {
    match info.scale {
        ScaleType::Nested => &[SCALES, NESTED_ABSMAX, NESTED_OFFSET, DIGEST],
        _ => &[SCALES, DIGEST],
    }
}

/// The type that a file gives packed codes.
fn codes_dtype(info: &FormatInfo) -> StoredDtype {
    match info.bits {
        8 => StoredDtype::I8,
        _ => StoredDtype::U8,
    }
}

/// The type that a file gives scales.
pub(super) fn scales_dtype(info: &FormatInfo) -> StoredDtype {
    match info.scale {
        ScaleType::F32 => StoredDtype::F32,
        ScaleType::F16 => StoredDtype::F16,
        ScaleType::E8M0 | ScaleType::Nested => StoredDtype::U8,
    }
}

/// One safetensors file.
pub(crate) struct Native;

impl Rules for Native {
    fn parts(&self, weight: Chosen<'_>) -> Vec<Part> {
        let (info, n_elems) = (weight.format.info(), weight.tensor.n_elems());
        let part = |suffix, dtype, n, n_bytes, content| {
            let name = format!("{}{suffix}", weight.tensor.name);
            Part { name, dtype, shape: vec![n], n_bytes, content }
        };
        let (codes_bytes, scales_bytes) = (info.codes_bytes(n_elems), info.stored_scales_bytes(n_elems));
        let mut parts = vec![
            part("", codes_dtype(info), codes_bytes, codes_bytes, Content::Codes),
            part(SCALES, scales_dtype(info), info.n_blocks(n_elems), scales_bytes, Content::Scales),
            part(DIGEST, StoredDtype::U8, DIGEST_BYTES, DIGEST_BYTES, Content::Digest),
        ];
        if info.scale == ScaleType::Nested {
            let (n, n_bytes) = (info.n_nested_blocks(n_elems), info.nested_absmax_bytes(n_elems));
            let offset = Content::NestedOffset(vec![0; size_of::<f32>()]);
            parts.push(part(NESTED_ABSMAX, StoredDtype::F32, n, n_bytes, Content::NestedAbsmax));
            parts.push(part(NESTED_OFFSET, StoredDtype::F32, 1, size_of::<f32>() as u64, offset));
        }
        parts
    }

    fn layout(&self, source: &Source, weights: &[Chosen<'_>], parts: &[Part]) -> Result<FileLayout> {
        let weights = weights.iter().map(|weight| {
            let entry = WeightMetadata {
                format: weight.format.name().to_owned(),
                shape: weight.tensor.shape.clone(),
                dtype: weight.dtype.name().to_owned(),
                block: weight.format.info().block as u64,
            };
            (weight.tensor.name.clone(), entry)
        });
        let ours = NativeMetadata { version: LAYOUT_VERSION, weights: weights.collect() };
        let value = serde_json::to_string(&ours).map_err(|error| Error::Refused(format!("no metadata: {error}")))?;
        let mut metadata = source.metadata().clone();
        metadata.insert(METADATA_KEY.to_owned(), value);
        FileLayout::new(&metadata, parts)
    }

    fn is(&self, source: &Source) -> bool {
        source.metadata().contains_key(METADATA_KEY)
    }

    fn read(&self, source: &Source) -> Result<Found> {
        let (mut weights, mut parts) = (Vec::new(), Vec::new());
        let mut entries = BTreeMap::new();
        for text in source.metadata_of_files().filter_map(|metadata| metadata.get(METADATA_KEY)) {
            entries.extend(parse_metadata(text)?.weights);
        }
        for (name, entry) in &entries {
            let weight = read_weight(name, entry, source).map_err(|error| error.in_tensor(name))?;
            parts.push(name.clone());
            parts.extend(part_suffixes(weight.info()).iter().map(|suffix| format!("{name}{suffix}")));
            weights.push(weight);
        }
        let mut metadata = source.metadata().clone();
        metadata.remove(METADATA_KEY);
        Ok(Found { weights, parts, metadata })
    }
}

fn parse_metadata(text: &str) -> Result<NativeMetadata> {
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
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

fn read_weight(name: &str, entry: &WeightMetadata, source: &Source) -> Result<PackedTensor> {
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
    let Some(n_elems) = count_elems(&entry.shape) else {
        return bad(format!("its metadata gives the shape {:?}, which no file can hold", entry.shape));
    };
    if n_elems == 0 {
        return bad(format!("its metadata gives the shape {:?}, which has no elements", entry.shape));
    }
    let part = |what, suffix: &str, dtype: StoredDtype, n: u64| {
        let name = format!("{name}{suffix}");
        let Some(tensor) = source.find(&name) else { return bad_part(format!("its {what} ({name:?}) are missing")) };
        if tensor.dtype != dtype || tensor.shape != [n] {
            return bad_part(format!(
                "its {what} should be {dtype} of shape [{n}], and are {} of shape {:?}",
                tensor.dtype, tensor.shape
            ));
        }
        Ok(tensor.offset)
    };
    let codes_at = part("codes", "", codes_dtype(info), info.codes_bytes(n_elems))?;
    let scales_at = part("scales", SCALES, scales_dtype(info), info.n_blocks(n_elems))?;
    let mut nested = None;
    if info.scale == ScaleType::Nested {
        nested = Some(NestedPlaces {
            codes_at: scales_at,
            absmax_at: part("second-level scales", NESTED_ABSMAX, StoredDtype::F32, info.n_nested_blocks(n_elems))?,
            offset_at: part("scale offset's values", NESTED_OFFSET, StoredDtype::F32, 1)?,
            offset_bytes: size_of::<f32>() as u64,
            offset_form: OffsetForm::PLAIN,
        });
    }
    let digest_at = part("digest bytes", DIGEST, StoredDtype::U8, DIGEST_BYTES)?;
    let offset_bytes = nested.map_or(0, |nested| nested.offset_bytes);
    Ok(PackedTensor {
        name: name.to_owned(),
        format,
        shape: entry.shape.clone(),
        dtype,
        n_elems,
        n_bytes: info.codes_bytes(n_elems)
            + info.stored_scales_bytes(n_elems)
            + info.nested_absmax_bytes(n_elems)
            + offset_bytes
            + DIGEST_BYTES,
        dtype_is_known: true,
        places: Places::Apart { codes_at, scales_at, coding: Coding::PLAIN, nested },
        digest_at: Some(digest_at),
    })
}
