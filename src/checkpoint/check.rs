//! What was written, read back and held against the original.

use std::iter::Peekable;
use std::ops::Range;

use super::data::Data;
use super::nested::{NestedChecker, NestedReader};
use super::progress::Ticks;
use super::safetensors::TensorInfo;
use super::weight::{BlockReader, PackedTensor};
use crate::dtype::{Dtype, Weights};
use crate::error::{Error, Result};
use crate::packed::PackedChunk;
use crate::threads;
use crate::verify::{CHECKED_PART, Checker, ErrorFigures, Held, Verify, blocks_to_check};

/// What a sample depends on, beside the tensor's name and size. Any number would do; it must stay the same.
const SAMPLE_SEED: u64 = 0x7767_7175_616e_7431;

/// Pieces of a part at most, so that a sample is work for several threads.
const PART_PIECES: usize = 32;

/// Elements of a part of what was just made or written.
const MADE_PART: usize = crate::cpu::PART;

/// Parts between two reports of progress.
const BATCH_PARTS: usize = 64;

/// Holds a packed weight's blocks against the reference.
pub(crate) struct BlockChecker<'a> {
    original: Data<'a>,
    tensor: &'a TensorInfo,
    weight: &'a PackedTensor,
    dtype: Dtype,
    reader: BlockReader<'a>,
    checker: Checker<'a>,
}

impl<'a> BlockChecker<'a> {
    /// Of a weight in the data section `packed`, made from `tensor` in the data section `original`.
    pub(crate) fn new(
        (original, tensor): (Data<'a>, &'a TensorInfo),
        (packed, weight): (Data<'a>, &'a PackedTensor),
        made_by: Option<&'a str>,
    ) -> Result<Self> {
        let dtype = tensor.float().unwrap_or(weight.dtype);
        let figures = ErrorFigures::default();
        let checker = Checker { format: weight.format, tensor: &tensor.name, made_by, figures };
        Ok(Self { original, tensor, weight, dtype, reader: weight.reader(packed)?, checker })
    }

    /// Holds these stretches of blocks, in order; `each` hears of the bytes of the original that are done.
    ///
    /// # Errors
    /// As [`Checker::check`], and [`Error::Io`].
    pub(crate) fn check(&mut self, ranges: Vec<Range<u64>>, mut each: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let (weight, width) = (self.weight, self.dtype.n_bytes() as u64);
        let part_blocks = CHECKED_PART as u64 / weight.info().block as u64;
        let mut pieces = ranges.into_iter().flat_map(|range| split(range, part_blocks)).peekable();
        while pieces.peek().is_some() {
            let parts: Vec<_> = (0..BATCH_PARTS).map_while(|_| next_part(&mut pieces, part_blocks)).collect();
            let n_elems = |range: &Range<u64>| weight.elems_in(range.start, range.end - range.start);
            let n_bytes = parts.iter().flatten().map(n_elems).sum::<u64>() * width;
            let held = self.hold(parts, |first_block, codes, scales| self.reader.read(first_block, codes, scales))?;
            held.add_to(&mut self.checker.figures);
            each(n_bytes)?;
        }
        Ok(())
    }

    /// Holds blocks that are about to be written against the weights that they were made from, out of the maker's own cache, or against
    /// the original, read once more, where those went to a device; gives their figures.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(crate) fn check_made(&self, made: PackedChunk<'_>, weights: Option<Weights<'_>>) -> Result<Held> {
        let PackedChunk { first_elem, codes, scales } = made;
        if let Some(weights) = weights {
            return self.checker.hold(weights, first_elem, codes, scales);
        }
        let info = self.weight.info();
        let first = first_elem / info.block as u64;
        let n_blocks = (scales.len() / info.scale.n_bytes()) as u64;
        let parts = split(first..first + n_blocks, (MADE_PART / info.block) as u64);
        self.hold(parts.map(|part| vec![part]).collect(), |first_block, part_codes, part_scales| {
            let block_ix = usize::try_from(first_block - first).unwrap_or(usize::MAX);
            part_codes.copy_from_slice(&codes[block_ix * info.block_codes_bytes()..][..part_codes.len()]);
            part_scales.copy_from_slice(&scales[block_ix * info.scale.n_bytes()..][..part_scales.len()]);
            Ok(())
        })
    }

    /// Sees to it that blocks read back as they were: then what was held is what is in the file, and so is the digest's.
    ///
    /// # Errors
    /// [`Error::BadFile`] for blocks that read back otherwise, and [`Error::Io`].
    pub(crate) fn check_written(&self, written: PackedChunk<'_>) -> Result<()> {
        let info = self.weight.info();
        let part_blocks = MADE_PART / info.block;
        let parts = written.codes.chunks(part_blocks * info.block_codes_bytes());
        let parts = parts.zip(written.scales.chunks(part_blocks * info.scale.n_bytes()));
        let (mut codes_back, mut scales_back) = (Vec::new(), Vec::new());
        for (first_block, (codes, scales)) in (written.first_elem / info.block as u64..).step_by(part_blocks).zip(parts)
        {
            codes_back.resize(codes.len(), 0);
            scales_back.resize(scales.len(), 0);
            self.reader.read(first_block, &mut codes_back, &mut scales_back)?;
            if codes_back != codes || scales_back != scales {
                let text = format!("what was written from block {first_block} on reads back otherwise");
                return Err(Error::BadFile(text));
            }
        }
        Ok(())
    }

    /// Holds parts on all cores; `packed` gives codes and scales from a block on.
    fn hold(
        &self,
        parts: Vec<Vec<Range<u64>>>,
        packed: impl Fn(u64, &mut [u8], &mut [u8]) -> Result<()> + Sync,
    ) -> Result<Held> {
        let Self { original, tensor, weight, dtype, checker, .. } = self;
        let bytes_of_block = (weight.info().block * dtype.n_bytes()) as u64;
        checker.read_and_hold(*dtype, weight.n_elems, parts, |first_block, input, codes, scales| {
            original.read_at(tensor.offset + first_block * bytes_of_block, input)?;
            packed(first_block, codes, scales)
        })
    }

    /// How far the values moved, over the blocks that were held.
    pub(crate) fn figures(&self) -> ErrorFigures {
        self.checker.figures
    }
}

/// Holds all of a packed weight's blocks against the reference, or a sample of them; gives the figures over those.
///
/// # Errors
/// As [`Checker::check`], and [`Error::Io`].
pub(crate) fn check_blocks(
    (original, tensor): (Data<'_>, &TensorInfo),
    (packed, weight): (Data<'_>, &PackedTensor),
    verify: Verify,
    made_by: Option<&str>,
    ticks: &mut Ticks<'_, '_>,
) -> Result<ErrorFigures> {
    let ranges = blocks_to_check(verify, weight.n_blocks(), sample_seed(&tensor.name));
    if let Some(places) = weight.nested() {
        let reader = NestedReader::new(places, packed)?;
        let nested = NestedChecker { original, tensor, weight, reader, made_by };
        match verify {
            Verify::Full => nested.check_all()?,
            _ => ranges.iter().cloned().flatten().try_for_each(|block| nested.check_one(block))?,
        }
    }
    let mut checker = BlockChecker::new((original, tensor), (packed, weight), made_by)?;
    checker.check(ranges, |n_bytes| if verify == Verify::Full { ticks.add(n_bytes) } else { Ok(()) })?;
    Ok(checker.figures())
}

/// All of a packed weight: every block as [`check_blocks`] does it, and its digest, which is recomputed meanwhile; gives both.
///
/// # Errors
/// As [`check_blocks`], and [`Error::BadFile`] if the file records another digest.
pub(crate) fn check_weight(
    original: (Data<'_>, &TensorInfo),
    packed: (Data<'_>, &PackedTensor),
    made_by: Option<&str>,
    ticks: &mut Ticks<'_, '_>,
) -> Result<(ErrorFigures, [u8; 32])> {
    let (data, weight) = packed;
    let (digest, figures) =
        threads::beside(|| weight.check_digest(data), || check_blocks(original, packed, Verify::Full, made_by, ticks));
    Ok((figures?, digest?))
}

/// A stretch of blocks in pieces of so many.
fn split(range: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> {
    (range.start..range.end)
        .step_by(usize::try_from(most).unwrap_or(usize::MAX))
        .map(move |start| start..range.end.min(start + most))
}

/// The pieces that a thread reads and checks together: one, or a few small ones.
fn next_part(pieces: &mut Peekable<impl Iterator<Item = Range<u64>>>, most: u64) -> Option<Vec<Range<u64>>> {
    let mut part = vec![pieces.next()?];
    let mut n_blocks = part[0].end - part[0].start;
    while part.len() < PART_PIECES
        && let Some(next) = pieces.next_if(|next| n_blocks + (next.end - next.start) <= most)
    {
        n_blocks += next.end - next.start;
        part.push(next);
    }
    Some(part)
}

/// Compares a tensor that was copied through, bit for bit.
///
/// # Errors
/// [`Error::BadFile`] with the first byte that differs, and [`Error::Io`].
pub(crate) fn check_copy(
    (original, tensor): (Data<'_>, &TensorInfo),
    (copy, copy_at): (Data<'_>, u64),
    ticks: &mut Ticks<'_, '_>,
) -> Result<()> {
    let mut there = Vec::new();
    original.for_each_piece(tensor.offset, tensor.n_bytes, |done, expected| {
        there.resize(expected.len(), 0);
        copy.read_at(copy_at + done, &mut there)?;
        if let Some(at) = expected.iter().zip(&there).position(|(a, b)| a != b) {
            return Err(Error::BadFile(format!(
                "its byte {} is {:#04x}, and the original has {:#04x}",
                done + at as u64,
                there[at],
                expected[at]
            )));
        }
        ticks.add(expected.len() as u64)
    })
}

fn sample_seed(name: &str) -> u64 {
    let hash = blake3::hash(name.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    SAMPLE_SEED ^ u64::from_le_bytes(first)
}
