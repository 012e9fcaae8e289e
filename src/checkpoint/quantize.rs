//! The job `quantize`.

use std::path::Path;

use super::StoredDtype;
use super::check::{check_blocks, check_copy};
use super::container::rules;
use super::output::{Kind, Output, Target};
use super::packing::BlockWriter;
use super::plan::{Plan, Step};
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
    /// Whether an existing output is replaced.
    pub force: bool,
    /// Whether the output is flushed to the disk before it gets its name.
    pub sync: bool,
}

impl QuantizeOptions {
    /// Defaults for a format: its first container, the default selection, a sample verified, nothing replaced.
    #[must_use]
    pub fn new(format: Format) -> Self {
        let container = format.info().containers.first().copied().unwrap_or(Container::Native);
        let (selection, verify) = (Selection::default(), Verify::default());
        Self { format, container, selection, verify, force: false, sync: false }
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
    /// The format.
    pub format: Format,
    /// The layout.
    pub container: Container,
    /// Bytes of the input's file with the tensors.
    pub bytes_in: u64,
    /// Bytes of the output's file with the tensors.
    pub bytes_out: u64,
    /// Every tensor, in the input's order.
    pub tensors: Vec<QuantizedTensor>,
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
    let kind = if rules(options.container).is_folder() { Kind::Folder } else { Kind::File };
    let target = Target::new(output, options.force, &source, kind)?;
    let plan = Plan::new(&source, options).map_err(|error| error.in_file(input))?;
    let n_passes = if options.verify == Verify::Full { 2 } else { 1 };
    let mut job = Job {
        engine,
        source: &source,
        output: plan.start(target, &source)?,
        verify: options.verify,
        made_by: engine.description(),
        ticker: Ticker::new(source.data_bytes().saturating_mul(n_passes), progress),
    };
    let mut tensors = Vec::with_capacity(plan.steps.len());
    for (tensor, step) in source.tensors().iter().zip(&plan.steps) {
        let done = match step {
            Step::Quantize(weight) => job.quantize(tensor, weight).await,
            Step::Copy(at) => job.copy(tensor, *at),
        };
        tensors.push(done.map_err(|error| job.place(error, tensor))?);
    }
    let Job { output, made_by, .. } = job;
    output.finish(options.sync)?;
    Ok(QuantizeReport {
        adapter: made_by,
        format: options.format,
        container: options.container,
        bytes_in: source.n_bytes(),
        bytes_out: plan.layout.n_bytes(),
        tensors,
        notices: plan.notices,
    })
}

/// A run in progress.
struct Job<'a> {
    engine: &'a Engine,
    source: &'a Source,
    output: Output,
    verify: Verify,
    made_by: String,
    ticker: Ticker<'a>,
}

impl Job<'_> {
    async fn quantize(&mut self, tensor: &TensorInfo, weight: &PackedTensor) -> Result<QuantizedTensor> {
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
                    ticker.add(&tensor.name, n_elems * width);
                    Ok(())
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
                &mut self.ticker,
            )?),
        };
        if self.verify == Verify::Full {
            let stored = weight.check_digest(data)?;
            if stored != digest {
                let text = format!("what was written reads back with the digest {}", blake3::Hash::from(stored));
                return Err(Error::BadFile(text));
            }
        }
        Ok(QuantizedTensor {
            name: tensor.name.clone(),
            action: Action::Quantized,
            shape: tensor.shape.clone(),
            dtype: tensor.dtype,
            bytes_in: tensor.n_bytes,
            bytes_out: weight.n_bytes,
            digest: Some(digest),
            figures,
            verified: self.verify,
        })
    }

    fn copy(&mut self, tensor: &TensorInfo, at: u64) -> Result<QuantizedTensor> {
        let (source, data) = (self.source.data(), self.output.data());
        source.for_each_piece(tensor.offset, tensor.n_bytes, |done, bytes| {
            data.write_at(at + done, bytes)?;
            self.ticker.add(&tensor.name, bytes.len() as u64);
            Ok(())
        })?;
        if self.verify == Verify::Full {
            check_copy((source, tensor), (data, at), &mut self.ticker)?;
        }
        Ok(QuantizedTensor {
            name: tensor.name.clone(),
            action: Action::Copied,
            shape: tensor.shape.clone(),
            dtype: tensor.dtype,
            bytes_in: tensor.n_bytes,
            bytes_out: tensor.n_bytes,
            digest: None,
            figures: None,
            verified: if self.verify == Verify::Full { Verify::Full } else { Verify::None },
        })
    }

    /// Says where an error happened, unless it says so itself.
    fn place(&self, error: Error, tensor: &TensorInfo) -> Error {
        match error {
            Error::File { .. } | Error::Mismatch(_) => error,
            Error::NonFinite { .. } => error.in_tensor(&tensor.name).in_file(self.source.file_path()),
            error => error.in_tensor(&tensor.name),
        }
    }
}
