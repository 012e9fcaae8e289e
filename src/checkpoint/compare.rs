//! The job `compare`: what each format would make of a checkpoint, without writing any of it.

use std::path::Path;

use super::StoredDtype;
use super::data::PIECE_BYTES;
use super::frontier::frontier;
use super::nested::{ScaleSpool, temp_dir};
use super::plan::refuse_quantized;
use super::progress::{OnProgress, Ticker};
use super::safetensors::TensorInfo;
use super::select::Selection;
use super::source::Source;
use crate::cpu;
use crate::dtype::{Dtype, Weights};
use crate::error::{Error, Result};
use crate::format::{Container, Format, ScaleType};
use crate::verify::ErrorFigures;

/// What is compared.
#[derive(Debug, Clone)]
pub struct CompareOptions {
    /// The formats, each once.
    pub formats: Vec<Format>,
    /// The tensors. A tensor that a format does not fit is never refused.
    pub selection: Selection,
}

/// What a format makes of a tensor.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It can be packed.
    Fits {
        /// Bytes of codes and scales.
        bytes_out: u64,
        /// How far its values move, over all of them.
        figures: ErrorFigures,
    },
    /// It can't be packed, for this reason, and stays as it is.
    Unfit(String),
}

/// A tensor that was compared.
#[derive(Debug, Clone)]
pub struct ComparedTensor {
    /// Name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its type.
    pub dtype: StoredDtype,
    /// Its elements.
    pub n_elems: u64,
    /// Its bytes as it is.
    pub bytes_in: u64,
    /// What each format makes of it, in the report's order of formats.
    pub outcomes: Vec<Outcome>,
}

/// A format over all tensors that were compared. One that it does not fit counts as it is: its own bytes, and no error.
#[derive(Debug, Clone)]
pub struct ComparedFormat {
    /// The format.
    pub format: Format,
    /// Bytes of all of them.
    pub bytes_out: u64,
    /// Bits a weight, over all of them.
    pub bits_per_weight: f64,
    /// How far their values move.
    pub figures: ErrorFigures,
    /// Tensors that it does not fit.
    pub n_unfit: usize,
    /// Whether no other format is as small and as exact and better in one of these. Never one that fits no tensor.
    pub on_frontier: bool,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct CompareReport {
    /// Elements of all tensors that were compared.
    pub n_elems: u64,
    /// Their bytes as they are.
    pub bytes_in: u64,
    /// The formats, as they were asked for.
    pub formats: Vec<ComparedFormat>,
    /// The tensors, in the input's order.
    pub tensors: Vec<ComparedTensor>,
    /// Sentences that a person should read.
    pub notices: Vec<String>,
}

/// Measures size and error that each format would give for a checkpoint's tensors, on the CPU path. Figures are those that
/// [`quantize`](super::quantize()) gives where everything is verified. Memory does not depend on the size of tensors.
///
/// # Errors
/// [`Error::Refused`] for an input that is quantized already, and for a selection without tensors; [`Error::NonFinite`]
/// with tensor and index; [`Error::BadFile`] and [`Error::Io`].
pub fn compare(input: &Path, options: &CompareOptions, progress: &mut OnProgress<'_>) -> Result<CompareReport> {
    compare_source(&Source::open(input)?, options, progress)
}

/// [`compare()`] for a checkpoint that is open already.
///
/// # Errors
/// As [`compare()`].
pub fn compare_source(
    source: &Source,
    options: &CompareOptions,
    progress: &mut OnProgress<'_>,
) -> Result<CompareReport> {
    let (chosen, notices) = choose(source, &options.selection).map_err(|error| error.in_file(source.path()))?;
    let formats = &options.formats;
    // A nested scale depends on all of a tensor's, so that its values are known on a second reading.
    let n_nested = formats.iter().filter(|format| format.info().scale == ScaleType::Nested).count() as u64;
    let bytes_in = chosen.iter().map(|reader| reader.tensor.n_bytes).sum::<u64>();
    let ticker = Ticker::new(bytes_in.saturating_mul(1 + n_nested), progress);
    let mut tensors = Vec::with_capacity(chosen.len());
    let mut totals = vec![Vec::with_capacity(chosen.len()); formats.len()];
    let mut bytes_out = vec![0; formats.len()];
    for reader in chosen {
        let tensor = reader.tensor;
        let (as_it_is, outcomes) =
            compare_tensor(&reader, formats, &ticker).map_err(|error| place(error, source, tensor))?;
        for (ix, outcome) in outcomes.iter().enumerate() {
            let (bytes, figures) = match outcome {
                Outcome::Fits { bytes_out, figures } => (*bytes_out, *figures),
                Outcome::Unfit(_) => (tensor.n_bytes, as_it_is),
            };
            bytes_out[ix] += bytes;
            totals[ix].push(figures);
        }
        tensors.push(ComparedTensor {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            dtype: tensor.dtype,
            n_elems: tensor.n_elems(),
            bytes_in: tensor.n_bytes,
            outcomes,
        });
    }
    let n_elems = tensors.iter().map(|tensor| tensor.n_elems).sum();
    let mut compared: Vec<_> = formats
        .iter()
        .enumerate()
        .map(|(ix, &format)| ComparedFormat {
            format,
            bytes_out: bytes_out[ix],
            bits_per_weight: bits_per_weight(bytes_out[ix], n_elems),
            figures: ErrorFigures::total(&totals[ix]),
            n_unfit: tensors.iter().filter(|tensor| matches!(tensor.outcomes[ix], Outcome::Unfit(_))).count(),
            on_frontier: false,
        })
        .collect();
    let mut candidates: Vec<_> = compared.iter_mut().filter(|format| format.n_unfit < tensors.len()).collect();
    let points: Vec<_> = candidates.iter().map(|format| (format.bytes_out, format.figures.mse())).collect();
    for (format, on_frontier) in candidates.iter_mut().zip(frontier(&points)) {
        format.on_frontier = on_frontier;
    }
    Ok(CompareReport { n_elems, bytes_in, formats: compared, tensors, notices })
}

/// The tensors that are compared, and what a person should know of the choice.
fn choose<'a>(source: &'a Source, selection: &Selection) -> Result<(Vec<Reader<'a>>, Vec<String>)> {
    refuse_quantized(source)?;
    // This format and this container take any rows, so that the choice does not depend on what is compared.
    let selected = selection.select(source.tensors(), Format::Sym4, Container::Native)?;
    let tensors = source.tensors().iter().zip(&selected.formats).filter(|(_, format)| format.is_some());
    let chosen: Vec<_> =
        tensors.filter_map(|(tensor, _)| Some(Reader { source, tensor, dtype: tensor.float()? })).collect();
    if chosen.is_empty() {
        return Err(Error::Refused(
            "has no tensor to compare: none of type F32, F16 or BF16 was chosen (see --include and --min-elements)"
                .to_owned(),
        ));
    }
    Ok((chosen, selected.notices))
}

/// The figures of a tensor as it is, and what each format makes of it.
fn compare_tensor(
    reader: &Reader<'_>,
    formats: &[Format],
    ticker: &Ticker<'_>,
) -> Result<(ErrorFigures, Vec<Outcome>)> {
    let mut trials: Vec<_> = formats.iter().map(|&format| Trial::new(format, reader.tensor)).collect();
    let mut as_it_is = ErrorFigures::default();
    reader.for_each_piece(0, reader.tensor.n_elems(), ticker, |first_elem, weights| {
        as_it_is.add_exact(weights);
        trials.iter_mut().try_for_each(|trial| trial.take(first_elem, weights))
    })?;
    let outcomes = trials.into_iter().map(|trial| trial.finish(reader, ticker)).collect::<Result<_>>()?;
    Ok((as_it_is, outcomes))
}

/// Reads a tensor's weights.
struct Reader<'a> {
    source: &'a Source,
    tensor: &'a TensorInfo,
    dtype: Dtype,
}

impl Reader<'_> {
    /// Hands out `n_elems` weights from `first_elem` on, whole blocks of any format at a time.
    fn for_each_piece(
        &self,
        first_elem: u64,
        n_elems: u64,
        ticker: &Ticker<'_>,
        mut take: impl FnMut(u64, Weights<'_>) -> Result<()>,
    ) -> Result<()> {
        let width = self.dtype.n_bytes();
        let piece_elems = PIECE_BYTES / width;
        let (mut input, mut ticks) = (Vec::new(), ticker.of(&self.tensor.name));
        let mut done = 0;
        while done < n_elems {
            let n = usize::try_from(n_elems - done).map_or(piece_elems, |n| n.min(piece_elems));
            input.resize(n * width, 0);
            let at = first_elem + done;
            self.source.read_at(self.tensor.offset + at * width as u64, &mut input)?;
            take(at, Weights::from_le_bytes(self.dtype, &input)?)?;
            ticks.add(input.len() as u64)?;
            done += n as u64;
        }
        Ok(())
    }
}

/// A format that is tried on a tensor.
struct Trial {
    format: Format,
    bytes_out: u64,
    figures: ErrorFigures,
    unfit: Option<String>,
    /// Nested scales, until all of them are known.
    spool: Option<ScaleSpool>,
    values: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<u8>,
}

impl Trial {
    fn new(format: Format, tensor: &TensorInfo) -> Self {
        let info = format.info();
        let row = tensor.shape.last().copied().unwrap_or(1);
        let fits = !info.whole_blocks || row.is_multiple_of(info.block as u64);
        Self {
            format,
            bytes_out: info.packed_bytes(tensor.n_elems()),
            figures: ErrorFigures::default(),
            unfit: (!fits).then(|| format!("its rows of {row} elements are no multiple of {}", info.block)),
            spool: (info.scale == ScaleType::Nested).then(|| ScaleSpool::new(temp_dir().as_deref())),
            values: Vec::new(),
            codes: Vec::new(),
            scales: Vec::new(),
        }
    }

    /// Quantizes the next weights.
    fn take(&mut self, first_elem: u64, weights: Weights<'_>) -> Result<()> {
        if self.unfit.is_some() {
            return Ok(());
        }
        match self.quantize(first_elem, weights) {
            // Another format may fit.
            Err(error @ Error::ScaleOverflow { .. }) => self.unfit = Some(error.to_string()),
            quantized => quantized?,
        }
        match &mut self.spool {
            _ if self.unfit.is_some() => Ok(()),
            Some(spool) => spool.add(&self.scales),
            None => self.measure(first_elem, weights),
        }
    }

    fn quantize(&mut self, first_elem: u64, weights: Weights<'_>) -> Result<()> {
        let (info, n_elems) = (self.format.info(), weights.len() as u64);
        for (buffer, n_bytes) in
            [(&mut self.codes, info.codes_bytes(n_elems)), (&mut self.scales, info.scales_bytes(n_elems))]
        {
            buffer.clear();
            // Of a piece, a few MiB at most.
            buffer.resize(usize::try_from(n_bytes).unwrap_or(usize::MAX), 0);
        }
        cpu::quantize_into(self.format, weights, first_elem, &mut self.codes, &mut self.scales)
    }

    /// Adds how far the weights moved that were quantized last.
    fn measure(&mut self, first_elem: u64, weights: Weights<'_>) -> Result<()> {
        let block = self.format.info().block;
        self.values.resize(weights.len(), 0.0);
        let bytes = bytemuck::cast_slice_mut(&mut self.values);
        cpu::dequantize_into(self.format, &self.codes, &self.scales, first_elem, Dtype::F32, bytes)?;
        self.figures.add_values((first_elem / block as u64, block), weights, &self.values);
        Ok(())
    }

    /// What came of it, once all weights were taken. Of nested scales, this reads the tensor again.
    fn finish(mut self, reader: &Reader<'_>, ticker: &Ticker<'_>) -> Result<Outcome> {
        if let Some(mut spool) = self.spool.take() {
            let (block, n_elems) = (self.format.info().block as u64, reader.tensor.n_elems());
            spool.for_each_quantized_run(|first_block, scales| {
                let (first, end) = (first_block * block, (first_block + scales.len() as u64) * block);
                let mut scales = bytemuck::cast_slice::<f32, u8>(scales);
                reader.for_each_piece(first, end.min(n_elems) - first, ticker, |first_elem, weights| {
                    self.quantize(first_elem, weights)?;
                    let (now, later) = scales.split_at(self.scales.len());
                    self.scales.copy_from_slice(now);
                    scales = later;
                    self.measure(first_elem, weights)
                })
            })?;
        }
        Ok(match self.unfit {
            Some(reason) => Outcome::Unfit(reason),
            None => Outcome::Fits { bytes_out: self.bytes_out, figures: self.figures },
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn bits_per_weight(bytes: u64, n_elems: u64) -> f64 {
    bytes as f64 * 8.0 / n_elems as f64
}

/// Says where an error happened, unless it says so itself.
fn place(error: Error, source: &Source, tensor: &TensorInfo) -> Error {
    match error {
        Error::File { .. } => error,
        Error::NonFinite { .. } => error.in_tensor(&tensor.name).in_file(source.file_of(tensor)),
        error => error.in_tensor(&tensor.name),
    }
}
