//! What becomes of each tensor of an input, and where it goes.

use std::collections::{BTreeMap, BTreeSet};

use super::StoredDtype;
use super::layout::{Layout, Part};
use super::native::{
    DIGEST_BYTES, LAYOUT_VERSION, METADATA_KEY, NativeMetadata, PackedTensor, WeightMetadata, codes_dtype, part_names,
    scales_dtype,
};
use super::quantize::QuantizeOptions;
use super::safetensors::{SafetensorsFile, TensorInfo};
use crate::error::{Error, Result};
use crate::format::FormatInfo;

/// What becomes of a tensor.
#[derive(Debug)]
pub(crate) enum Step {
    /// It is packed, and its parts go there.
    Quantize(PackedTensor),
    /// Its bytes go to this position.
    Copy(u64),
}

/// The whole job, before any of it is done.
#[derive(Debug)]
pub(crate) struct Plan {
    /// One a tensor of the input, in its order.
    pub(crate) steps: Vec<Step>,
    /// Where everything goes.
    pub(crate) layout: Layout,
    /// What a person should know.
    pub(crate) notices: Vec<String>,
}

impl Plan {
    /// Plans the quantization of a file into the native container.
    ///
    /// # Errors
    /// [`Error::Refused`] for an input that is quantized already, a selection that does not fit, and names that clash.
    pub(crate) fn new(source: &SafetensorsFile, options: &QuantizeOptions) -> Result<Self> {
        let format = options.format;
        if !format.info().containers.contains(&options.container) {
            let fitting: Vec<_> = format.info().containers.iter().map(|container| container.name()).collect();
            let (container, fitting) = (options.container.name(), fitting.join(", "));
            return Err(Error::Refused(format!("{format} can't be written as {container}; it can be as: {fitting}")));
        }
        if source.metadata().contains_key(METADATA_KEY) {
            let text = "was quantized by wgquant already: give the original, or run wgquant dequantize on it first";
            return Err(Error::Refused(text.to_owned()));
        }
        let selected = options.selection.select(source.tensors(), format)?;
        let chosen = || source.tensors().iter().zip(&selected.quantize);
        refuse_clashes(source, chosen().filter(|&(_, &quantize)| quantize).map(|(tensor, _)| tensor))?;

        let mut parts = Vec::new();
        let mut weights = BTreeMap::new();
        for (tensor, &quantize) in chosen() {
            match tensor.float().filter(|_| quantize) {
                Some(dtype) => {
                    parts.extend(weight_parts(tensor, format.info()));
                    let entry = WeightMetadata {
                        format: format.name().to_owned(),
                        shape: tensor.shape.clone(),
                        dtype: dtype.name().to_owned(),
                        block: format.info().block as u64,
                    };
                    weights.insert(tensor.name.clone(), entry);
                }
                None => parts.push(Part::copy_of(tensor)),
            }
        }
        let metadata = NativeMetadata { version: LAYOUT_VERSION, weights };
        let value =
            serde_json::to_string(&metadata).map_err(|error| Error::Refused(format!("no metadata: {error}")))?;
        let mut metadata = source.metadata().clone();
        metadata.insert(METADATA_KEY.to_owned(), value);
        let layout = Layout::new(&metadata, &parts)?;

        // The same order again, now that each part has its place.
        let mut offsets = layout.offsets.iter().copied();
        let mut next = || offsets.next().unwrap_or(layout.data_bytes);
        let steps = chosen()
            .map(|(tensor, &quantize)| match tensor.float().filter(|_| quantize) {
                None => Step::Copy(next()),
                Some(dtype) => Step::Quantize(PackedTensor {
                    name: tensor.name.clone(),
                    format,
                    shape: tensor.shape.clone(),
                    dtype,
                    n_elems: tensor.n_elems(),
                    codes_at: next(),
                    scales_at: next(),
                    digest_at: next(),
                }),
            })
            .collect();
        Ok(Self { steps, layout, notices: selected.notices })
    }
}

/// Codes, scales and digest.
fn weight_parts(tensor: &TensorInfo, info: &FormatInfo) -> [Part; 3] {
    let n_elems = tensor.n_elems();
    let [scales, digest] = part_names(&tensor.name);
    let part = |name, dtype, n, n_bytes, is_digest| Part { name, dtype, shape: vec![n], n_bytes, is_digest };
    let (codes_bytes, scales_bytes) = (info.codes_bytes(n_elems), info.scales_bytes(n_elems));
    [
        part(tensor.name.clone(), codes_dtype(info), codes_bytes, codes_bytes, false),
        part(scales, scales_dtype(info), info.n_blocks(n_elems), scales_bytes, false),
        part(digest, StoredDtype::U8, DIGEST_BYTES, DIGEST_BYTES, true),
    ]
}

fn refuse_clashes<'a>(source: &SafetensorsFile, weights: impl Iterator<Item = &'a TensorInfo>) -> Result<()> {
    let names: BTreeSet<_> = source.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    for weight in weights {
        if let Some(clash) = part_names(&weight.name).into_iter().find(|part| names.contains(part.as_str())) {
            return Err(Error::Refused(format!(
                "tensor {:?} can't be quantized, because the input has a tensor {clash:?} already, which is the name that a \
                 part of it would get: leave it out with --exclude",
                weight.name
            )));
        }
    }
    Ok(())
}
