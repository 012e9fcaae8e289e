//! The job `quantize`.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::check::{BlockChecker, check_blocks, check_copy, check_weight};
use super::journal::{Entry, FigureBits};
use super::output::{Existing, Kind, Output, Target};
use super::packing::BlockWriter;
use super::plan::{FixedBytes, Plan, Step, output_kind};
use super::progress::{OnProgress, Ticker, Ticks};
use super::quantize_report::{PlanReport, PlannedTensor, QuantizeReport, QuantizedTensor};
use super::safetensors::TensorInfo;
use super::select::Selection;
use super::source::Source;
use super::spread::spread;
use super::storage::Storage;
use super::weight::PackedTensor;
use crate::dtype::Dtype;
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
    /// Whether the journal stays when the output has its name. A run with `resume` then says again what was done, until
    /// [`remove_journal`](super::remove_journal()): for who must note that a job is done, and may be killed before that.
    pub keep_journal: bool,
}

impl QuantizeOptions {
    /// Defaults for a format: its first container, the default selection, a sample verified, nothing replaced.
    #[must_use]
    pub fn new(format: Format) -> Self {
        let container = format.info().containers.first().copied().unwrap_or(Container::Native);
        let (selection, verify) = (Selection::default(), Verify::default());
        let (force, resume, sync, keep_journal) = (false, false, false, false);
        Self { format, container, selection, verify, force, resume, shard_size: None, sync, keep_journal }
    }
}

/// Quantizes a checkpoint into `output`, a file or a folder as the container has it, which appears only when it is
/// complete and verified as far as asked. Its bytes depend on the input, the format and the selection alone.
///
/// `engines` is one engine or several. Of several, each takes the next tensor when it is free, on a thread of its own
/// while the caller's waits; if one loses its device, the others do its work, and a notice says so.
///
/// # Errors
/// [`Error::Refused`] before any work, [`Error::BadFile`] for an input that does not hold together,
/// [`Error::NonFinite`] with tensor and index, [`Error::Mismatch`] where verification fails, [`Error::Io`],
/// [`Error::Stopped`], and the GPU's if no engine is left. Of several tensors with errors, the first's. Nothing of the
/// output remains, but for [`Error::Kept`] around an error that another run may not meet.
pub async fn quantize(
    engines: &(impl AsRef<[Engine]> + ?Sized),
    input: &Path,
    output: &Path,
    options: &QuantizeOptions,
    progress: &mut OnProgress<'_>,
) -> Result<QuantizeReport> {
    quantize_source(engines, &Source::open(input)?, output, options, progress).await
}

/// [`quantize()`] from a checkpoint that is open already.
///
/// # Errors
/// As [`quantize()`].
pub async fn quantize_source(
    engines: &(impl AsRef<[Engine]> + ?Sized),
    source: &Source,
    output: &Path,
    options: &QuantizeOptions,
    progress: &mut OnProgress<'_>,
) -> Result<QuantizeReport> {
    let engines = engines.as_ref();
    let target = target(source, output, options)?;
    let plan = Plan::new(source, options).map_err(|error| error.in_file(source.path()))?;
    let output = plan.start(target, source, &describe(source, options)?)?;
    let ticker = Ticker::new(source.data_bytes().saturating_mul(n_passes(options.verify)), progress);
    let whole = 0..plan.steps.len();
    let (output, ran) = run((engines, source, &plan), whole, output, options.verify, &ticker).await?;
    output.finish(options.sync, options.keep_journal)?;
    Ok(report((engines, source, plan), options, ran))
}

/// [`quantize()`] from a checkpoint that is open already into storage of the caller's: a container of one file, whole
/// (`shard_size` is none). Journal, resuming and a name are not for this one, so `force`, `resume` and `sync` count for
/// nothing, and what is in the storage after an error is worthless.
///
/// # Errors
/// As [`quantize()`], and [`Error::Refused`] for a container that is a folder.
pub async fn quantize_into(
    engines: &(impl AsRef<[Engine]> + ?Sized),
    source: &Source,
    output: Arc<dyn Storage>,
    options: &QuantizeOptions,
    progress: &mut OnProgress<'_>,
) -> Result<QuantizeReport> {
    let engines = engines.as_ref();
    let plan = Plan::new(source, options).map_err(|error| error.in_file(source.path()))?;
    if output_kind(source, Some(options.container), options.shard_size) == Kind::Folder {
        let text = format!("{} makes a folder, and one file is wanted here", options.container.name());
        return Err(Error::Refused(text));
    }
    let output = Output::in_storage(output, &plan.layout)?;
    let ticker = Ticker::new(source.data_bytes().saturating_mul(n_passes(options.verify)), progress);
    let whole = 0..plan.steps.len();
    let (_, ran) = run((engines, source, &plan), whole, output, options.verify, &ticker).await?;
    Ok(report((engines, source, plan), options, ran))
}

fn report((engines, source, plan): (&[Engine], &Source, Plan), options: &QuantizeOptions, ran: Ran) -> QuantizeReport {
    QuantizeReport {
        adapter: Engine::description_of(engines),
        format: options.format,
        container: options.container,
        bytes_in: source.n_bytes(),
        bytes_out: plan.layout.n_bytes(),
        n_resumed: ran.n_resumed,
        tensors: ran.tensors,
        notices: plan.notices.into_iter().chain(ran.notices).collect(),
    }
}

/// How often a job goes through its input.
pub(super) fn n_passes(verify: Verify) -> u64 {
    if verify == Verify::Full { 2 } else { 1 }
}

/// What became of some tensors.
pub(super) struct Ran {
    pub(super) tensors: Vec<QuantizedTensor>,
    /// How many of them an earlier run had done.
    pub(super) n_resumed: usize,
    pub(super) notices: Vec<String>,
}

/// Does the tensors of these numbers, of which `output` has the files.
///
/// # Errors
/// As [`quantize()`].
pub(super) async fn run(
    (engines, source, plan): (&[Engine], &Source, &Plan),
    numbers: Range<usize>,
    output: Output,
    verify: Verify,
    ticker: &Ticker<'_>,
) -> Result<(Output, Ran)> {
    let (tensors, steps) = (&source.tensors()[numbers.clone()], &plan.steps[numbers]);
    let mut kinds = Vec::new();
    for step in steps {
        if let Step::Quantize(weight, _) = step
            && !kinds.contains(&(weight.format, weight.dtype))
        {
            kinds.push((weight.format, weight.dtype));
        }
    }
    let job = Job { source, output, kinds, verify, ticker };
    let done = spread(engines, steps.len(), async |engine, ix| job.step(engine, &tensors[ix], &steps[ix]).await).await;
    let done = match done {
        Ok(done) => done,
        Err(error) => return Err(job.stop(error)),
    };
    source.check_unchanged()?;
    let n_resumed = done.results.iter().filter(|done| done.was_there).count();
    let tensors = done.results.into_iter().map(|done| done.tensor).collect();
    Ok((job.output, Ran { tensors, n_resumed, notices: done.notices }))
}

/// Plans what [`quantize()`] would do, and does nothing of it. Sizes are exact.
///
/// # Errors
/// [`Error::Refused`] and [`Error::BadFile`] as [`quantize()`] gives before any work.
pub fn plan(input: &Path, output: &Path, options: &QuantizeOptions) -> Result<PlanReport> {
    plan_source(&Source::open(input)?, output, options)
}

/// [`plan()`] for a checkpoint that is open already.
///
/// # Errors
/// As [`plan()`].
pub fn plan_source(source: &Source, output: &Path, options: &QuantizeOptions) -> Result<PlanReport> {
    target(source, output, options)?;
    let plan = Plan::new(source, options).map_err(|error| error.in_file(source.path()))?;
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
    source: &'a Source,
    output: Output,
    /// Formats and types of all weights.
    kinds: Vec<(Format, Dtype)>,
    verify: Verify,
    ticker: &'a Ticker<'b>,
}

/// What became of a tensor, in this run or an earlier one.
struct Done {
    tensor: QuantizedTensor,
    was_there: bool,
}

impl Job<'_, '_> {
    /// Does a tensor, unless an earlier run did.
    async fn step(&self, engine: &Engine, tensor: &TensorInfo, step: &Step) -> Result<Done> {
        let mut ticks = self.ticker.of(&tensor.name);
        let done = match self.resumed(tensor, step, &mut ticks) {
            Ok(Some(tensor)) => Ok(Done { tensor, was_there: true }),
            Ok(None) => self.run(engine, tensor, step, &mut ticks).await,
            Err(error) => Err(error),
        };
        done.map_err(|error| {
            ticks.take_back();
            self.place(error, tensor)
        })
    }

    /// What an earlier run made of a tensor, if it did and that is still there as it was.
    fn resumed(&self, tensor: &TensorInfo, step: &Step, ticks: &mut Ticks<'_, '_>) -> Result<Option<QuantizedTensor>> {
        let found = self.output.journal().and_then(|journal| journal.find(&tensor.name).cloned());
        let Some(done) = found else { return Ok(None) };
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
        ticks.add(tensor.n_bytes * n_passes(self.verify))?;
        Ok(Some(recorded(tensor, step, &done, self.verify)))
    }

    /// Does a tensor, and records that it is done.
    async fn run(&self, engine: &Engine, tensor: &TensorInfo, step: &Step, ticks: &mut Ticks<'_, '_>) -> Result<Done> {
        let (done, digest) = match step {
            Step::Quantize(weight, fixed) => {
                for FixedBytes { at, bytes } in fixed {
                    self.output.data().write_at(*at, bytes)?;
                }
                self.quantize(engine, tensor, weight, ticks).await?
            }
            Step::Copy(at) => self.copy(tensor, *at, ticks)?,
        };
        let digest = blake3::Hash::from(digest).to_hex().to_string();
        let figures = done.figures.map(FigureBits::from);
        if let Some(mut journal) = self.output.journal() {
            journal.add(Entry { tensor: tensor.name.clone(), digest, figures })?;
        }
        Ok(Done { tensor: done, was_there: false })
    }

    /// Ends it early. What is done is kept if the fault is none of the input's.
    fn stop(self, error: Error) -> Error {
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

    async fn quantize(
        &self,
        engine: &Engine,
        tensor: &TensorInfo,
        weight: &PackedTensor,
        ticks: &mut Ticks<'_, '_>,
    ) -> Result<(QuantizedTensor, [u8; 32])> {
        let data = self.output.data();
        let (info, width) = (weight.format.info(), weight.dtype.n_bytes() as u64);
        let made_by = engine.description();
        let (original, packed, made_by) = ((self.source.data(), tensor), (data, weight), Some(made_by.as_str()));
        // Each part is held as soon as it is made, while it is in the caches, and read back as soon as it is written: so what is
        // in the file is what was held. Nested scales are there only at the end.
        let at_once = self.verify == Verify::Full && weight.nested().is_none();
        let checker = at_once.then(|| BlockChecker::new(original, packed, made_by)).transpose()?;
        let mut figures = ErrorFigures::default();
        let mut writer = BlockWriter::new(weight, data, self.output.scratch());
        // All at once, where the first weight needs one: together they take hardly longer.
        engine.prepare_to_quantize(&self.kinds).await;
        engine
            .quantize_stream_with(
                weight.format,
                weight.dtype,
                weight.n_elems,
                |first_elem, bytes| self.source.read_at(tensor.offset + first_elem * width, bytes),
                |part, weights| checker.as_ref().map(|checker| checker.check_made(part, weights)).transpose(),
                |chunk, held| {
                    writer.add(chunk)?;
                    if let Some(checker) = &checker {
                        checker.check_written(chunk)?;
                    }
                    held.into_iter().flatten().for_each(|held| held.add_to(&mut figures));
                    let n_blocks = chunk.scales.len() / info.scale.n_bytes();
                    let n_elems = ((n_blocks * info.block) as u64).min(weight.n_elems - chunk.first_elem);
                    ticks.add(n_elems * width)?;
                    // It has been gone through twice.
                    if at_once { ticks.add(n_elems * width) } else { Ok(()) }
                },
            )
            .await?;
        let digest = writer.finish()?;

        let (figures, stored) = match (self.verify, checker) {
            (Verify::None, _) => (None, None),
            (Verify::Sample, _) => (Some(check_blocks(original, packed, self.verify, made_by, ticks)?), None),
            // Its codes and scales read back as they were.
            (Verify::Full, Some(_)) => (Some(figures), weight.recorded_digest(data)?),
            (Verify::Full, None) => {
                let (figures, stored) = check_weight(original, packed, made_by, ticks)?;
                (Some(figures), Some(stored))
            }
        };
        if let Some(stored) = stored.filter(|stored| *stored != digest) {
            let text = format!("what was written reads back with the digest {}", blake3::Hash::from(stored));
            return Err(Error::BadFile(text));
        }
        Ok((QuantizedTensor::packed(tensor, weight, Some(digest), figures, self.verify), digest))
    }

    fn copy(&self, tensor: &TensorInfo, at: u64, ticks: &mut Ticks<'_, '_>) -> Result<(QuantizedTensor, [u8; 32])> {
        let (source, data) = (self.source.data(), self.output.data());
        let mut hasher = blake3::Hasher::new();
        source.for_each_piece(tensor.offset, tensor.n_bytes, |done, bytes| {
            data.write_at(at + done, bytes)?;
            hasher.update(bytes);
            ticks.add(bytes.len() as u64)
        })?;
        if self.verify == Verify::Full {
            check_copy((source, tensor), (data, at), ticks)?;
        }
        Ok((QuantizedTensor::copied(tensor, self.verify), *hasher.finalize().as_bytes()))
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
pub(super) fn recorded(tensor: &TensorInfo, step: &Step, done: &Entry, verify: Verify) -> QuantizedTensor {
    let figures = done.figures.map(ErrorFigures::from);
    let digest = blake3::Hash::from_hex(&done.digest).ok().map(blake3::Hash::into);
    match step {
        Step::Quantize(weight, _) => QuantizedTensor::packed(tensor, weight, digest, figures, verify),
        Step::Copy(_) => QuantizedTensor::copied(tensor, verify),
    }
}
