//! The CPU reference: one file a format, plain functions on slices, no GPU, no files.
//!
//! This is the specification that every kernel is held to, byte for byte. It is written with `f32` operations, each of
//! which IEEE 754 rounds in one way only; the shaders reach the same bytes with integers alone.

mod codebook;
pub mod fp4;
pub(crate) mod half_scale;
pub mod mxfp4;
pub mod nested;
pub mod nf4;
pub mod q4_0;
pub mod q8_0;
pub mod quant4bit;
pub mod quant8bit;
mod symmetric;

/// What a format's file provides: how one block becomes bytes, and how it comes back.
#[derive(Debug, Clone, Copy)]
pub struct Codec {
    /// Quantizes a block of at least one and at most [`block`](crate::FormatInfo::block) finite weights. `codes` comes
    /// zeroed and is as long as the block's packed codes, `scale` as long as one scale; both are little-endian.
    pub quantize_block: QuantizeBlock,
    /// The exact products of code value and scale, for as many elements as `out` has. An `f64` holds each of them.
    pub dequantize_block: DequantizeBlock,
}

/// See [`Codec::quantize_block`].
pub type QuantizeBlock = fn(weights: &[f32], codes: &mut [u8], scale: &mut [u8]) -> Result<(), BlockFault>;

/// See [`Codec::dequantize_block`].
pub type DequantizeBlock = fn(codes: &[u8], scale: &[u8], out: &mut [f64]) -> Result<(), BlockFault>;

/// What can be wrong with a packed block, in terms of the block alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BlockFault {
    /// A code that no writer makes.
    Code {
        /// Index within the block.
        index: usize,
        /// The code as stored.
        code: u8,
    },
    /// A scale that no writer makes.
    Scale(f32),
    /// A block whose scale its type can't hold.
    ScaleOverflow(f32),
}

/// The largest |x| of a block; +0.0 where there is none.
#[must_use]
pub fn absmax(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |max, x| max.max(x.abs()))
}

/// Checks the contract's preconditions: something to quantize, a block size, finite weights.
pub(crate) fn check_input(weights: &[f32], block_size: usize) -> crate::Result<()> {
    if weights.is_empty() {
        return Err(crate::Error::Empty);
    }
    if block_size == 0 {
        return Err(crate::Error::BlockSizeZero);
    }
    match weights.iter().position(|x| !x.is_finite()) {
        Some(index) => Err(crate::Weights::from(weights).non_finite(index, 0)),
        None => Ok(()),
    }
}

/// Checks that codes and scales have the lengths that `n_elems` weights in blocks of `block_size` call for.
pub(crate) fn check_parts(
    format: &'static str,
    n_elems: usize,
    block_size: usize,
    (codes, expected_codes): (usize, usize),
    n_scales: usize,
) -> crate::Result<()> {
    if block_size == 0 {
        return Err(crate::Error::BlockSizeZero);
    }
    let scale_bytes = size_of::<f32>();
    for (what, expected, actual) in [
        ("codes", expected_codes, codes),
        ("scales", n_elems.div_ceil(block_size) * scale_bytes, n_scales * scale_bytes),
    ] {
        if expected != actual {
            let (n_elems, expected, actual) = (n_elems as u64, expected as u64, actual as u64);
            return Err(crate::Error::PackedSize { what, format, n_elems, expected, actual });
        }
    }
    Ok(())
}

/// Original bytes (`f32`) over packed bytes, as they are: a short tail costs more than the formula for whole blocks.
#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
pub(crate) fn compression_ratio(n_elems: usize, packed_bytes: usize) -> f64 {
    (n_elems * size_of::<f32>()) as f64 / packed_bytes as f64
}
