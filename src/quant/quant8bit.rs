//! `sym8`: symmetric 8-bit codes -127..=127, one `i8` an element, and one `f32` scale a block.

use super::{BlockFault, Codec, absmax, check_input, check_parts, compression_ratio, symmetric};
use crate::error::Result;

/// The largest code.
pub const MAX_CODE: i8 = 127;
const K: u16 = 127;

/// One block of `sym8`, for the format table.
pub const CODEC: Codec = Codec { quantize_block, dequantize_block };

/// A tensor in 8 bits a weight, with a block size of the caller's choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized8Bit {
    /// One code an element.
    pub data: Vec<i8>,
    /// One scale a block, `ceil(data.len() / block_size)`.
    pub scales: Vec<f32>,
    /// Weights a scale.
    pub block_size: usize,
}

/// The scale of a block whose largest |x| is `absmax`: `RN(absmax / 127)`, rounded *up* where that is subnormal, and one
/// step lower where 127 times it would overflow. It is 0 only for a zero block.
#[must_use]
pub fn scale(absmax: f32) -> f32 {
    symmetric::scale(absmax, K)
}

/// The code of a finite `x`: `x / scale` rounded to `f32`, then to the nearest integer, halves away from zero. In
/// -127..=127 for every |x| up to the block's maximum.
#[must_use]
pub fn code(x: f32, scale: f32) -> i8 {
    symmetric::code(x, scale, K)
}

/// Quantizes a tensor in blocks of `block_size` weights of the flat array; the last block may be short.
///
/// # Errors
/// [`Error::Empty`](crate::Error::Empty), [`Error::BlockSizeZero`](crate::Error::BlockSizeZero), or
/// [`Error::NonFinite`](crate::Error::NonFinite) with the first index of a NaN or an infinity.
pub fn quantize(weights: &[f32], block_size: usize) -> Result<Quantized8Bit> {
    check_input(weights, block_size)?;
    let scales: Vec<f32> = weights.chunks(block_size).map(|block| scale(absmax(block))).collect();
    let data = weights.iter().enumerate().map(|(index, &x)| code(x, scales[index / block_size])).collect();
    Ok(Quantized8Bit { data, scales, block_size })
}

impl Quantized8Bit {
    /// The weights back, as `RN(code · scale)`: within half a scale of the original, and zero for zero.
    ///
    /// # Errors
    /// [`Error::InvalidCode`](crate::Error::InvalidCode) for the code -128, which no writer makes, and
    /// [`Error::PackedSize`](crate::Error::PackedSize) if the fields don't fit each other.
    pub fn dequantize(&self) -> Result<Vec<f32>> {
        let n_elems = self.data.len();
        check_parts("sym8", n_elems, self.block_size, (n_elems, n_elems), self.scales.len())?;
        self.data
            .iter()
            .enumerate()
            .map(|(index, &code)| {
                let block = index / self.block_size;
                if code == i8::MIN {
                    return Err(crate::Error::InvalidCode {
                        block: block as u64,
                        index: index as u64,
                        code: code.cast_unsigned(),
                        format: "sym8",
                    });
                }
                Ok(f32::from(code) * self.scales[block])
            })
            .collect()
    }

    /// Bytes of codes and scales together.
    #[must_use]
    pub fn size_in_bytes(&self) -> usize {
        self.data.len() + size_of_val(self.scales.as_slice())
    }

    /// `f32` bytes over packed bytes: 3.76 for whole blocks of 64, less for a short tail.
    #[must_use]
    pub fn compression_ratio(&self) -> f64 {
        compression_ratio(self.data.len(), self.size_in_bytes())
    }
}

fn quantize_block(weights: &[f32], codes: &mut [u8], scale_bytes: &mut [u8]) -> Result<(), BlockFault> {
    let scale = scale(absmax(weights));
    for (code_byte, &x) in codes.iter_mut().zip(weights) {
        *code_byte = code(x, scale).cast_unsigned();
    }
    scale_bytes.copy_from_slice(&scale.to_le_bytes());
    Ok(())
}

fn dequantize_block(codes: &[u8], scale: &[u8], out: &mut [f64]) -> Result<(), BlockFault> {
    let scale = symmetric::read_scale(scale)?;
    for (index, (value, &code)) in out.iter_mut().zip(codes).enumerate() {
        if code == 0x80 {
            return Err(BlockFault::Code { index, code });
        }
        *value = f64::from(code.cast_signed()) * scale;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_one_byte_and_odd_tails_are_short() {
        let packed = quantize(&[127.0, -127.0, 63.5, -0.0, 1.0], 3).expect("finite weights");
        assert_eq!(packed.data, [127, -127, 64, 0, 127]); // 63.5 is a tie: away from zero
        assert_eq!(packed.scales, [1.0, 1.0 / 127.0]);
        assert_eq!(packed.dequantize().expect("our own codes")[..4], [127.0, -127.0, 64.0, 0.0]);
        assert_eq!(packed.size_in_bytes(), 5 + 8);
        let whole = quantize(&[1.0; 640], 64).expect("finite weights");
        assert!((whole.compression_ratio() - 32.0 / (8.0 + 32.0 / 64.0)).abs() < 1e-12);
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let packed = |block_size, scales| Quantized8Bit { data: vec![1; 5], scales, block_size };
        assert!(matches!(packed(0, vec![1.0]).dequantize(), Err(crate::Error::BlockSizeZero)));
        assert!(matches!(packed(3, vec![1.0]).dequantize(), Err(crate::Error::PackedSize { what: "scales", .. })));
        let packed =
            crate::quant::quant4bit::Quantized4Bit { data: vec![1], scales: vec![1.0], len: 5, block_size: 64 };
        assert!(matches!(packed.dequantize(), Err(crate::Error::PackedSize { what: "codes", .. })));
    }

    #[test]
    fn the_code_no_writer_makes_is_refused() {
        let packed = Quantized8Bit { data: vec![1, -128], scales: vec![1.0], block_size: 64 };
        assert!(matches!(packed.dequantize(), Err(crate::Error::InvalidCode { index: 1, code: 0x80, .. })));
    }
}
