//! The job `dequantize`.

use std::path::Path;
use std::sync::Arc;

use super::StoredDtype;
use super::container::linear;
use super::data::Data;
use super::layout::{Content, FileLayout, Layout, Part, cut};
use super::output::{Existing, Kind, Output, Target};
use super::packed_file::PackedFile;
use super::plan::{DEFAULT_SHARD_BYTES, output_kind};
use super::progress::{OnProgress, Ticker, Ticks};
use super::quantize_report::Action;
use super::safetensors::TensorInfo;
use super::source::CONFIG_FILE;
use super::spread::spread;
use super::storage::Storage;
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
    /// Who did it, as [`Engine::description`] says, with ` + ` between several.
    pub adapter: String,
    /// The input's container. Only the native one records digests; of the others damage shows only beside the original.
    pub container: Container,
    /// Bytes of the input file.
    pub bytes_in: u64,
    /// Bytes of the output file.
    pub bytes_out: u64,
    /// Every tensor: packed ones first, each kind in the input's order.
    pub tensors: Vec<DequantizedTensor>,
    /// Sentences that a person should read.
    pub notices: Vec<String>,
}

/// Turns a quantized checkpoint back into a plain safetensors file, or a model's folder where it is in shards, which
/// appears only when it is complete. Each weight's digest is checked first, in containers that have them; what was copied
/// is copied. `engines` is one engine or several, as for [`quantize()`](super::quantize()).
///
/// # Errors
/// [`Error::Refused`] before any work, [`Error::BadFile`] for a file that is damaged or not quantized,
/// [`Error::Overflow`] for a value beyond the output type's range, [`Error::Io`], [`Error::Stopped`], and the GPU's if no
/// engine is left. Nothing of the output remains.
pub async fn dequantize(
    engines: &(impl AsRef<[Engine]> + ?Sized),
    input: &Path,
    output: &Path,
    options: DequantizeOptions,
    progress: &mut OnProgress<'_>,
) -> Result<DequantizeReport> {
    let engines = engines.as_ref();
    let source = PackedFile::open(input)?;
    let kind = output_kind(source.source(), None, None);
    let existing = Existing { force: options.force, ..Existing::default() };
    let target = Target::new(output, existing, source.source(), kind)?;
    let parts = parts(&source, options.dtype);
    let layout = lay_out(&source, &parts).map_err(|error| error.in_file(output))?;
    let out = target.create(&layout, &serde_json::Value::Null)?;
    out.carry_files(source.source())?;
    if let (Kind::Folder, Some(config)) = (kind, linear::plain_config(source.source())?) {
        out.add_file(CONFIG_FILE, config.as_bytes())?;
    }
    let report = run((engines, &source), (&parts, &layout, &out), options.dtype, progress).await?;
    out.finish(options.sync, false)?;
    Ok(report)
}

/// [`dequantize()`] from a checkpoint that is open already, into storage of the caller's. A name is not for this one, so
/// `force` and `sync` count for nothing, and what is in the storage after an error is worthless.
///
/// # Errors
/// As [`dequantize()`], and [`Error::Refused`] for a model in shards.
pub async fn dequantize_into(
    engines: &(impl AsRef<[Engine]> + ?Sized),
    source: &PackedFile,
    output: Arc<dyn Storage>,
    options: DequantizeOptions,
    progress: &mut OnProgress<'_>,
) -> Result<DequantizeReport> {
    let parts = parts(source, options.dtype);
    let layout = lay_out(source, &parts)?;
    let out = Output::in_storage(output, &layout)?;
    run((engines.as_ref(), source), (&parts, &layout, &out), options.dtype, progress).await
}

/// Writes all tensors.
async fn run(
    (engines, source): (&[Engine], &PackedFile),
    (parts, layout, out): (&[Part], &Layout, &Output),
    dtype: Option<Dtype>,
    progress: &mut OnProgress<'_>,
) -> Result<DequantizeReport> {
    let job = Job { source, out: out.data(), dtype, ticker: Ticker::new(source.source().data_bytes(), progress) };
    let done = spread(engines, parts.len(), async |engine, ix| {
        let (at, part) = (layout.offsets[ix], &parts[ix]);
        job.step(engine, ix, at, part).await
    });
    let done = done.await?;
    Ok(DequantizeReport {
        adapter: Engine::description_of(engines),
        container: source.container(),
        bytes_in: source.source().n_bytes(),
        bytes_out: layout.n_bytes(),
        tensors: done.results,
        notices: done.notices,
    })
}

/// What the output holds: the weights first, then what is copied.
fn parts(source: &PackedFile, dtype: Option<Dtype>) -> Vec<Part> {
    let weights = source.weights().iter().map(|weight| weight_part(weight, dtype));
    weights.chain(source.copied().iter().map(Part::copy_of)).collect()
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

/// A run in progress.
struct Job<'a> {
    source: &'a PackedFile,
    out: Data<'a>,
    dtype: Option<Dtype>,
    ticker: Ticker<'a>,
}

impl Job<'_> {
    /// Writes a tensor from position `at` on: the weights come first, then what was copied.
    async fn step(&self, engine: &Engine, ix: usize, at: u64, part: &Part) -> Result<DequantizedTensor> {
        let source = self.source;
        let mut ticks = self.ticker.of(&part.name);
        let done = match (source.weights().get(ix), source.copied().get(ix.saturating_sub(source.weights().len()))) {
            (Some(weight), _) => self.dequantize(engine, weight, at, &mut ticks).await.map(Some),
            (None, Some(tensor)) => self.copy(tensor, at, &mut ticks).map(|()| None),
            (None, None) => Ok(None),
        };
        match done {
            Ok(digest) => Ok(DequantizedTensor {
                name: part.name.clone(),
                was: if digest.is_some() { Action::Quantized } else { Action::Copied },
                shape: part.shape.clone(),
                dtype: part.dtype,
                digest,
            }),
            Err(error) => {
                ticks.take_back();
                Err(place(error, &part.name, source.source().path()))
            }
        }
    }

    /// Checks a weight's digest, then writes its values.
    async fn dequantize(
        &self,
        engine: &Engine,
        weight: &PackedTensor,
        at: u64,
        ticks: &mut Ticks<'_, '_>,
    ) -> Result<[u8; 32]> {
        let (from, info) = (self.source.data(), weight.format.info());
        let dtype = self.dtype.unwrap_or(weight.dtype);
        let digest = weight.check_digest(from)?;
        let reader = weight.reader(from)?;
        let mut n_left = weight.n_bytes;
        engine
            .dequantize_stream(
                weight.format,
                dtype,
                weight.n_elems,
                |first_elem, codes, scales| {
                    reader.read(first_elem / info.block as u64, codes, scales)?;
                    // Scales and what else a weight has are counted at the end.
                    let n_bytes = n_left.min(codes.len() as u64);
                    n_left -= n_bytes;
                    ticks.add(n_bytes)
                },
                |first_elem, values| self.out.write_at(at + first_elem * dtype.n_bytes() as u64, values),
            )
            .await?;
        ticks.add(n_left)?;
        Ok(digest)
    }

    fn copy(&self, tensor: &TensorInfo, at: u64, ticks: &mut Ticks<'_, '_>) -> Result<()> {
        self.source.data().for_each_piece(tensor.offset, tensor.n_bytes, |done, bytes| {
            self.out.write_at(at + done, bytes)?;
            ticks.add(bytes.len() as u64)
        })
    }
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
