//! Whole tensors and pieces of them through the plain reference, block by block: what every GPU, and the CPU path of
//! [`quantize`](crate::quantize), is held to. It is written to be read, and slow.

use crate::dtype::{Dtype, Weights};
use crate::error::{Error, Result};
use crate::format::{Format, FormatInfo};
use crate::packed::{Packed, zeroed, zeroed_parts};
use crate::quant::BlockFault;

/// No format has larger blocks.
pub(crate) const MAX_BLOCK: usize = 64;

/// What [`quantize`](crate::quantize) does, plainly.
///
/// # Errors
/// As [`quantize`](crate::quantize).
pub fn quantize<'a>(format: Format, weights: impl Into<Weights<'a>>) -> Result<Packed> {
    let weights = weights.into();
    let (mut codes, mut scales) = zeroed_parts(format.info(), weights.len())?;
    quantize_into(format, weights, 0, &mut codes, &mut scales)?;
    Packed::from_stream(format, weights.len() as u64, codes, scales)
}

/// What [`dequantize`](crate::dequantize) does, plainly.
///
/// # Errors
/// As [`dequantize`](crate::dequantize).
pub fn dequantize(packed: &Packed, dtype: Dtype) -> Result<Vec<u8>> {
    let mut out = zeroed(packed.n_elems().saturating_mul(dtype.n_bytes() as u64))?;
    dequantize_into(packed.format(), packed.codes(), &packed.stream_scales(), 0, dtype, &mut out)?;
    Ok(out)
}

/// Quantizes whole blocks (only the tensor's last may be short) into zeroed codes and scales of fitting length.
/// `first_elem` is the flat index of the first weight, for messages.
pub(crate) fn quantize_into(
    format: Format,
    weights: Weights<'_>,
    first_elem: u64,
    codes: &mut [u8],
    scales: &mut [u8],
) -> Result<()> {
    let info = format.info();
    for (block_ix, (codes, scale)) in blocks_mut(info, codes, scales).enumerate() {
        let start = block_ix * info.block;
        let block = weights.slice(start..weights.len().min(start + info.block));
        let mut values = [0.0; MAX_BLOCK];
        let values = &mut values[..block.len()];
        block.widen_into(values);
        if let Some(index) = values.iter().position(|x| !x.is_finite()) {
            return Err(block.non_finite(index, first_elem + start as u64));
        }
        (info.codec.quantize_block)(values, codes, scale)
            .map_err(|fault| block_error(format, first_elem + start as u64, fault))?;
    }
    Ok(())
}

/// Dequantizes whole blocks (only the tensor's last may be short) into `out`, little-endian elements of `dtype`.
pub(crate) fn dequantize_into(
    format: Format,
    codes: &[u8],
    scales: &[u8],
    first_elem: u64,
    dtype: Dtype,
    out: &mut [u8],
) -> Result<()> {
    let info = format.info();
    let width = dtype.n_bytes();
    for (block_ix, out) in out.chunks_mut(info.block * width).enumerate() {
        let mut values = [0.0; MAX_BLOCK];
        let values = &mut values[..out.len() / width];
        let first_elem = first_elem + (block_ix * info.block) as u64;
        decode_block(format, codes, scales, block_ix, first_elem, values)?;
        for (index, (&value, out)) in values.iter().zip(out.chunks_exact_mut(width)).enumerate() {
            dtype.round_into(value, out).map_err(|value| Error::Overflow {
                index: first_elem + index as u64,
                value,
                dtype: dtype.name(),
            })?;
        }
    }
    Ok(())
}

/// The exact values of block `block_ix` of these codes and scales; `first_elem` is the flat index of its first element.
pub(crate) fn decode_block(
    format: Format,
    codes: &[u8],
    scales: &[u8],
    block_ix: usize,
    first_elem: u64,
    values: &mut [f64],
) -> Result<()> {
    let info = format.info();
    let (codes, scale) = block_parts(info, codes, scales, block_ix);
    (info.codec.dequantize_block)(codes, scale, values).map_err(|fault| block_error(format, first_elem, fault))
}

/// The codes and the scale of block `block_ix`.
pub(crate) fn block_parts<'a>(
    info: &FormatInfo,
    codes: &'a [u8],
    scales: &'a [u8],
    block_ix: usize,
) -> (&'a [u8], &'a [u8]) {
    let (n_codes, n_scale) = (info.block_codes_bytes(), info.scale.n_bytes());
    let codes = &codes[block_ix * n_codes..codes.len().min((block_ix + 1) * n_codes)];
    (codes, &scales[block_ix * n_scale..][..n_scale])
}

fn blocks_mut<'a>(
    info: &FormatInfo,
    codes: &'a mut [u8],
    scales: &'a mut [u8],
) -> impl Iterator<Item = (&'a mut [u8], &'a mut [u8])> {
    codes.chunks_mut(info.block_codes_bytes()).zip(scales.chunks_exact_mut(info.scale.n_bytes()))
}

/// A block's fault, with its place in the tensor.
pub(crate) fn block_error(format: Format, first_elem: u64, fault: BlockFault) -> Error {
    let (block, format_name) = (first_elem / format.info().block as u64, format.name());
    match fault {
        BlockFault::Code { index, code } => {
            Error::InvalidCode { block, index: first_elem + index as u64, code, format: format_name }
        }
        BlockFault::Scale(value) => Error::InvalidScale { block, value, format: format_name },
        BlockFault::ScaleOverflow(value) => Error::ScaleOverflow { block, value, format: format_name },
    }
}
