//! `nf4`: 4-bit NormalFloat, a codebook of the quantiles of a normal distribution, and one `f32` scale a block, its
//! largest |x|. Method: Dettmers et al., "QLoRA" (2023); arithmetic: bitsandbytes' CUDA kernel.

use super::{BlockFault, Codec, absmax, codebook};

/// The value of each code, ascending.
pub const VALUES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// One block of `nf4`, for the format table.
pub const CODEC: Codec = Codec { quantize_block, dequantize_block };

/// The midpoints between neighbouring values, as `f32`.
#[must_use]
pub const fn thresholds() -> [f32; 15] {
    let (mut thresholds, mut i) = ([0.0; 15], 0);
    while i < thresholds.len() {
        thresholds[i] = (VALUES[i] + VALUES[i + 1]) / 2.0;
        i += 1;
    }
    thresholds
}

/// The code of a finite `x` in a block whose largest |x| is `absmax`: how many thresholds the normalised value exceeds,
/// strictly. A zero block has code 7, which is 0.
#[must_use]
pub fn code(x: f32, absmax: f32) -> u8 {
    if absmax == 0.0 {
        return 7;
    }
    let n = codebook::normalized(x, absmax);
    thresholds().iter().map(|&threshold| u8::from(n > threshold)).sum()
}

fn quantize_block(weights: &[f32], codes: &mut [u8], scale: &mut [u8]) -> Result<(), BlockFault> {
    let absmax = absmax(weights);
    codebook::pack(weights.iter().map(|&x| code(x, absmax)), codes);
    scale.copy_from_slice(&absmax.to_le_bytes());
    Ok(())
}

fn dequantize_block(codes: &[u8], scale: &[u8], out: &mut [f64]) -> Result<(), BlockFault> {
    codebook::dequantize(&VALUES, codes, scale, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_paper_to_the_bit() {
        let published = [
            -1.0,
            -0.6961928009986877,
            -0.5250730514526367,
            -0.39491748809814453,
            -0.28444138169288635,
            -0.18477343022823334,
            -0.09105003625154495,
            0.0,
            0.07958029955625534,
            0.16093020141124725,
            0.24611230194568634,
            0.33791524171829224,
            0.44070982933044434,
            0.5626170039176941,
            0.7229568362236023,
            1.0_f64,
        ];
        assert!(VALUES.iter().zip(published).all(|(&ours, theirs)| f64::from(ours) == theirs), "{VALUES:?}");
    }

    #[test]
    fn a_value_itself_has_its_code_and_a_midpoint_the_lower_one() {
        for (index, &value) in VALUES.iter().enumerate() {
            assert_eq!(usize::from(code(value, 1.0)), index);
        }
        for (index, &threshold) in thresholds().iter().enumerate() {
            assert_eq!(usize::from(code(threshold, 1.0)), index, "strictly");
            assert_eq!(usize::from(code(threshold.next_up(), 1.0)), index + 1);
        }
        assert_eq!(code(-0.0, 0.0), 7);
        // Where 1 / absmax is infinite, the quotient itself is taken.
        let tiny = f32::from_bits(1);
        assert_eq!((code(tiny, tiny), code(-tiny, tiny), code(tiny, f32::from_bits(4))), (15, 0, 10));
    }
}
