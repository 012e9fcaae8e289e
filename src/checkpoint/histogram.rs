//! How a weight's values are spread, before quantization and after.

use std::path::Path;

use super::data::PIECE_BYTES;
use super::packed_file::PackedFile;
use super::progress::{OnProgress, Ticker};
use super::safetensors::TensorInfo;
use super::source::Source;
use super::weight::PackedTensor;
use crate::dtype::Weights;
use crate::error::{Error, Result};
use crate::reference;

/// More bins than anybody can see.
const MAX_BINS: usize = 1 << 16;

/// How many of a weight's values lie in each of equally wide bins, before quantization and after.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Where the first bin starts: the least value of both.
    pub min: f64,
    /// Where the last bin ends: the greatest value of both.
    pub max: f64,
    /// Values of the original, a bin each.
    pub before: Vec<u64>,
    /// Values that come back, likewise.
    pub after: Vec<u64>,
}

impl Histogram {
    fn new(min: f64, max: f64, n_bins: usize) -> Self {
        let bins = vec![0; n_bins];
        Self { min, max, before: bins.clone(), after: bins }
    }

    /// The bin of a value from `min` to `max`. A bin has its lower edge, the last one its upper edge too.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number, not below 0")]
    #[expect(clippy::cast_precision_loss, reason = "few bins")]
    fn bin(&self, value: f64) -> usize {
        let n_bins = self.before.len();
        let width = self.max - self.min;
        let at = if width > 0.0 { (value - self.min) / width * n_bins as f64 } else { 0.0 };
        (at as usize).min(n_bins - 1)
    }
}

/// Counts the values of these weights in the original and in what was quantized, `n_bins` bins each. Both are read twice, in
/// bounded pieces.
///
/// # Errors
/// [`Error::BadFile`] if either does not hold together, or has no such weight of the same shape; [`Error::Refused`] for no bins
/// or more than 65,536; [`Error::Io`].
pub fn histograms(
    original: &Path,
    quantized: &Path,
    names: &[&str],
    n_bins: usize,
    progress: &mut OnProgress<'_>,
) -> Result<Vec<Histogram>> {
    histograms_of((&Source::open(original)?, &PackedFile::open(quantized)?), names, n_bins, progress)
}

/// [`histograms()`] for checkpoints that are open already: the original and what was quantized.
///
/// # Errors
/// As [`histograms()`].
pub fn histograms_of(
    (original, quantized): (&Source, &PackedFile),
    names: &[&str],
    n_bins: usize,
    progress: &mut OnProgress<'_>,
) -> Result<Vec<Histogram>> {
    if !(1..=MAX_BINS).contains(&n_bins) {
        return Err(Error::Refused(format!("a histogram has 1 to {MAX_BINS} bins, not {n_bins}")));
    }
    let mut weights = Vec::with_capacity(names.len());
    for &name in names {
        let tensor = original.find(name).filter(|tensor| tensor.float().is_some());
        let packed = quantized.weights().iter().find(|weight| weight.name == name);
        match (tensor, packed) {
            (Some(tensor), Some(packed)) if tensor.shape == packed.shape => {
                weights.push(Weight { original, tensor, quantized, packed });
            }
            _ => {
                let text = "is no weight of one shape in the original and in what was quantized".to_owned();
                return Err(Error::BadFile(text).in_tensor(name));
            }
        }
    }
    let n_bytes = weights.iter().map(|weight| weight.tensor.n_bytes).sum::<u64>();
    let ticker = Ticker::new(n_bytes.saturating_mul(2), progress);
    let histograms = weights.iter().map(|weight| {
        weight.histogram(n_bins, &ticker).map_err(|error| match error {
            Error::File { .. } => error,
            error => error.in_tensor(&weight.tensor.name),
        })
    });
    histograms.collect()
}

/// A weight in both.
struct Weight<'a> {
    original: &'a Source,
    tensor: &'a TensorInfo,
    quantized: &'a PackedFile,
    packed: &'a PackedTensor,
}

impl Weight<'_> {
    fn histogram(&self, n_bins: usize, ticker: &Ticker<'_>) -> Result<Histogram> {
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        self.for_each(ticker, |before, after| {
            min = min.min(before).min(after);
            max = max.max(before).max(after);
        })?;
        let mut histogram = Histogram::new(min, max, n_bins);
        self.for_each(ticker, |before, after| {
            let (before, after) = (histogram.bin(before), histogram.bin(after));
            histogram.before[before] += 1;
            histogram.after[after] += 1;
        })?;
        Ok(histogram)
    }

    /// Hands out each value as it was and as it is now.
    fn for_each(&self, ticker: &Ticker<'_>, mut take: impl FnMut(f64, f64)) -> Result<()> {
        let (packed, info) = (self.packed, self.packed.info());
        let dtype = self.tensor.float().unwrap_or(packed.dtype);
        let width = dtype.n_bytes() as u64;
        let most = (PIECE_BYTES / (info.block * dtype.n_bytes())) as u64;
        let reader = packed.reader(self.quantized.data())?;
        let (mut input, mut codes, mut scales) = (Vec::new(), Vec::new(), Vec::new());
        let mut ticks = ticker.of(&self.tensor.name);
        let mut first_block = 0;
        while first_block < packed.n_blocks() {
            let n_blocks = most.min(packed.n_blocks() - first_block);
            let (first_elem, n_elems) = (first_block * info.block as u64, packed.elems_in(first_block, n_blocks));
            for (buffer, n_bytes) in [
                (&mut input, n_elems * width),
                (&mut codes, info.codes_bytes(n_elems)),
                (&mut scales, info.scales_bytes(n_elems)),
            ] {
                buffer.resize(usize::try_from(n_bytes).unwrap_or(PIECE_BYTES), 0);
            }
            self.original.read_at(self.tensor.offset + first_elem * width, &mut input)?;
            reader.read(first_block, &mut codes, &mut scales)?;
            let weights = Weights::from_le_bytes(dtype, &input)?;
            for (block_ix, start) in (0..weights.len()).step_by(info.block).enumerate() {
                let weights = weights.slice(start..weights.len().min(start + info.block));
                let mut values = [0.0; reference::MAX_BLOCK];
                let values = &mut values[..weights.len()];
                reference::decode_block(packed.format, &codes, &scales, block_ix, first_elem + start as u64, values)?;
                for (index, &value) in values.iter().enumerate() {
                    take(f64::from(weights.get(index)), value);
                }
            }
            ticks.add(n_elems * width)?;
            first_block += n_blocks;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_belong_to_bins() {
        let histogram = Histogram::new(-1.0, 1.0, 4);
        let bins = [-1.0, -0.51, -0.5, -0.0, 0.49, 0.5, 0.99, 1.0].map(|value| histogram.bin(value));
        assert_eq!(bins, [0, 0, 1, 2, 2, 3, 3, 3]);
        assert_eq!(Histogram::new(0.25, 0.25, 4).bin(0.25), 0);
    }
}
