//! `fp4`: bitsandbytes' 4-bit float (sign, and eight magnitudes that are not OCP's E2M1), and one `f32` scale a block, its
//! largest |x|. Arithmetic: bitsandbytes' CUDA kernel.

use super::{BlockFault, Codec, absmax, codebook};

/// The magnitude of codes 0..=7, in twelfths.
const TWELFTHS: [f32; 8] = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];

/// The code of each magnitude, from the smallest magnitude up.
pub(crate) const CODES: [u8; 8] = [0, 1, 6, 7, 4, 5, 2, 3];

/// What a normalised magnitude must exceed to be of the next level.
pub(crate) const THRESHOLDS: [f32; 7] = [0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333];

/// One block of `fp4`, for the format table.
pub const CODEC: Codec = Codec { quantize_block, dequantize_block };

/// The value of each code; code 8 is -0.0.
#[must_use]
pub const fn values() -> [f32; 16] {
    let (mut values, mut code) = ([0.0; 16], 0);
    while code < 16 {
        let magnitude = TWELFTHS[code % 8] / 12.0;
        values[code] = if code < 8 { magnitude } else { -magnitude };
        code += 1;
    }
    values
}

/// The code of a finite `x` in a block whose largest |x| is `absmax`: the level is how many thresholds the normalised
/// magnitude exceeds, strictly; 8 is added where x < 0, so that a small negative value has code 8. A zero block has 0.
#[must_use]
pub fn code(x: f32, absmax: f32) -> u8 {
    if absmax == 0.0 {
        return 0;
    }
    let n = codebook::normalized(x, absmax).abs();
    let level = THRESHOLDS.iter().filter(|&&threshold| n > threshold).count();
    CODES[level] + if x < 0.0 { 8 } else { 0 }
}

fn quantize_block(weights: &[f32], codes: &mut [u8], scale: &mut [u8]) -> Result<(), BlockFault> {
    let absmax = absmax(weights);
    codebook::pack(weights.iter().map(|&x| code(x, absmax)), codes);
    scale.copy_from_slice(&absmax.to_le_bytes());
    Ok(())
}

fn dequantize_block(codes: &[u8], scale: &[u8], out: &mut [f64]) -> Result<(), BlockFault> {
    codebook::dequantize(&values(), codes, scale, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_itself_has_its_code() {
        for (index, &value) in values().iter().enumerate() {
            let expected = if index == 8 { 0 } else { index }; // -0.0 is not below 0
            assert_eq!(usize::from(code(value, 1.0)), expected, "{value}");
        }
        assert_eq!(code(-1e-30, 1.0), 8, "a small negative value");
        assert_eq!((code(0.0859375, 1.0), code(0.0859375_f32.next_up(), 1.0)), (1, 6), "strictly");
    }
}
