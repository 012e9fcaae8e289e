//! `q4_0`, GGUF's 4-bit format: blocks of 32, an f16 scale `d` = the signed element of largest magnitude / -8, codes
//! 0..=15 for `(code - 8) · d`. Element j stands in the low nibble of byte j, element j + 16 in the high one. The bytes are
//! those of ggml's C reference.

use super::{BlockFault, Codec, half_scale};

/// One block of `q4_0`, for the format table.
pub const CODEC: Codec = Codec { quantize_block, dequantize_block };

const HALF: usize = 16;

/// The element of largest magnitude, the first of equals, with its sign; +0.0 where all are zero.
fn extreme(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0_f32, |extreme, &x| if x.abs() > extreme.abs() { x } else { extreme })
}

fn quantize_block(weights: &[f32], codes: &mut [u8], scale: &mut [u8]) -> Result<(), BlockFault> {
    let d = extreme(weights) / -8.0;
    half_scale::write(d, scale)?;
    // The reciprocal is taken before d is rounded to f16; each operation rounds once.
    let id = half_scale::reciprocal(d);
    for (index, &x) in weights.iter().enumerate() {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "in 0.5..=16.5, and meant to truncate"
        )]
        let code = ((x * id + 8.5) as u8).min(15);
        codes[index % HALF] |= code << (4 * (index / HALF));
    }
    Ok(())
}

fn dequantize_block(codes: &[u8], scale: &[u8], out: &mut [f64]) -> Result<(), BlockFault> {
    let d = half_scale::read(scale)?;
    for (index, value) in out.iter_mut().enumerate() {
        let code = codes[index % HALF] >> (4 * (index / HALF)) & 0xf;
        *value = (f64::from(code) - 8.0) * d;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(weights: &[f32; 32]) -> ([u8; 16], [u8; 2]) {
        let (mut codes, mut scale) = ([0; 16], [0; 2]);
        quantize_block(weights, &mut codes, &mut scale).expect("in range");
        (codes, scale)
    }

    #[test]
    fn the_sign_of_the_first_largest_element_decides() {
        let mut weights = [0.0; 32];
        (weights[3], weights[20]) = (-4.0, 4.0);
        let (codes, scale) = packed(&weights);
        assert_eq!(scale, [0x00, 0x38], "d = -4 / -8 = 0.5");
        assert_eq!((codes[3] & 0xf, codes[4] >> 4, codes[0]), (0, 15, 0x88), "+4 would need code 16");
        (weights[3], weights[20]) = (4.0, -4.0);
        let (codes, scale) = packed(&weights);
        assert_eq!((scale, codes[3] & 0xf, codes[4] >> 4), ([0x00, 0xb8], 0, 15));
    }

    #[test]
    fn a_zero_block_has_scale_minus_zero() {
        assert_eq!(packed(&[-0.0; 32]), ([0x88; 16], [0x00, 0x80]));
        // 1 / d is infinite: every code is 8.
        assert_eq!(packed(&[f32::from_bits(16); 32]), ([0x88; 16], [0x00, 0x80]));
    }

    #[test]
    fn a_scale_beyond_f16_is_a_fault() {
        let fault = quantize_block(&[-8.0 * 65_520.0; 32], &mut [0; 16], &mut [0; 2]);
        assert_eq!(fault, Err(BlockFault::ScaleOverflow(65_520.0)));
        assert_eq!(dequantize_block(&[0; 16], &[0x00, 0x7c], &mut [0.0]), Err(BlockFault::Scale(f32::INFINITY)));
    }
}
