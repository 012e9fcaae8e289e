//! Packed bytes against the CPU reference, and how far the values moved.

use fearless_simd::Level;

use crate::cpu;
use crate::dtype::{Dtype, Weights};
use crate::error::{Error, Result};
use crate::format::{Format, FormatInfo, ScaleType};
use crate::quant::BlockFault;
use crate::random::SplitMix;
use crate::reference;
use crate::simd;
use crate::threads;

/// How much of a result is recomputed on the CPU and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Nothing.
    None,
    /// A seeded choice of blocks of every tensor, the first and the last among them.
    #[default]
    Sample,
    /// Every byte.
    Full,
}

impl Verify {
    /// The name on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sample => "sample",
            Self::Full => "full",
        }
    }
}

/// Blocks of a tensor that [`Verify::Sample`] looks at, at most.
pub const SAMPLED_BLOCKS: u64 = 256;

/// A byte that differs from the reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Name of the tensor.
    pub tensor: String,
    /// Block index within the tensor.
    pub block: u64,
    /// Flat index of the first element whose code differs, or of the block's first where the scale does.
    pub index: u64,
    /// `code` or `scale`.
    pub part: &'static str,
    /// Bits of that element in the input, as hexadecimal.
    pub input_bits: String,
    /// The byte that the reference gives.
    pub expected: u8,
    /// The byte that is there.
    pub actual: u8,
    /// Adapter and driver that made it, where known.
    pub made_by: Option<String>,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tensor, block, index, part, input_bits, expected, actual, made_by } = self;
        write!(
            f,
            "tensor {tensor:?}, block {block}: the {part} byte of element {index} (input bits {input_bits}) is {actual:#04x}, \
             but the reference gives {expected:#04x}"
        )?;
        match made_by {
            Some(made_by) => write!(f, "; made by {made_by}"),
            None => Ok(()),
        }
    }
}

/// How far dequantized values are from the originals, over the elements that were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ErrorFigures {
    /// Elements looked at.
    pub n_elems: u64,
    /// Largest |x − x̂|.
    pub max_abs_error: f64,
    /// The block that has it.
    pub worst_block: u64,
    sum_squared_error: f64,
    sum_squared: f64,
}

impl ErrorFigures {
    /// Mean squared error.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    pub fn mse(&self) -> f64 {
        self.sum_squared_error / self.n_elems.max(1) as f64
    }

    /// Signal to quantization noise in decibels; `None` where there is no error at all.
    #[must_use]
    pub fn sqnr_db(&self) -> Option<f64> {
        (self.sum_squared_error > 0.0).then(|| 10.0 * (self.sum_squared / self.sum_squared_error).log10())
    }

    /// All of it, to the bit.
    pub(crate) fn to_bits(self) -> [u64; 5] {
        let Self { n_elems, max_abs_error, worst_block, sum_squared_error, sum_squared } = self;
        [n_elems, max_abs_error.to_bits(), worst_block, sum_squared_error.to_bits(), sum_squared.to_bits()]
    }

    /// What [`Self::to_bits`] gave.
    pub(crate) fn from_bits([n_elems, max, worst_block, error, squared]: [u64; 5]) -> Self {
        let [max_abs_error, sum_squared_error, sum_squared] = [max, error, squared].map(f64::from_bits);
        Self { n_elems, max_abs_error, worst_block, sum_squared_error, sum_squared }
    }

    /// The figures of several tensors together; the worst block is that of the tensor with the largest error.
    #[must_use]
    pub fn total<'a>(of: impl IntoIterator<Item = &'a Self>) -> Self {
        of.into_iter().fold(Self::default(), |mut total, one| {
            if one.max_abs_error > total.max_abs_error {
                (total.max_abs_error, total.worst_block) = (one.max_abs_error, one.worst_block);
            }
            total.n_elems += one.n_elems;
            total.sum_squared_error += one.sum_squared_error;
            total.sum_squared += one.sum_squared;
            total
        })
    }

    /// Adds a block that comes back as it was.
    pub(crate) fn add_exact(&mut self, weights: Weights<'_>) {
        self.n_elems += weights.len() as u64;
        self.sum_squared += (0..weights.len()).map(|index| f64::from(weights.get(index)).powi(2)).sum::<f64>();
    }

    /// Adds a block's figures, given its weights and the exact values that they come back as.
    pub(crate) fn add_block(&mut self, block: u64, weights: Weights<'_>, values: &[f64]) {
        let (mut wide, mut rounded) = ([0.0; reference::MAX_BLOCK], [0.0; reference::MAX_BLOCK]);
        weights.widen_into(&mut wide[..values.len()]);
        for (rounded, value) in rounded.iter_mut().zip(values) {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the value that dequantize gives is the product rounded once"
            )]
            let value = *value as f32;
            *rounded = value;
        }
        self.add(block, &BlockFigures::new(&wide[..values.len()], &rounded[..values.len()]));
    }

    /// Adds one block's figures. Blocks are added in order, so that sums don't depend on chunks or threads.
    fn add(&mut self, block: u64, figures: &BlockFigures) {
        if figures.max_abs_error > self.max_abs_error {
            (self.max_abs_error, self.worst_block) = (figures.max_abs_error, block);
        }
        self.n_elems += figures.n_elems;
        self.sum_squared_error += figures.squared_error;
        self.sum_squared += figures.squared;
    }
}

/// What a block adds to the figures.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BlockFigures {
    n_elems: u64,
    max_abs_error: f64,
    squared_error: f64,
    squared: f64,
}

impl BlockFigures {
    /// Sums are taken in eight lanes, which no additions in a row hold up, and always in the same order.
    #[inline(always)]
    pub(crate) fn new(weights: &[f32], values: &[f32]) -> Self {
        const LANES: usize = 8;
        let (mut max, mut squared_error, mut squared) = ([0.0_f64; LANES], [0.0; LANES], [0.0; LANES]);
        let (whole, rest) = weights.as_chunks::<LANES>();
        let (whole_values, rest_values) = values.as_chunks::<LANES>();
        for (weights, values) in whole.iter().zip(whole_values) {
            for lane in 0..LANES {
                let (x, value) = (f64::from(weights[lane]), f64::from(values[lane]));
                let error = (x - value).abs();
                max[lane] = if error > max[lane] { error } else { max[lane] };
                squared_error[lane] += error * error;
                squared[lane] += x * x;
            }
        }
        for lane in 0..rest.len().min(rest_values.len()) {
            let (x, value) = (f64::from(rest[lane]), f64::from(rest_values[lane]));
            let error = (x - value).abs();
            max[lane] = if error > max[lane] { error } else { max[lane] };
            squared_error[lane] += error * error;
            squared[lane] += x * x;
        }
        let mut figures = Self { n_elems: weights.len() as u64, ..Self::default() };
        for lane in 0..LANES {
            figures.max_abs_error = if max[lane] > figures.max_abs_error { max[lane] } else { figures.max_abs_error };
            figures.squared_error += squared_error[lane];
            figures.squared += squared[lane];
        }
        figures
    }
}

/// Blocks to look at: all of them, or for [`Verify::Sample`] the first, the last and a choice between that depends on
/// `seed` and the number of blocks alone. Ascending, without repeats.
#[must_use]
#[expect(clippy::single_range_in_vec_init, reason = "one stretch of blocks")]
pub fn blocks_to_check(verify: Verify, n_blocks: u64, seed: u64) -> Vec<std::ops::Range<u64>> {
    match verify {
        Verify::None => Vec::new(),
        Verify::Full => vec![0..n_blocks],
        Verify::Sample if n_blocks <= SAMPLED_BLOCKS => vec![0..n_blocks],
        Verify::Sample => {
            // One block from each of equally long stretches. The ends come first and last.
            let stretch = |i: u64| {
                u64::try_from(u128::from(n_blocks) * u128::from(i) / u128::from(SAMPLED_BLOCKS)).unwrap_or(n_blocks)
            };
            let mut random = SplitMix::new(seed);
            (0..SAMPLED_BLOCKS)
                .map(|i| {
                    let (start, end) = (stretch(i), stretch(i + 1));
                    let block = match i {
                        0 => 0,
                        _ if i + 1 == SAMPLED_BLOCKS => n_blocks - 1,
                        _ => start + random.below(end - start),
                    };
                    block..block + 1
                })
                .collect()
        }
    }
}

/// Compares a tensor's packed bytes with the reference, piece by piece, and adds up how far its values moved.
#[derive(Debug, Clone)]
pub struct Checker<'a> {
    /// Format of the packed bytes.
    pub format: Format,
    /// Name of the tensor, for messages.
    pub tensor: &'a str,
    /// Adapter and driver that made the bytes, where known, for messages.
    pub made_by: Option<&'a str>,
    /// The figures so far.
    pub figures: ErrorFigures,
}

impl Checker<'_> {
    /// Recomputes whole blocks (only the tensor's last may be short) and compares every byte. `first_elem` is the flat
    /// index of the first weight. Nested scales are given dequantized and are not compared here: each depends
    /// on all of the tensor's.
    ///
    /// # Errors
    /// [`Error::Mismatch`] at the first byte that differs; [`Error::NonFinite`] if the original can't be quantized at all.
    pub fn check(&mut self, weights: Weights<'_>, first_elem: u64, codes: &[u8], scales: &[u8]) -> Result<()> {
        let info = self.format.info();
        let parts: Vec<_> = (0..weights.len())
            .step_by(cpu::PART)
            .map(|start| {
                let end = weights.len().min(start + cpu::PART);
                let codes = &codes[info.codes_at(start)..info.codes_at(end)];
                let scales = &scales[info.scales_at(start)..info.scales_at(end)];
                (weights.slice(start..end), first_elem + start as u64, codes, scales)
            })
            .collect();
        let figures = threads::map(parts.clone(), |(weights, first_elem, codes, scales)| {
            figures_if_right(self.format, weights, first_elem, codes, scales)
        });
        for ((weights, first_elem, codes, scales), figures) in parts.into_iter().zip(figures) {
            let figures = match figures {
                Some(figures) => figures,
                None => self.check_blocks(weights, first_elem, codes, scales)?,
            };
            for (block, figures) in (first_elem / info.block as u64..).zip(&figures) {
                self.figures.add(block, figures);
            }
        }
        Ok(())
    }

    /// [`Self::check`] by the reference, block by block, to name what differs.
    fn check_blocks(
        &self,
        weights: Weights<'_>,
        first_elem: u64,
        codes: &[u8],
        scales: &[u8],
    ) -> Result<Vec<BlockFigures>> {
        let format = self.format;
        let info = format.info();
        let mut figures = Vec::new();
        for block_ix in 0..weights.len().div_ceil(info.block) {
            let start = block_ix * info.block;
            let block = weights.slice(start..weights.len().min(start + info.block));
            let first_elem = first_elem + start as u64;
            let block_number = first_elem / info.block as u64;

            let (actual_codes, actual_scale) = reference::block_parts(info, codes, scales, block_ix);
            let mut expected_codes = [0; reference::MAX_BLOCK];
            let expected_codes = &mut expected_codes[..actual_codes.len()];
            let mut expected_scale = [0; 4];
            let expected_scale = &mut expected_scale[..actual_scale.len()];
            reference::quantize_into(format, block, first_elem, expected_codes, expected_scale)?;

            let first_difference =
                |expected: &[u8], actual: &[u8]| expected.iter().zip(actual).position(|(e, a)| e != a);
            let mismatch = |part, index_in_block: usize, expected, actual| {
                let bits = format!("{:#x}", block.bits(index_in_block.min(block.len() - 1)));
                let (tensor, made_by) = (self.tensor.to_owned(), self.made_by.map(str::to_owned));
                let index = first_elem + index_in_block as u64;
                Err(Error::Mismatch(Box::new(Mismatch {
                    tensor,
                    block: block_number,
                    index,
                    part,
                    input_bits: bits,
                    expected,
                    actual,
                    made_by,
                })))
            };
            let differing_scale =
                first_difference(expected_scale, actual_scale).filter(|_| info.scale != ScaleType::Nested);
            if let Some(at) = differing_scale {
                return mismatch("scale", 0, expected_scale[at], actual_scale[at]);
            }
            if let Some(at) = first_difference(expected_codes, actual_codes) {
                let index = differing_element(info, expected_codes, actual_codes, actual_scale, block.len());
                return mismatch("code", index.unwrap_or(at * 8 / info.bits), expected_codes[at], actual_codes[at]);
            }

            let mut values = [0.0; reference::MAX_BLOCK];
            let values = &mut values[..block.len()];
            reference::decode_block(format, actual_codes, actual_scale, 0, first_elem, values)?;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the value that dequantize gives is the product rounded once"
            )]
            let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
            figures.push(BlockFigures::new(&widened(block), &values));
        }
        Ok(figures)
    }
}

/// The blocks' figures, if all bytes are what the CPU path makes of these weights: it gives what the reference does.
fn figures_if_right(
    format: Format,
    weights: Weights<'_>,
    first_elem: u64,
    codes: &[u8],
    scales: &[u8],
) -> Option<Vec<BlockFigures>> {
    let info = format.info();
    let (mut expected_codes, mut expected_scales) = (vec![0; codes.len()], vec![0; scales.len()]);
    cpu::quantize_into(format, weights, first_elem, &mut expected_codes, &mut expected_scales).ok()?;
    if expected_codes != codes || (expected_scales != scales && info.scale != ScaleType::Nested) {
        return None;
    }
    let mut values = vec![0.0_f32; weights.len()];
    let bytes = bytemuck::cast_slice_mut(&mut values);
    cpu::dequantize_into(format, codes, scales, first_elem, Dtype::F32, bytes).ok()?;
    let mut figures = vec![BlockFigures::default(); weights.len().div_ceil(info.block)];
    simd::figures(Level::new(), info.block, &widened(weights), &values, &mut figures);
    Some(figures)
}

/// The weights as `f32`.
fn widened(weights: Weights<'_>) -> Vec<f32> {
    let mut values = vec![0.0; weights.len()];
    weights.widen_into(&mut values);
    values
}

/// The first element of a block that two runs of codes decode to different values: where it stands in the bytes is up to
/// the format. `None` where only the padding of a short block differs.
fn differing_element(info: &FormatInfo, expected: &[u8], actual: &[u8], scale: &[u8], n_elems: usize) -> Option<usize> {
    let values = |codes: &[u8]| {
        let mut values = [0.0; reference::MAX_BLOCK];
        (info.codec.dequantize_block)(codes, scale, &mut values[..n_elems]).map(|()| values)
    };
    match (values(expected), values(actual)) {
        (Ok(expected), Ok(actual)) => (0..n_elems).find(|&i| expected[i].to_bits() != actual[i].to_bits()),
        (_, Err(BlockFault::Code { index, .. })) => Some(index),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_the_ends_and_is_the_same_every_time() {
        for n_blocks in [1, 2, 255, 256, 257, 1000, 1 << 40] {
            let sample = blocks_to_check(Verify::Sample, n_blocks, 7);
            assert_eq!(sample.first().map(|r| r.start), Some(0), "{n_blocks} blocks");
            assert_eq!(sample.last().map(|r| r.end), Some(n_blocks), "{n_blocks} blocks");
            assert!(sample.windows(2).all(|w| w[0].end <= w[1].start), "{n_blocks} blocks: ascending");
            assert_eq!(sample, blocks_to_check(Verify::Sample, n_blocks, 7));
        }
        assert_ne!(blocks_to_check(Verify::Sample, 1 << 20, 7), blocks_to_check(Verify::Sample, 1 << 20, 8));
        assert!(blocks_to_check(Verify::None, 9, 0).is_empty());
    }

    #[test]
    fn a_flipped_bit_is_found_and_named() {
        let weights: Vec<f32> = (0_u8..192).map(|i| f32::from(i) - 99.5).collect();
        for &format in Format::ALL {
            let packed = reference::quantize(format, &weights).expect("finite weights");
            let check = |codes: &[u8], scales: &[u8]| {
                let figures = ErrorFigures::default();
                let mut checker = Checker { format, tensor: "w", made_by: Some("a GPU"), figures };
                checker.check((&weights).into(), 0, codes, scales).map(|()| checker.figures)
            };
            let figures = check(packed.codes(), &packed.stream_scales()).expect("our own bytes");
            assert_eq!(figures.n_elems, 192);
            assert!(
                figures.max_abs_error > 0.0 && figures.mse() > 0.0 && figures.sqnr_db().is_some_and(|db| db > 10.0)
            );

            let mut codes = packed.codes().to_vec();
            codes[format.info().block_codes_bytes() + 3] ^= 1;
            let Err(Error::Mismatch(found)) = check(&codes, &packed.stream_scales()) else {
                panic!("{format}: not found")
            };
            assert_eq!((found.block, found.part), (1, "code"));
            // The lowest bit of byte 3 belongs to the low nibble: element 7, or element 3 of the GGUF order.
            let element = match (format, format.info().bits) {
                (_, 8) | (Format::Q4_0 | Format::Mxfp4, _) => 3,
                _ => 7,
            };
            assert_eq!(found.index, format.info().block as u64 + element, "{format}");
            assert!(found.to_string().contains("a GPU"));

            if format.info().scale == ScaleType::Nested {
                continue;
            }
            let mut scales = packed.scales().to_vec();
            scales[2 * format.info().scale.n_bytes()] ^= 1;
            let Err(Error::Mismatch(found)) = check(packed.codes(), &scales) else { panic!("{format}: not found") };
            assert_eq!((found.block, found.part), (2, "scale"));
        }
    }
}
