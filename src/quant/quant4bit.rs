//! `sym4`: symmetric 4-bit codes -7..=7, two's-complement nibbles, the even element in the **high** nibble, and one
//! `f32` scale a block. Its equations and obligations stand in `contracts/quantization-v1.yaml`.

use super::{BlockFault, Codec, absmax, check_input, check_parts, compression_ratio, symmetric};
use crate::error::Result;

/// The largest code.
pub const MAX_CODE: i8 = 7;
const K: u16 = 7;

/// One block of `sym4`, for the format table.
pub const CODEC: Codec = Codec { quantize_block, dequantize_block };

/// A tensor in 4 bits a weight, with a block size of the caller's choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized4Bit {
    /// Two codes a byte, `ceil(len / 2)` bytes; the even element in the high nibble, an odd tail's low nibble is 0.
    pub data: Vec<u8>,
    /// One scale a block, `ceil(len / block_size)`.
    pub scales: Vec<f32>,
    /// How many weights there are.
    pub len: usize,
    /// Weights a scale.
    pub block_size: usize,
}

/// The scale of a block whose largest |x| is `absmax`: `RN(absmax / 7)`, rounded *up* where that is subnormal, and one
/// step lower where seven times it would overflow. It is 0 only for a zero block.
#[must_use]
pub fn scale(absmax: f32) -> f32 {
    symmetric::scale(absmax, K)
}

/// The code of a finite `x`: `x / scale` rounded to `f32`, then to the nearest integer, halves away from zero. In
/// -7..=7 for every |x| up to the block's maximum.
#[must_use]
pub fn code(x: f32, scale: f32) -> i8 {
    symmetric::code(x, scale, K)
}

/// The nibble of a code: two's complement.
#[must_use]
pub const fn nibble(code: i8) -> u8 {
    code.cast_unsigned() & 0xf
}

/// The code of a nibble: -8..=7, where -8 is one that no writer makes.
#[must_use]
pub const fn signed(nibble: u8) -> i8 {
    (nibble << 4).cast_signed() >> 4
}

/// Quantizes a tensor in blocks of `block_size` weights of the flat array; the last block may be short.
///
/// # Errors
/// [`Error::Empty`](crate::Error::Empty), [`Error::BlockSizeZero`](crate::Error::BlockSizeZero), or
/// [`Error::NonFinite`](crate::Error::NonFinite) with the first index of a NaN or an infinity.
///
/// ```
/// let packed = wgquant::quant::quant4bit::quantize(&[0.5, -0.25, 0.1], 64)?;
/// assert_eq!(packed.data, [0x7d, 0x10]); // 7, -3; 1
/// assert_eq!(packed.dequantize()?[0], 0.5);
/// # Ok::<(), wgquant::Error>(())
/// ```
pub fn quantize(weights: &[f32], block_size: usize) -> Result<Quantized4Bit> {
    check_input(weights, block_size)?;
    let mut data = vec![0; weights.len().div_ceil(2)];
    let mut scales = Vec::with_capacity(weights.len().div_ceil(block_size));
    for (block_ix, block) in weights.chunks(block_size).enumerate() {
        let scale = scale(absmax(block));
        for (index, &x) in block.iter().enumerate() {
            put(&mut data, block_ix * block_size + index, code(x, scale));
        }
        scales.push(scale);
    }
    Ok(Quantized4Bit { data, scales, len: weights.len(), block_size })
}

impl Quantized4Bit {
    /// The weights back, as `RN(code · scale)`: within half a scale of the original, and zero for zero.
    ///
    /// # Errors
    /// [`Error::InvalidCode`](crate::Error::InvalidCode) for the nibble 8 (-8), which no writer makes, and
    /// [`Error::PackedSize`](crate::Error::PackedSize) if the fields don't fit each other.
    pub fn dequantize(&self) -> Result<Vec<f32>> {
        let codes = (self.data.len(), self.len.div_ceil(2));
        check_parts("sym4", self.len, self.block_size, codes, self.scales.len())?;
        (0..self.len)
            .map(|index| {
                let nibble = get(&self.data, index);
                if nibble == 8 {
                    let block = (index / self.block_size) as u64;
                    return Err(crate::Error::InvalidCode { block, index: index as u64, code: nibble, format: "sym4" });
                }
                Ok(f32::from(signed(nibble)) * self.scales[index / self.block_size])
            })
            .collect()
    }

    /// Bytes of codes and scales together.
    #[must_use]
    pub fn size_in_bytes(&self) -> usize {
        self.data.len() + size_of_val(self.scales.as_slice())
    }

    /// `f32` bytes over packed bytes: 7.11 for whole blocks of 64, less for a short tail.
    #[must_use]
    pub fn compression_ratio(&self) -> f64 {
        compression_ratio(self.len, self.size_in_bytes())
    }
}

/// Stores element `index`'s code into zeroed nibbles.
fn put(codes: &mut [u8], index: usize, code: i8) {
    codes[index / 2] |= nibble(code) << if index.is_multiple_of(2) { 4 } else { 0 };
}

/// Element `index`'s nibble.
fn get(codes: &[u8], index: usize) -> u8 {
    if index.is_multiple_of(2) { codes[index / 2] >> 4 } else { codes[index / 2] & 0xf }
}

fn quantize_block(weights: &[f32], codes: &mut [u8], scale_bytes: &mut [u8]) -> Result<(), BlockFault> {
    let scale = scale(absmax(weights));
    for (index, &x) in weights.iter().enumerate() {
        put(codes, index, code(x, scale));
    }
    scale_bytes.copy_from_slice(&scale.to_le_bytes());
    Ok(())
}

fn dequantize_block(codes: &[u8], scale: &[u8], out: &mut [f64]) -> Result<(), BlockFault> {
    let scale = symmetric::read_scale(scale)?;
    for (index, value) in out.iter_mut().enumerate() {
        let nibble = get(codes, index);
        if nibble == 8 {
            return Err(BlockFault::Code { index, code: nibble });
        }
        *value = f64::from(signed(nibble)) * scale;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

#[cfg(kani)]
mod proofs {
    /// quant-kani-001: codes stay in -7..=7, for blocks of up to four weights of any finite value.
    #[kani::proof]
    #[kani::unwind(5)]
    fn codes_stay_in_range() {
        let weights: [f32; 4] = kani::any();
        let n: usize = kani::any();
        kani::assume((1..=4).contains(&n) && weights.iter().all(|x| x.is_finite()));
        let scale = super::scale(crate::quant::absmax(&weights[..n]));
        assert!(scale >= 0.0);
        for &x in &weights[..n] {
            assert!((-7..=7).contains(&super::code(x, scale)));
        }
    }
}
