//! The job `quantize`.

use std::ops::Range;
use std::path::Path;

use super::StoredDtype;
use super::check::{check_blocks, check_copy};
use super::journal::{Done, FigureBits};
use super::output::{Existing, Output, Target};
use super::packing::BlockWriter;
use super::plan::{FixedBytes, Plan, Step, output_kind};
use super::progress::{Progress, Ticker};
use super::safetensors::TensorInfo;
use super::select::Selection;
use super::source::Source;
use super::weight::PackedTensor;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::{Container, Format};
use crate::verify::{ErrorFigures, Verify};

/// How a checkpoint is quantized.
#[derive(Debug, Clone)]
pub struct QuantizeOptions {
    /// The format of what is quantized.
    pub format: Format,
    /// The layout of the output.
    pub container: Container,
    /// What is quantized.
    pub selection: Selection,
    /// How much of the result is recomputed and compared before it gets its name.
    pub verify: Verify,
    /// Whether an existing output is replaced, and what an earlier run left unfinished given up.
    pub force: bool,
    /// Whether what an earlier run left unfinished is gone on with; where there is nothing, it starts afresh.
    pub resume: bool,
    /// Bytes of tensors that a file of the output holds at most, so that it becomes a folder with an index. `None`: one
    /// file, or 5 GB each where the input is in shards.
    pub shard_size: Option<u64>,
    /// Whether the output is flushed to the disk before it gets its name.
    pub sync: bool,
}

impl QuantizeOptions {
    /// Defaults for a format: its first container, the default selection, a sample verified, nothing replaced.
    #[must_use]
    pub fn new(format: Format) -> Self {
        let container = format.info().containers.first().copied().unwrap_or(Container::Native);
        let (selection, verify) = (Selection::default(), Verify::default());
        Self { format, container, selection, verify, force: false, resume: false, shard_size: None, sync: false }
    }
}

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
    /// Who did it, as [`Engine::description`] says.
    pub adapter: String,
    /// The format, but for overrides.
    pub format: Format,
    /// The layout.
    pub container: Container,
    /// Bytes of the input's file with the tensors.
    pub bytes_in: u64,
    /// Bytes of the output's file with the tensors.
    pub bytes_out: u64,
    /// Every tensor, in the input's order.
    pub tensors: Vec<QuantizedTensor>,
    /// How many of them an earlier run had done.
    pub n_resumed: usize,
    /// Sentences that a person should read.
    pub notices: Vec<String>,
}

/// Quantizes a checkpoint into `output`, a file or a folder as the container has it, which appears only when it is complete and verified as far as asked. Its
/// bytes depend on the input, the format and the selection alone.
///
/// # Errors
/// [`Error::Refused`] before any work, [`Error::BadFile`] for an input that does not hold together,
/// [`Error::NonFinite`] with tensor and index, [`Error::Mismatch`] where verification fails, [`Error::Io`], and the GPU's.
/// Nothing of the output remains.
pub async fn quantize(
    engine: &Engine,
    input: &Path,
    output: &Path,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<QuantizeReport> {
    let source = Source::open(input)?;
    let target = target(&source, output, options)?;
    let plan = Plan::new(&source, options).map_err(|error| error.in_file(input))?;
    let output = plan.start(target, &source, &describe(&source, options)?)?;
    let mut ticker = Ticker::new(source.data_bytes().saturating_mul(n_passes(options.verify)), progress);
    let whole = 0..plan.steps.len();
    let (output, tensors, n_resumed) =
        run((engine, &source, &plan), whole, output, options.verify, &mut ticker).await?;
    output.finish(options.sync)?;
    Ok(QuantizeReport {
        adapter: engine.description(),
        format: options.format,
        container: options.container,
        bytes_in: source.n_bytes(),
        bytes_out: plan.layout.n_bytes(),
        tensors,
        n_resumed,
        notices: plan.notices,
    })
}

/// How often a job goes through its input.
pub(super) fn n_passes(verify: Verify) -> u64 {
    if verify == Verify::Full { 2 } else { 1 }
}

/// Does the tensors of these numbers, of which `output` has the files. Gives what became of them, and how many an earlier
/// run had done.
///
/// # Errors
/// As [`quantize()`].
pub(super) async fn run(
    (engine, source, plan): (&Engine, &Source, &Plan),
    numbers: Range<usize>,
    output: Output,
    verify: Verify,
    ticker: &mut Ticker<'_>,
) -> Result<(Output, Vec<QuantizedTensor>, usize)> {
    let (n_passes, made_by) = (n_passes(verify), engine.description());
    let mut job = Job { engine, source, output, verify, n_passes, made_by, ticker };
    let mut tensors = Vec::with_capacity(numbers.len());
    let mut n_resumed = 0;
    for (tensor, step) in source.tensors().iter().zip(&plan.steps).take(numbers.end).skip(numbers.start) {
        let done = match job.resumed(tensor, step) {
            Ok(Some(done)) => {
                n_resumed += 1;
                Ok(done)
            }
            Ok(None) => job.run(tensor, step).await.map_err(|error| job.place(error, tensor)),
            Err(error) => Err(error),
        };
        match done {
            Ok(done) => tensors.push(done),
            Err(error) => return Err(job.stop(error)),
        }
    }
    source.check_unchanged()?;
    Ok((job.output, tensors, n_resumed))
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

/// Plans what [`quantize()`] would do, and does nothing of it. Sizes are exact.
///
/// # Errors
/// [`Error::Refused`] and [`Error::BadFile`] as [`quantize()`] gives before any work.
pub fn plan(input: &Path, output: &Path, options: &QuantizeOptions) -> Result<PlanReport> {
    let source = Source::open(input)?;
    target(&source, output, options)?;
    let plan = Plan::new(&source, options).map_err(|error| error.in_file(input))?;
    let tensors = source.tensors().iter().zip(&plan.steps).map(|(tensor, step)| {
        let (format, bytes_out) = match step {
            Step::Quantize(weight, _) => (Some(weight.format), weight.n_bytes),
            Step::Copy(_) => (None, tensor.n_bytes),
        };
        let TensorInfo { name, shape, dtype, n_bytes, .. } = tensor.clone();
        PlannedTensor { name, format, shape, dtype, bytes_in: n_bytes, bytes_out }
    });
    Ok(PlanReport {
        bytes_in: source.n_bytes(),
        bytes_out: plan.layout.n_bytes(),
        n_files: plan.layout.files.len(),
        tensors: tensors.collect(),
        notices: plan.notices,
    })
}

/// The place of the output.
pub(super) fn target(source: &Source, output: &Path, options: &QuantizeOptions) -> Result<Target> {
    let kind = output_kind(source, Some(options.container), options.shard_size);
    let existing = Existing { force: options.force, resume: options.resume, resumable: true };
    Target::new(output, existing, source, kind)
}

/// What the output's bytes and the report depend on, for the journal: another run goes on only with the same.
pub(super) fn describe(source: &Source, options: &QuantizeOptions) -> Result<serde_json::Value> {
    let Selection { include, exclude, min_elements, copy_unfit, overrides } = &options.selection;
    let overrides: Vec<_> = overrides.iter().map(|of| (&of.pattern, of.format.map(Format::name))).collect();
    Ok(serde_json::json!({
        "release of wgquant": env!("CARGO_PKG_VERSION"),
        "input": source.fingerprint()?,
        "format": options.format.name(),
        "container": options.container.name(),
        "selection": [include, exclude, min_elements, copy_unfit, overrides],
        "shard size": options.shard_size,
        "verification": options.verify.name(),
    }))
}

/// A run in progress.
struct Job<'a, 'b> {
    engine: &'a Engine,
    source: &'a Source,
    output: Output,
    verify: Verify,
    n_passes: u64,
    made_by: String,
    ticker: &'a mut Ticker<'b>,
}

impl Job<'_, '_> {
    /// What an earlier run made of a tensor, if it did and that is still there as it was.
    fn resumed(&mut self, tensor: &TensorInfo, step: &Step) -> Result<Option<QuantizedTensor>> {
        let Some(done) = self.output.journal().and_then(|journal| journal.find(&tensor.name).cloned()) else {
            return Ok(None);
        };
        // A machine that went down may have lost what it said was written.
        if !self.output.is_finished() {
            let (data, mut hasher) = (self.output.data(), blake3::Hasher::new());
            let digest = match step {
                Step::Quantize(weight, _) => weight.digest(data).map(blake3::Hash::from),
                Step::Copy(at) => data
                    .for_each_piece(*at, tensor.n_bytes, |_, bytes| {
                        hasher.update(bytes);
                        Ok(())
                    })
                    .map(|()| hasher.finalize()),
            };
            if !digest.is_ok_and(|digest| digest.to_hex().as_str() == done.digest) {
                return Ok(None);
            }
        }
        self.ticker.add(&tensor.name, tensor.n_bytes * self.n_passes)?;
        Ok(Some(recorded(tensor, step, &done, self.verify)))
    }

    /// Does a tensor, and records that it is done.
    async fn run(&mut self, tensor: &TensorInfo, step: &Step) -> Result<QuantizedTensor> {
        let (done, digest) = match step {
            Step::Quantize(weight, fixed) => {
                for FixedBytes { at, bytes } in fixed {
                    self.output.data().write_at(*at, bytes)?;
                }
                self.quantize(tensor, weight).await?
            }
            Step::Copy(at) => self.copy(tensor, *at)?,
        };
        let digest = blake3::Hash::from(digest).to_hex().to_string();
        let figures = done.figures.map(FigureBits::from);
        if let Some(journal) = self.output.journal() {
            journal.add(Done { tensor: tensor.name.clone(), digest, figures })?;
        }
        Ok(done)
    }

    /// Ends it early. What is done is kept if the fault is none of the input's.
    fn stop(mut self, error: Error) -> Error {
        let error = self.source.check_unchanged().err().unwrap_or(error);
        let n_done = self.output.journal().map_or(0, |journal| journal.n_done());
        if n_done == 0 || !error.may_pass() {
            return error;
        }
        match self.output.keep() {
            Some(place) => Error::Kept { source: Box::new(error), n_done, place },
            None => error,
        }
    }

    async fn quantize(&mut self, tensor: &TensorInfo, weight: &PackedTensor) -> Result<(QuantizedTensor, [u8; 32])> {
        let (data, ticker) = (self.output.data(), &mut self.ticker);
        let (info, width) = (weight.format.info(), weight.dtype.n_bytes() as u64);
        let mut writer = BlockWriter::new(weight, data, self.output.parent());
        self.engine
            .quantize_stream(
                weight.format,
                weight.dtype,
                weight.n_elems,
                |first_elem, bytes| self.source.read_at(tensor.offset + first_elem * width, bytes),
                |chunk| {
                    writer.write(chunk)?;
                    let n_blocks = chunk.scales.len() / info.scale.n_bytes();
                    let n_elems = ((n_blocks * info.block) as u64).min(weight.n_elems - chunk.first_elem);
                    ticker.add(&tensor.name, n_elems * width)
                },
            )
            .await?;
        let digest = writer.finish()?;

        let figures = match self.verify {
            Verify::None => None,
            verify => Some(check_blocks(
                (self.source.data(), tensor),
                (data, weight),
                verify,
                Some(&self.made_by),
                self.ticker,
            )?),
        };
        if self.verify == Verify::Full {
            let stored = weight.check_digest(data)?;
            if stored != digest {
                let text = format!("what was written reads back with the digest {}", blake3::Hash::from(stored));
                return Err(Error::BadFile(text));
            }
        }
        Ok((quantized(tensor, weight, Some(digest), figures, self.verify), digest))
    }

    fn copy(&mut self, tensor: &TensorInfo, at: u64) -> Result<(QuantizedTensor, [u8; 32])> {
        let (source, data) = (self.source.data(), self.output.data());
        let mut hasher = blake3::Hasher::new();
        source.for_each_piece(tensor.offset, tensor.n_bytes, |done, bytes| {
            data.write_at(at + done, bytes)?;
            hasher.update(bytes);
            self.ticker.add(&tensor.name, bytes.len() as u64)
        })?;
        if self.verify == Verify::Full {
            check_copy((source, tensor), (data, at), self.ticker)?;
        }
        Ok((copied(tensor, self.verify), *hasher.finalize().as_bytes()))
    }

    /// Says where an error happened, unless it says so itself.
    fn place(&self, error: Error, tensor: &TensorInfo) -> Error {
        match error {
            Error::File { .. } | Error::Mismatch(_) => error,
            Error::NonFinite { .. } => error.in_tensor(&tensor.name).in_file(self.source.file_of(tensor)),
            error => error.in_tensor(&tensor.name),
        }
    }
}

/// What became of a tensor, as an earlier run recorded it.
pub(super) fn recorded(tensor: &TensorInfo, step: &Step, done: &Done, verify: Verify) -> QuantizedTensor {
    let figures = done.figures.map(ErrorFigures::from);
    let digest = blake3::Hash::from_hex(&done.digest).ok().map(blake3::Hash::into);
    match step {
        Step::Quantize(weight, _) => quantized(tensor, weight, digest, figures, verify),
        Step::Copy(_) => copied(tensor, verify),
    }
}

fn quantized(
    tensor: &TensorInfo,
    weight: &PackedTensor,
    digest: Option<[u8; 32]>,
    figures: Option<ErrorFigures>,
    verified: Verify,
) -> QuantizedTensor {
    QuantizedTensor {
        name: tensor.name.clone(),
        action: Action::Quantized,
        format: Some(weight.format),
        shape: tensor.shape.clone(),
        dtype: tensor.dtype,
        bytes_in: tensor.n_bytes,
        bytes_out: weight.n_bytes,
        digest,
        figures,
        verified,
    }
}

fn copied(tensor: &TensorInfo, verify: Verify) -> QuantizedTensor {
    QuantizedTensor {
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
