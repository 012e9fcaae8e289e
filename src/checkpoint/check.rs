//! What was written, read back and held against the original.

use super::data::{Data, PIECE_BYTES};
use super::nested::{NestedChecker, NestedReader};
use super::progress::Ticker;
use super::safetensors::TensorInfo;
use super::weight::PackedTensor;
use crate::dtype::Weights;
use crate::error::{Error, Result};
use crate::verify::{Checker, ErrorFigures, Verify, blocks_to_check};

/// What a sample depends on, beside the tensor's name and size. Any number would do; it must stay the same.
const SAMPLE_SEED: u64 = 0x7767_7175_616e_7431;

/// Holds a packed weight's blocks against the reference; gives the figures over those it looked at. `packed` is the data
/// section that the weight lies in, `original` the one of `tensor`.
///
/// # Errors
/// As [`Checker::check`], and [`Error::Io`].
pub(crate) fn check_blocks(
    (original, tensor): (Data<'_>, &TensorInfo),
    (packed, weight): (Data<'_>, &PackedTensor),
    verify: Verify,
    made_by: Option<&str>,
    ticker: &mut Ticker<'_>,
) -> Result<ErrorFigures> {
    let info = weight.format.info();
    let dtype = tensor.float().unwrap_or(weight.dtype);
    let (block, width) = (info.block as u64, dtype.n_bytes() as u64);
    let piece_blocks = (PIECE_BYTES as u64 / (block * width)).max(1);
    let mut checker =
        Checker { format: weight.format, tensor: &tensor.name, made_by, figures: ErrorFigures::default() };
    let (mut input, mut codes, mut scales) = (Vec::new(), Vec::new(), Vec::new());
    let reader = weight.reader(packed)?;
    let nested = weight.nested().map(|places| NestedReader::new(places, packed)).transpose()?;
    let nested = nested.map(|reader| NestedChecker { original, tensor, weight, reader, made_by });
    if let (Verify::Full, Some(nested)) = (verify, &nested) {
        nested.check_all()?;
    }
    for range in blocks_to_check(verify, weight.n_blocks(), sample_seed(&tensor.name)) {
        if let (Verify::Sample, Some(nested)) = (verify, &nested) {
            range.clone().try_for_each(|block| nested.check_one(block))?;
        }
        let mut first_block = range.start;
        while first_block < range.end {
            let n_blocks = piece_blocks.min(range.end - first_block);
            let (first_elem, n_elems) = (first_block * block, weight.elems_in(first_block, n_blocks));
            resize(&mut codes, info.codes_bytes(n_elems))?;
            resize(&mut scales, info.scales_bytes(n_elems))?;
            read(original, tensor.offset + first_elem * width, n_elems * width, &mut input)?;
            reader.read(first_block, &mut codes, &mut scales)?;
            checker.check(Weights::from_le_bytes(dtype, &input)?, first_elem, &codes, &scales)?;
            if verify == Verify::Full {
                ticker.add(&tensor.name, n_elems * width)?;
            }
            first_block += n_blocks;
        }
    }
    Ok(checker.figures)
}

/// Compares a tensor that was copied through, bit for bit.
///
/// # Errors
/// [`Error::BadFile`] with the first byte that differs, and [`Error::Io`].
pub(crate) fn check_copy(
    (original, tensor): (Data<'_>, &TensorInfo),
    (copy, copy_at): (Data<'_>, u64),
    ticker: &mut Ticker<'_>,
) -> Result<()> {
    let mut there = Vec::new();
    original.for_each_piece(tensor.offset, tensor.n_bytes, |done, expected| {
        read(copy, copy_at + done, expected.len() as u64, &mut there)?;
        if let Some(at) = expected.iter().zip(&there).position(|(a, b)| a != b) {
            return Err(Error::BadFile(format!(
                "its byte {} is {:#04x}, and the original has {:#04x}",
                done + at as u64,
                there[at],
                expected[at]
            )));
        }
        ticker.add(&tensor.name, expected.len() as u64)
    })
}

/// Makes `buffer` the `n_bytes` at position `at`; callers keep to about [`PIECE_BYTES`].
fn read(data: Data<'_>, at: u64, n_bytes: u64, buffer: &mut Vec<u8>) -> Result<()> {
    resize(buffer, n_bytes)?;
    data.read_at(at, buffer)
}

fn resize(buffer: &mut Vec<u8>, n_bytes: u64) -> Result<()> {
    let n_bytes = usize::try_from(n_bytes)
        .map_err(|_| Error::Refused(format!("{n_bytes} bytes at once don't fit this machine's memory")))?;
    buffer.resize(n_bytes, 0);
    Ok(())
}

fn sample_seed(name: &str) -> u64 {
    let hash = blake3::hash(name.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    SAMPLE_SEED ^ u64::from_le_bytes(first)
}
