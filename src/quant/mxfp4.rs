//! `mxfp4`, OCP microscaling: blocks of 32, a power-of-two scale in one byte (E8M0), and E2M1 codes. Element j stands in
//! the low nibble of byte j, element j + 16 in the high one, as in GGUF. Source: OCP Microscaling Formats (MX) v1.0.

use super::{BlockFault, Codec, absmax};

/// The magnitude of codes 0..=7; bit 3 is the sign.
pub const MAGNITUDES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// One block of `mxfp4`, for the format table.
pub const CODEC: Codec = Codec { quantize_block, dequantize_block };

const HALF: usize = 16;

/// The exponent byte e of a block, for the scale 2^(e - 127): `floor(log2 absmax) - 2 + 127`, at least 0; 0 for a zero block.
#[must_use]
pub fn exponent(absmax: f32) -> u8 {
    let bits = absmax.to_bits();
    // Below 2^-125 the byte is 0, subnormals included.
    u8::try_from((bits >> 23).saturating_sub(2)).unwrap_or(0)
}

/// 2^(e - 127), exactly.
fn scale(e: u8) -> f64 {
    2_f64.powi(i32::from(e) - 127)
}

/// The code of a finite `x`: the nearest magnitude of `x / scale`, ties to the even code, 6 for everything beyond; 8 is
/// added where x < 0, but a value that rounds to zero has code 0.
#[must_use]
pub fn code(x: f32, e: u8) -> u8 {
    let y = f64::from(x.abs()) / scale(e);
    let reaches = |code: usize| {
        let middle = (MAGNITUDES[code] + MAGNITUDES[code + 1]) / 2.0;
        y > middle || (y == middle && code % 2 == 1)
    };
    let magnitude = (0..7).map(|code| u8::from(reaches(code))).sum();
    if x < 0.0 && magnitude > 0 { magnitude + 8 } else { magnitude }
}

fn quantize_block(weights: &[f32], codes: &mut [u8], scale: &mut [u8]) -> Result<(), BlockFault> {
    let e = exponent(absmax(weights));
    for (index, &x) in weights.iter().enumerate() {
        codes[index % HALF] |= code(x, e) << (4 * (index / HALF));
    }
    scale.copy_from_slice(&[e]);
    Ok(())
}

fn dequantize_block(codes: &[u8], scale_byte: &[u8], out: &mut [f64]) -> Result<(), BlockFault> {
    let e = scale_byte.first().copied().unwrap_or(255);
    if e == 255 {
        return Err(BlockFault::Scale(f32::NAN));
    }
    for (index, value) in out.iter_mut().enumerate() {
        let code = codes[index % HALF] >> (4 * (index / HALF)) & 0xf;
        let magnitude = MAGNITUDES[usize::from(code % 8)] * scale(e);
        *value = if code > 8 { -magnitude } else { magnitude }; // code 8 is +0.0
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_powers_of_two() {
        for (absmax, e) in [(0.0, 0), (1.0, 125), (1.99, 125), (2.0, 126), (6.0, 127), (f32::MAX, 252)] {
            assert_eq!(exponent(absmax), e, "{absmax}");
        }
        assert_eq!((exponent(f32::from_bits(1)), exponent(2_f32.powi(-125)), exponent(2_f32.powi(-124))), (0, 0, 1));
    }

    #[test]
    fn ties_go_to_the_even_code() {
        for (x, expected) in [
            (0.25, 0),
            (0.75, 2),
            (1.25, 2),
            (1.75, 4),
            (2.5, 4),
            (3.5, 6),
            (5.0, 6),
            (5.1, 7),
            (7.9, 7),
            (-0.25, 0),
            (-0.75, 10),
        ] {
            assert_eq!(code(x, 127), expected, "{x}");
        }
    }

    #[test]
    fn code_8_is_plus_zero_and_exponent_255_a_fault() {
        let mut out = [1.0; 32];
        dequantize_block(&[0x88; 16], &[127], &mut out).expect("valid");
        assert!(out.iter().all(|x| x.to_bits() == 0));
        assert!(dequantize_block(&[0; 16], &[255], &mut out).is_err());
    }
}
