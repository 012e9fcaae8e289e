//! Packed bytes held against the reference, on all cores.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use fearless_simd::Level;

use super::figures::stretches;
use super::{ErrorFigures, Mismatch, STRETCH, StretchFigures};
use crate::cpu;
use crate::dtype::{Dtype, Weights};
use crate::error::{Error, Result};
use crate::format::{Format, FormatInfo, ScaleType};
use crate::quant::BlockFault;
use crate::reference;
use crate::simd::Stores;
use crate::threads;

/// Elements that a thread reads at a time to check them.
pub(crate) const CHECKED_PART: usize = 1 << 14;

/// Bytes of weights that are read along rather than asking once more: a call of the system costs about as much.
const WORTH_READING: usize = 12 << 10;

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
    /// on all of the tensor's. Calls for pieces that begin at multiples of 2,048 elements give the same figures, to the bit, whatever
    /// the pieces' lengths.
    ///
    /// # Errors
    /// [`Error::Mismatch`] at the first byte that differs; [`Error::NonFinite`] if the original can't be quantized at all.
    pub fn check(&mut self, weights: Weights<'_>, first_elem: u64, codes: &[u8], scales: &[u8]) -> Result<()> {
        let info = self.format.info();
        let parts =
            (0..weights.len()).step_by(CHECKED_PART).map(|start| start..weights.len().min(start + CHECKED_PART));
        let held = threads::map(parts.collect(), |part: Range<usize>| {
            let codes = &codes[info.codes_at(part.start)..info.codes_at(part.end)];
            let scales = &scales[info.scales_at(part.start)..info.scales_at(part.end)];
            self.hold(weights.slice(part.clone()), first_elem + part.start as u64, codes, scales)
        });
        held.into_iter().try_for_each(|held| {
            held?.add_to(&mut self.figures);
            Ok(())
        })
    }

    /// [`Self::check`] on one thread, which gives the figures in place of adding them.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(crate) fn hold(&self, weights: Weights<'_>, first_elem: u64, codes: &[u8], scales: &[u8]) -> Result<Held> {
        let first_block = first_elem / self.format.info().block as u64;
        let figures = match figures_if_right(self.format, weights, codes, scales) {
            Some(figures) => figures,
            None => {
                let mut values = Vec::with_capacity(weights.len());
                self.check_blocks(weights, first_elem, codes, scales, &mut values)?;
                stretches(weights, &values).collect()
            }
        };
        #[expect(clippy::single_range_in_vec_init, reason = "one run of blocks")]
        let part = vec![first_block..first_block + weights.len().div_ceil(self.format.info().block) as u64];
        Ok(Held { block: self.format.info().block, parts: vec![(part, figures)] })
    }

    /// [`Self::hold`] on all cores, each of which reads what it compares. Parts are runs of blocks, of a tensor of `n_elems`
    /// elements, in order; `read` fills weights, codes and scales from a block on.
    ///
    /// # Errors
    /// As [`Self::check`], and what `read` returns, of the first part that has one.
    pub(crate) fn read_and_hold(
        &self,
        dtype: Dtype,
        n_elems: u64,
        parts: Vec<Vec<Range<u64>>>,
        read: impl Fn(u64, &mut [u8], &mut [u8], &mut [u8]) -> Result<()> + Sync,
    ) -> Result<Held> {
        let held = threads::map(parts, |part| {
            // Taken out, because `read` may itself work in the pool, and this thread then check another part meanwhile.
            let mut scratch = SCRATCH.take();
            let figures = self.check_part(dtype, n_elems, &part, &read, &mut scratch);
            SCRATCH.set(scratch);
            Ok((part, figures?))
        });
        Ok(Held { block: self.format.info().block, parts: held.into_iter().collect::<Result<_>>()? })
    }

    /// Reads and checks the blocks of a part together; gives the figures of one stretch after another.
    fn check_part(
        &self,
        dtype: Dtype,
        n_elems: u64,
        part: &[Range<u64>],
        read: impl Fn(u64, &mut [u8], &mut [u8], &mut [u8]) -> Result<()>,
        scratch: &mut Scratch,
    ) -> Result<Vec<StretchFigures>> {
        let info = self.format.info();
        let block = info.block as u64;
        // Runs lie one behind another; only the last can end in a short block.
        let mut ends = Vec::with_capacity(part.len());
        let mut end = 0;
        for range in part {
            let n_elems = (range.end * block).min(n_elems) - range.start * block;
            end += usize::try_from(n_elems).unwrap_or(usize::MAX);
            ends.push(end);
        }
        scratch.input.resize(end * dtype.n_bytes(), 0);
        scratch.codes.resize(info.codes_at(end), 0);
        scratch.scales.resize(info.scales_at(end), 0);
        // What lies close together is read in one go, with what is between.
        let window = self.window(dtype, n_elems, part);
        if let Some((first_block, n)) = window {
            let [input, codes, scales] = &mut scratch.window;
            input.resize(n * dtype.n_bytes(), 0);
            codes.resize(info.codes_at(n), 0);
            scales.resize(info.scales_at(n), 0);
            read(first_block, input, codes, scales)?;
        }
        let mut start = 0;
        for (range, &end) in part.iter().zip(&ends) {
            let Scratch { input, codes, scales, window: all, .. } = &mut *scratch;
            let input = &mut input[start * dtype.n_bytes()..end * dtype.n_bytes()];
            let codes = &mut codes[info.codes_at(start)..info.codes_at(end)];
            let scales = &mut scales[info.scales_at(start)..info.scales_at(end)];
            match window {
                Some((first_block, _)) => {
                    let at = usize::try_from((range.start - first_block) * block).unwrap_or(usize::MAX);
                    input.copy_from_slice(&all[0][at * dtype.n_bytes()..][..input.len()]);
                    codes.copy_from_slice(&all[1][info.codes_at(at)..][..codes.len()]);
                    scales.copy_from_slice(&all[2][info.scales_at(at)..][..scales.len()]);
                }
                None => read(range.start, input, codes, scales)?,
            }
            start = end;
        }
        let Scratch { input, codes, scales, .. } = &*scratch;
        let weights = Weights::from_le_bytes(dtype, input)?;
        if let Some(figures) = figures_if_right(self.format, weights, codes, scales) {
            return Ok(figures);
        }
        let (mut values, mut start) = (Vec::with_capacity(end), 0);
        for (range, &end) in part.iter().zip(&ends) {
            let weights = weights.slice(start..end);
            let codes = &codes[info.codes_at(start)..info.codes_at(end)];
            let scales = &scales[info.scales_at(start)..info.scales_at(end)];
            self.check_blocks(weights, range.start * block, codes, scales, &mut values)?;
            start = end;
        }
        Ok(stretches(weights, &values).collect())
    }

    /// The first block and the elements of a run that holds all runs of a part, if it is worth reading as a whole.
    fn window(&self, dtype: Dtype, n_elems: u64, part: &[Range<u64>]) -> Option<(u64, usize)> {
        let [first, .., last] = part else { return None };
        let block = self.format.info().block as u64;
        let n = usize::try_from((last.end * block).min(n_elems) - first.start * block).ok()?;
        (n.checked_mul(dtype.n_bytes())? <= part.len() * WORTH_READING).then_some((first.start, n))
    }

    /// [`Self::check`] by the reference, block by block, to name what differs; where nothing does, `values` get what the blocks come
    /// back as.
    fn check_blocks(
        &self,
        weights: Weights<'_>,
        first_elem: u64,
        codes: &[u8],
        scales: &[u8],
        values: &mut Vec<f32>,
    ) -> Result<()> {
        let format = self.format;
        let info = format.info();
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

            let mut exact = [0.0; reference::MAX_BLOCK];
            let exact = &mut exact[..block.len()];
            reference::decode_block(format, actual_codes, actual_scale, 0, first_elem, exact)?;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the value that dequantize gives is the product rounded once"
            )]
            values.extend(exact.iter().map(|&value| value as f32));
        }
        Ok(())
    }
}

/// Figures of blocks that were held against the reference.
#[derive(Debug)]
pub(crate) struct Held {
    block: usize,
    /// Runs of blocks, and the figures of stretches of what they have one behind another.
    parts: Vec<(Vec<Range<u64>>, Vec<StretchFigures>)>,
}

impl Held {
    /// Adds them, in order.
    pub(crate) fn add_to(&self, sums: &mut ErrorFigures) {
        let stretch_blocks = STRETCH / self.block;
        for (part, figures) in &self.parts {
            for (first, figures) in (0..).step_by(stretch_blocks).zip(figures) {
                sums.add(nth_block(part, first + figures.worst_block(self.block)), figures);
            }
        }
    }
}

/// A block of these runs.
fn nth_block(runs: &[Range<u64>], mut n: u64) -> u64 {
    for run in runs {
        let len = run.end - run.start;
        if n < len {
            return run.start + n;
        }
        n -= len;
    }
    n
}

thread_local! {
    static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch::EMPTY) };
    static ROOM: RefCell<Room> = const { RefCell::new(Room::EMPTY) };
}

/// What a thread reads of a part, kept for the next one.
#[derive(Debug)]
struct Scratch {
    input: Vec<u8>,
    codes: Vec<u8>,
    scales: Vec<u8>,
    /// Weights, codes and scales of a run that holds all others.
    window: [Vec<u8>; 3],
}

impl Default for Scratch {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Scratch {
    const EMPTY: Self =
        Self { input: Vec::new(), codes: Vec::new(), scales: Vec::new(), window: [Vec::new(), Vec::new(), Vec::new()] };
}

/// What a thread makes of blocks to compare them, kept for the next ones.
#[derive(Debug)]
struct Room {
    codes: Vec<u8>,
    scales: Vec<u8>,
    values: Vec<f32>,
}

impl Room {
    const EMPTY: Self = Self { codes: Vec::new(), scales: Vec::new(), values: Vec::new() };
}

/// The blocks' figures, if all bytes are what the CPU path makes of the weights: it gives what the reference does.
fn figures_if_right(format: Format, weights: Weights<'_>, codes: &[u8], scales: &[u8]) -> Option<Vec<StretchFigures>> {
    let (info, level) = (format.info(), Level::new());
    let mut figures = Vec::with_capacity(weights.len().div_ceil(STRETCH));
    ROOM.with_borrow_mut(|room| {
        let n_at_once = weights.len().min(STRETCH);
        room.codes.resize(info.codes_at(n_at_once), 0);
        room.scales.resize(info.scales_at(n_at_once), 0);
        room.values.resize(n_at_once, 0.0);
        for start in (0..weights.len()).step_by(STRETCH) {
            let end = weights.len().min(start + STRETCH);
            let weights = weights.slice(start..end);
            let codes = &codes[info.codes_at(start)..info.codes_at(end)];
            let scales = &scales[info.scales_at(start)..info.scales_at(end)];
            let expected_codes = &mut room.codes[..codes.len()];
            let expected_scales = &mut room.scales[..scales.len()];
            cpu::quantize_part(level, format, weights, 0, expected_codes, expected_scales).ok()?;
            if expected_codes != codes || (expected_scales != scales && info.scale != ScaleType::Nested) {
                return None;
            }
            let values = &mut room.values[..weights.len()];
            let bytes = bytemuck::cast_slice_mut(values);
            cpu::dequantize_part(level, format, (codes, scales), 0, Dtype::F32, Stores::Cached, bytes).ok()?;
            figures.push(StretchFigures::of(level, weights, values));
        }
        Some(figures)
    })
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
    use crate::random::SplitMix;

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

    /// Large and small weights, so that squares don't fit a sum, and another order gives other bits.
    #[test]
    fn pieces_leave_no_trace_in_figures() {
        let mut random = SplitMix::new(3);
        #[expect(clippy::cast_precision_loss, reason = "any value will do")]
        let mut weight = |i: u32| (random.below(1 << 24) as f32 - 7e6) * 0.5_f32.powf((i / 64 % 27) as f32);
        let weights: Vec<f32> = (0..40_000).map(|i| weight(i) / 1e3).collect();
        for &format in Format::ALL {
            let info = format.info();
            let packed = reference::quantize(format, &weights).expect("finite weights");
            let (codes, scales) = (packed.codes(), packed.stream_scales());
            let figures = |piece: usize| {
                let mut checker = Checker { format, tensor: "w", made_by: None, figures: ErrorFigures::default() };
                for start in (0..weights.len()).step_by(piece) {
                    let end = weights.len().min(start + piece);
                    let codes = &codes[info.codes_at(start)..info.codes_at(end)];
                    let scales = &scales[info.scales_at(start)..info.scales_at(end)];
                    checker.check((&weights[start..end]).into(), start as u64, codes, scales).expect("our own bytes");
                }
                checker.figures.to_bits()
            };
            let expected = figures(weights.len());
            assert_eq!(expected[0], 40_000, "{format}");
            for piece in [STRETCH, 3 * STRETCH, 1 << 14] {
                assert_eq!(figures(piece), expected, "{format}, pieces of {piece}");
            }
            assert_ne!(figures(STRETCH / 2), expected, "{format}: another order is seen");
        }
    }

    /// Blocks that don't lie side by side are checked together, and a short last one among them; each is named by its own place.
    #[test]
    fn scattered_blocks_keep_their_places() {
        let weights: Vec<f32> = (0_u16..12_960).map(|i| f32::from(i) - 99.5).collect();
        for &format in Format::ALL {
            let info = format.info();
            let packed = reference::quantize(format, &weights).expect("finite weights");
            let scales = packed.stream_scales();
            let last = info.n_blocks(12_960) - 1;
            // Close together, which is read in one go, and far apart.
            let parts = vec![vec![0..1, 3..4], vec![7..9, last..last + 1]];
            let check = |codes: &[u8]| {
                let mut checker = Checker { format, tensor: "w", made_by: None, figures: ErrorFigures::default() };
                let read = |block: u64, input: &mut [u8], part: &mut [u8], part_scales: &mut [u8]| {
                    let start = usize::try_from(block).expect("small") * info.block;
                    input.copy_from_slice(&bytemuck::cast_slice(&weights)[4 * start..][..input.len()]);
                    part.copy_from_slice(&codes[info.codes_at(start)..][..part.len()]);
                    part_scales.copy_from_slice(&scales[info.scales_at(start)..][..part_scales.len()]);
                    Ok(())
                };
                let windows = parts.iter().map(|part| checker.window(Dtype::F32, 12_960, part).is_some());
                assert_eq!(windows.collect::<Vec<_>>(), [true, false]);
                let held = checker.read_and_hold(Dtype::F32, 12_960, parts.clone(), read)?;
                held.add_to(&mut checker.figures);
                Ok(checker.figures)
            };
            let short = 12_960 - last * info.block as u64;
            let figures = check(packed.codes()).expect("our own bytes");
            assert_eq!(figures.n_elems, 4 * info.block as u64 + short, "{format}");
            for block in [0, 3, 7, 8, last] {
                let mut codes = packed.codes().to_vec();
                codes[info.codes_at(usize::try_from(block).expect("small") * info.block)] ^= 1;
                let Err(Error::Mismatch(found)) = check(&codes) else { panic!("{format}: not found") };
                assert_eq!((found.block, found.part), (block, "code"), "{format}");
            }
            let mut codes = packed.codes().to_vec();
            codes[info.codes_at(5 * info.block)] ^= 1;
            assert!(check(&codes).is_ok(), "{format}: block 5 was not asked for");
        }
    }
}
