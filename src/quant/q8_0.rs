//! `q8_0`, GGUF's 8-bit format: blocks of 32, an f16 scale `d` = absmax / 127, and one `i8` an element, `x / d` rounded half
//! away from zero. The bytes are those of ggml's C reference.

use super::{BlockFault, Codec, absmax, half_scale};

/// One block of `q8_0`, for the format table.
pub const CODEC: Codec = Codec { quantize_block, dequantize_block };

fn quantize_block(weights: &[f32], codes: &mut [u8], scale: &mut [u8]) -> Result<(), BlockFault> {
    let d = absmax(weights) / 127.0;
    half_scale::write(d, scale)?;
    // The reciprocal is taken before d is rounded to f16; each operation rounds once.
    let id = half_scale::reciprocal(d);
    for (code, &x) in codes.iter_mut().zip(weights) {
        #[expect(clippy::cast_possible_truncation, reason = "in -127..=127")]
        let rounded = (x * id).round() as i8;
        *code = rounded.cast_unsigned();
    }
    Ok(())
}

fn dequantize_block(codes: &[u8], scale: &[u8], out: &mut [f64]) -> Result<(), BlockFault> {
    let d = half_scale::read(scale)?;
    for (value, &code) in out.iter_mut().zip(codes) {
        *value = f64::from(code.cast_signed()) * d;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_half_away_from_zero() {
        let weights: [f32; 5] = [127.0, 63.5, -63.5, 0.49, -127.0];
        let (mut codes, mut scale) = ([0; 5], [0; 2]);
        quantize_block(&weights, &mut codes, &mut scale).expect("in range");
        assert_eq!((codes.map(u8::cast_signed), scale), ([127, 64, -64, 0, -127], [0x00, 0x3c]));
        quantize_block(&[f32::from_bits(1); 5], &mut codes, &mut scale).expect("in range");
        assert_eq!((codes, scale), ([0; 5], [0; 2]), "1 / d is infinite");
        assert!(quantize_block(&[f32::MAX; 5], &mut codes, &mut scale).is_err());
    }
}
