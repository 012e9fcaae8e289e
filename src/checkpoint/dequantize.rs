//! The job `dequantize`.

use std::path::Path;

use super::StoredDtype;
use super::container::linear;
use super::data::Data;
use super::layout::{Content, FileLayout, Layout, Part, cut};
use super::output::{Existing, Kind, Target};
use super::packed_file::PackedFile;
use super::plan::{DEFAULT_SHARD_BYTES, output_kind};
use super::progress::{Progress, Ticker};
use super::quantize::Action;
use super::safetensors::TensorInfo;
use super::source::CONFIG_FILE;
use super::weight::PackedTensor;
use crate::dtype::Dtype;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::Container;

/// How a quantized checkpoint is turned back.
#[derive(Debug, Clone, Copy, Default)]
pub struct DequantizeOptions {
    /// Type of what was quantized; `None` for the type that each weight had.
    pub dtype: Option<Dtype>,
    /// Whether an existing output is replaced.
    pub force: bool,
    /// Whether the output is flushed to the disk before it gets its name.
    pub sync: bool,
}

/// A tensor of the output.
#[derive(Debug, Clone)]
pub struct DequantizedTensor {
    /// Name.
    pub name: String,
    /// [`Action::Quantized`] if it was packed in the input.
    pub was: Action,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its type in the output.
    pub dtype: StoredDtype,
    /// Its digest, found right where the file records one; none for what was copied.
    pub digest: Option<[u8; 32]>,
}

/// What a run did.
#[derive(Debug, Clone)]
pub struct DequantizeReport {
    /// Who did it, as [`Engine::description`] says.
    pub adapter: String,
    /// The input's container. Only the native one records digests; of the others damage shows only beside the original.
    pub container: Container,
    /// Bytes of the input file.
    pub bytes_in: u64,
    /// Bytes of the output file.
    pub bytes_out: u64,
    /// Every tensor: packed ones first, each kind in the input's order.
    pub tensors: Vec<DequantizedTensor>,
}

/// Turns a quantized checkpoint back into a plain safetensors file, or a model's folder where it is in shards, which appears only when it is complete. Each weight's
/// digest is checked first, in containers that have them; what was copied is copied.
///
/// # Errors
/// [`Error::Refused`] before any work, [`Error::BadFile`] for a file that is damaged or not quantized,
/// [`Error::Overflow`] for a value beyond the output type's range, [`Error::Io`], and the GPU's. Nothing of the output
/// remains.
pub async fn dequantize(
    engine: &Engine,
    input: &Path,
    output: &Path,
    options: DequantizeOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<DequantizeReport> {
    let source = PackedFile::open(input)?;
    let kind = output_kind(source.source(), None, None);
    let existing = Existing { force: options.force, ..Existing::default() };
    let target = Target::new(output, existing, source.source(), kind)?;
    let parts: Vec<_> = source
        .weights()
        .iter()
        .map(|weight| weight_part(weight, options.dtype))
        .chain(source.copied().iter().map(Part::copy_of))
        .collect();
    let layout = lay_out(&source, &parts).map_err(|error| error.in_file(output))?;
    let out = target.create(&layout, &serde_json::Value::Null)?;
    out.carry_files(source.source())?;
    if let (Kind::Folder, Some(config)) = (kind, linear::plain_config(source.source())?) {
        out.add_file(CONFIG_FILE, config.as_bytes())?;
    }
    let mut ticker = Ticker::new(source.source().data_bytes(), progress);
    let (from, to) = (source.data(), out.data());
    let (weights_at, copied_at) = layout.offsets.split_at(source.weights().len());
    let mut tensors = Vec::with_capacity(parts.len());

    for ((weight, &at), part) in source.weights().iter().zip(weights_at).zip(&parts) {
        let dtype = options.dtype.unwrap_or(weight.dtype);
        let digest = dequantize_weight(engine, (from, weight), (to, at), dtype)
            .await
            .map_err(|error| place(error, &weight.name, input))?;
        ticker.add(&weight.name, weight.n_bytes)?;
        let (name, shape) = (weight.name.clone(), weight.shape.clone());
        tensors.push(DequantizedTensor {
            name,
            was: Action::Quantized,
            shape,
            dtype: part.dtype,
            digest: Some(digest),
        });
    }
    for (tensor, &at) in source.copied().iter().zip(copied_at) {
        from.for_each_piece(tensor.offset, tensor.n_bytes, |done, bytes| {
            ticker.add(&tensor.name, bytes.len() as u64)?;
            to.write_at(at + done, bytes)
        })?;
        let TensorInfo { name, shape, dtype, .. } = tensor.clone();
        tensors.push(DequantizedTensor { name, was: Action::Copied, shape, dtype, digest: None });
    }
    out.finish(options.sync)?;
    let (bytes_in, bytes_out) = (source.source().n_bytes(), layout.n_bytes());
    let (adapter, container) = (engine.description(), source.container());
    Ok(DequantizeReport { adapter, container, bytes_in, bytes_out, tensors })
}

/// Cuts the parts into files where the input is in shards.
fn lay_out(source: &PackedFile, parts: &[Part]) -> Result<Layout> {
    let limit = source.source().is_sharded().then_some(DEFAULT_SHARD_BYTES);
    let mut rest = parts;
    let runs = cut(parts.iter().map(|part| part.n_bytes), limit);
    let files = runs.into_iter().map(|n| {
        let parts = rest.split_off(..n).unwrap_or_default();
        Ok((FileLayout::new(source.original_metadata(), parts)?, parts))
    });
    Layout::new(files.collect::<Result<_>>()?)
}

/// Checks a weight's digest, then writes its values from position `at` on.
async fn dequantize_weight(
    engine: &Engine,
    (from, weight): (Data<'_>, &PackedTensor),
    (to, at): (Data<'_>, u64),
    dtype: Dtype,
) -> Result<[u8; 32]> {
    let digest = weight.check_digest(from)?;
    let block = weight.format.info().block as u64;
    let reader = weight.reader(from)?;
    engine
        .dequantize_stream(
            weight.format,
            dtype,
            weight.n_elems,
            |first_elem, codes, scales| reader.read(first_elem / block, codes, scales),
            |first_elem, values| to.write_at(at + first_elem * dtype.n_bytes() as u64, values),
        )
        .await?;
    Ok(digest)
}

fn weight_part(weight: &PackedTensor, dtype: Option<Dtype>) -> Part {
    let dtype = dtype.unwrap_or(weight.dtype);
    let n_bytes = weight.n_elems.saturating_mul(dtype.n_bytes() as u64);
    Part {
        name: weight.name.clone(),
        dtype: dtype.into(),
        shape: weight.shape.clone(),
        n_bytes,
        content: Content::Values,
    }
}

/// Says where an error happened, unless it says so itself.
fn place(error: Error, tensor: &str, input: &Path) -> Error {
    match error {
        Error::File { .. } => error,
        error => error.in_tensor(tensor).in_file(input),
    }
}
