//! Double quantization (`nf4-dq`, `fp4-dq`): the `f32` absmax values of a 4-bit format are themselves stored in 8 bits.
//!
//! An offset, the mean of all absmax values, is taken off; what remains is quantized in blocks of 256 with a codebook of
//! 256 values. Method: Dettmers et al., "QLoRA" (2023); codebook: bitsandbytes' signed dynamic 8-bit map.

/// Absmax values that share a second-level scale.
pub const NESTED_BLOCK: usize = 256;

/// The codebook as `f32` bits, ascending from -0.99 to 1: bitsandbytes' `create_dynamic_map(signed=True)`.
const MAP_BITS: [u32; 256] = [
    0xbf7e_3333,
    0xbf7a_999a,
    0xbf77_0000,
    0xbf73_6666,
    0xbf6f_cccd,
    0xbf6c_3333,
    0xbf68_999a,
    0xbf65_0000,
    0xbf61_6666,
    0xbf5d_cccd,
    0xbf5a_3333,
    0xbf56_999a,
    0xbf53_0000,
    0xbf4f_6666,
    0xbf4b_cccd,
    0xbf48_3333,
    0xbf44_999a,
    0xbf41_0000,
    0xbf3d_6666,
    0xbf39_cccd,
    0xbf36_3334,
    0xbf32_999a,
    0xbf2f_0000,
    0xbf2b_6666,
    0xbf27_cccd,
    0xbf24_3334,
    0xbf20_999a,
    0xbf1d_0000,
    0xbf19_6666,
    0xbf15_cccd,
    0xbf12_3334,
    0xbf0e_999a,
    0xbf0b_0000,
    0xbf07_6666,
    0xbf03_cccc,
    0xbf00_3333,
    0xbef9_3332,
    0xbef2_0000,
    0xbeea_cccc,
    0xbee3_999a,
    0xbedc_6666,
    0xbed5_3333,
    0xbece_0000,
    0xbec6_cccc,
    0xbebf_999a,
    0xbeb8_6666,
    0xbeb1_3333,
    0xbeaa_0000,
    0xbea2_cccc,
    0xbe9b_999a,
    0xbe94_6666,
    0xbe8d_3334,
    0xbe86_0000,
    0xbe7d_9999,
    0xbe6f_3333,
    0xbe60_cccd,
    0xbe52_6666,
    0xbe44_0000,
    0xbe35_999a,
    0xbe27_3333,
    0xbe18_cccd,
    0xbe0a_6666,
    0xbdf8_0000,
    0xbddb_3334,
    0xbdc9_eb85,
    0xbdc4_28f7,
    0xbdbe_6667,
    0xbdb8_a3d7,
    0xbdb2_e148,
    0xbdad_1eb8,
    0xbda7_5c2a,
    0xbda1_999a,
    0xbd9b_d70a,
    0xbd96_147b,
    0xbd90_51eb,
    0xbd8a_8f5d,
    0xbd84_cccd,
    0xbd7e_147b,
    0xbd72_8f5d,
    0xbd67_0a3d,
    0xbd5b_851f,
    0xbd50_0000,
    0xbd44_7ae1,
    0xbd38_f5c3,
    0xbd2d_70a3,
    0xbd21_eb85,
    0xbd16_6667,
    0xbd0a_e148,
    0xbcfe_b852,
    0xbce7_ae15,
    0xbcd0_a3d7,
    0xbcb9_999a,
    0xbca2_8f5d,
    0xbc8b_851f,
    0xbc68_f5c3,
    0xbc3a_e148,
    0xbc1f_3b64,
    0xbc16_0418,
    0xbc0c_cccd,
    0xbc03_9581,
    0xbbf4_bc6a,
    0xbbe2_4dd3,
    0xbbcf_df3b,
    0xbbbd_70a4,
    0xbbab_020d,
    0xbb98_9374,
    0xbb86_24dd,
    0xbb67_6c8a,
    0xbb42_8f5c,
    0xbb1d_b22d,
    0xbaf1_a9fc,
    0xbaa7_ef9d,
    0xba77_65ff,
    0xba59_e83e,
    0xba3c_6a80,
    0xba1e_ecc1,
    0xba01_6f01,
    0xb9c7_e283,
    0xb98c_e705,
    0xb923_d70b,
    0xb8ba_1f4b,
    0xb88a_efb3,
    0xb837_8034,
    0xb7b2_4206,
    0xb702_05ff,
    0xb65a_1a94,
    0xb513_a3b7,
    0x0000_0000,
    0x3513_a3b7,
    0x365a_1a94,
    0x3702_05ff,
    0x37b2_4206,
    0x3837_8034,
    0x388a_efb3,
    0x38ba_1f4b,
    0x3923_d70b,
    0x398c_e705,
    0x39c7_e283,
    0x3a01_6f01,
    0x3a1e_ecc1,
    0x3a3c_6a80,
    0x3a59_e83e,
    0x3a77_65ff,
    0x3aa7_ef9d,
    0x3af1_a9fc,
    0x3b1d_b22d,
    0x3b42_8f5c,
    0x3b67_6c8a,
    0x3b86_24dd,
    0x3b98_9374,
    0x3bab_020d,
    0x3bbd_70a4,
    0x3bcf_df3b,
    0x3be2_4dd3,
    0x3bf4_bc6a,
    0x3c03_9581,
    0x3c0c_cccd,
    0x3c16_0418,
    0x3c1f_3b64,
    0x3c3a_e148,
    0x3c68_f5c3,
    0x3c8b_851f,
    0x3ca2_8f5d,
    0x3cb9_999a,
    0x3cd0_a3d7,
    0x3ce7_ae15,
    0x3cfe_b852,
    0x3d0a_e148,
    0x3d16_6667,
    0x3d21_eb85,
    0x3d2d_70a3,
    0x3d38_f5c3,
    0x3d44_7ae1,
    0x3d50_0000,
    0x3d5b_851f,
    0x3d67_0a3d,
    0x3d72_8f5d,
    0x3d7e_147b,
    0x3d84_cccd,
    0x3d8a_8f5d,
    0x3d90_51eb,
    0x3d96_147b,
    0x3d9b_d70a,
    0x3da1_999a,
    0x3da7_5c2a,
    0x3dad_1eb8,
    0x3db2_e148,
    0x3db8_a3d7,
    0x3dbe_6667,
    0x3dc4_28f7,
    0x3dc9_eb85,
    0x3ddb_3334,
    0x3df8_0000,
    0x3e0a_6666,
    0x3e18_cccd,
    0x3e27_3333,
    0x3e35_999a,
    0x3e44_0000,
    0x3e52_6666,
    0x3e60_cccd,
    0x3e6f_3333,
    0x3e7d_9999,
    0x3e86_0000,
    0x3e8d_3334,
    0x3e94_6666,
    0x3e9b_999a,
    0x3ea2_cccc,
    0x3eaa_0000,
    0x3eb1_3333,
    0x3eb8_6666,
    0x3ebf_999a,
    0x3ec6_cccc,
    0x3ece_0000,
    0x3ed5_3333,
    0x3edc_6666,
    0x3ee3_999a,
    0x3eea_cccc,
    0x3ef2_0000,
    0x3ef9_3332,
    0x3f00_3333,
    0x3f03_cccc,
    0x3f07_6666,
    0x3f0b_0000,
    0x3f0e_999a,
    0x3f12_3334,
    0x3f15_cccd,
    0x3f19_6666,
    0x3f1d_0000,
    0x3f20_999a,
    0x3f24_3334,
    0x3f27_cccd,
    0x3f2b_6666,
    0x3f2f_0000,
    0x3f32_999a,
    0x3f36_3334,
    0x3f39_cccd,
    0x3f3d_6666,
    0x3f41_0000,
    0x3f44_999a,
    0x3f48_3333,
    0x3f4b_cccd,
    0x3f4f_6666,
    0x3f53_0000,
    0x3f56_999a,
    0x3f5a_3333,
    0x3f5d_cccd,
    0x3f61_6666,
    0x3f65_0000,
    0x3f68_999a,
    0x3f6c_3333,
    0x3f6f_cccd,
    0x3f73_6666,
    0x3f77_0000,
    0x3f7a_999a,
    0x3f7e_3333,
    0x3f80_0000,
];

/// The codebook.
#[must_use]
pub fn map() -> [f32; 256] {
    MAP_BITS.map(f32::from_bits)
}

/// The value of a code.
fn value(code: u8) -> f32 {
    f32::from_bits(MAP_BITS[usize::from(code)])
}

/// How many of the 255 midpoints between neighbours of the codebook `y` exceeds, strictly.
fn code(y: f32) -> u8 {
    // The midpoints ascend, so their number is found by bisection.
    let (mut low, mut high) = (0_u8, 255_u8);
    while low < high {
        let middle = low + (high - low) / 2;
        if y > (value(middle) + value(middle + 1)) / 2.0 {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Quantizes up to [`NESTED_BLOCK`] absmax values around `offset` into `codes`; gives their second-level scale, the
/// largest |absmax − offset|.
pub fn quantize_block(absmax: &[f32], offset: f32, codes: &mut [u8]) -> f32 {
    let scale = absmax.iter().fold(0.0_f32, |max, &a| max.max((a - offset).abs()));
    for (&a, out) in absmax.iter().zip(codes) {
        *out = quantize_one(a, scale, offset);
    }
    scale
}

/// The code of one absmax value, given its second-level scale.
#[must_use]
pub fn quantize_one(absmax: f32, scale: f32, offset: f32) -> u8 {
    code(if scale == 0.0 { 0.0 } else { (absmax - offset) / scale })
}

/// The absmax value that a code stands for: `RN(RN(map[code] · scale) + offset)`.
#[must_use]
pub fn dequantize(code: u8, scale: f32, offset: f32) -> f32 {
    value(code) * scale + offset
}

/// A tensor's scales, quantized: codes, one second-level scale for 256 of them, and what was taken off.
#[derive(Debug, Clone, PartialEq)]
pub struct Nested {
    /// One code a block of the tensor.
    pub codes: Vec<u8>,
    /// One second-level scale for [`NESTED_BLOCK`] codes.
    pub absmax: Vec<f32>,
    /// The mean of all scales.
    pub offset: f32,
}

/// Quantizes a tensor's scales, which are finite and not negative.
#[must_use]
pub fn quantize(scales: &[f32]) -> Nested {
    let mut sum = ExactSum::default();
    scales.iter().for_each(|&scale| sum.add(scale));
    let offset = sum.mean();
    let mut codes = vec![0; scales.len()];
    let blocks = scales.chunks(NESTED_BLOCK).zip(codes.chunks_mut(NESTED_BLOCK));
    let absmax = blocks.map(|(scales, codes)| quantize_block(scales, offset, codes)).collect();
    Nested { codes, absmax, offset }
}

/// The exact sum of finite `f32` values that are not negative, as an integer multiple of 2^-149.
#[derive(Debug, Clone, Default)]
pub struct ExactSum {
    /// Little-endian words; 2^128 · 2^149 · 2^64 values fit.
    words: [u64; 6],
    n: u64,
}

impl ExactSum {
    /// Adds a value.
    pub fn add(&mut self, value: f32) {
        let bits = value.to_bits();
        let (field, fraction) = (bits >> 23 & 0xff, u128::from(bits & 0x7f_ffff));
        let shift = field.saturating_sub(1);
        let significand = (fraction | (u128::from(field > 0) << 23)) << (shift % 64);
        let mut carry = 0_u128;
        for (i, word) in self.words.iter_mut().enumerate().skip((shift / 64) as usize) {
            let part = match i - (shift / 64) as usize {
                0 => significand & u128::from(u64::MAX),
                1 => significand >> 64,
                _ if carry == 0 => break,
                _ => 0,
            };
            let sum = u128::from(*word) + part + carry;
            #[expect(clippy::cast_possible_truncation, reason = "the lower word")]
            let low = sum as u64;
            (*word, carry) = (low, sum >> 64);
        }
        self.n += 1;
    }

    /// The mean, rounded once to the nearest `f32`, ties to even; 0 of no values.
    #[must_use]
    pub fn mean(&self) -> f32 {
        let Some(top) = self.words.iter().rposition(|&word| word != 0) else { return 0.0 };
        // Long division by n, from the top word down.
        let mut quotient = [0_u64; 6];
        let mut rest = 0_u128;
        for i in (0..=top).rev() {
            let part = (rest << 64) | u128::from(self.words[i]);
            #[expect(clippy::cast_possible_truncation, reason = "the rest is below n, so the digit fits a word")]
            let digit = (part / u128::from(self.n)) as u64;
            (quotient[i], rest) = (digit, part % u128::from(self.n));
        }
        // The quotient's leading 24 bits, and whether what is cut off is more or less than half a unit.
        let n_bits = quotient
            .iter()
            .rposition(|&word| word != 0)
            .map_or(0, |i| 64 * i + 64 - quotient[i].leading_zeros() as usize);
        let cut = n_bits.saturating_sub(24);
        let bit = |at: usize| quotient[at / 64] >> (at % 64) & 1 == 1;
        let significand = (cut..n_bits).rev().fold(0_u32, |value, at| value << 1 | u32::from(bit(at)));
        let (half, below) = match cut {
            // Nothing of the quotient is cut: the rest decides, against half of n.
            0 => (2 * rest >= u128::from(self.n), 2 * rest != u128::from(self.n)),
            cut => (bit(cut - 1), (0..cut - 1).any(bit) || rest != 0),
        };
        let up = u32::from(half && (below || significand & 1 == 1));
        // As a multiple of 2^-149, `significand << cut` has the exponent field cut + 1, or 0 where it is subnormal; a carry
        // moves on into it. (The hidden bit is one unit of the field.)
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most 254: the mean is no larger than the largest value"
        )]
        let field = (cut as u32) << 23;
        f32::from_bits(field + significand + up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_ascends_and_each_value_has_its_own_code() {
        assert!(map().windows(2).all(|pair| pair[0] < pair[1]));
        for (index, &value) in map().iter().enumerate() {
            assert_eq!(usize::from(code(value)), index);
        }
        for pair in map().windows(2) {
            let middle = (pair[0] + pair[1]) / 2.0;
            assert_eq!(code(middle) + 1, code(middle.next_up()), "a midpoint itself stays below");
        }
        assert_eq!((code(-2.0), code(2.0), code(0.0)), (0, 255, 127));
    }

    #[test]
    fn a_mean_is_exact_and_rounded_once() {
        let mean = |values: &[f32]| {
            let mut sum = ExactSum::default();
            values.iter().for_each(|&value| sum.add(value));
            sum.mean()
        };
        assert_eq!(mean(&[]), 0.0);
        assert_eq!(mean(&[0.0, 0.0]), 0.0);
        assert_eq!(mean(&[1.0, 2.0, 4.5]), 2.5);
        assert_eq!(mean(&[f32::MAX; 3]), f32::MAX);
        assert_eq!(mean(&[f32::from_bits(1), 0.0]).to_bits(), 0, "half of the smallest: to even");
        assert_eq!(mean(&[f32::from_bits(3), 0.0]).to_bits(), 2, "one and a half: to even");
        assert_eq!(mean(&[f32::from_bits(1), f32::from_bits(1), 0.0]).to_bits(), 1, "two thirds");
        // What naive summation loses: 2^24 and a million ones.
        let mut values = vec![1.0; 1_000_000];
        values.push(16_777_216.0);
        let exact = (16_777_216.0_f64 + 1e6) / 1_000_001.0;
        #[expect(clippy::cast_possible_truncation, reason = "rounds")]
        let exact = exact as f32;
        assert_eq!(mean(&values), exact);
        // Against an f64 mean, where that is exact enough: values of few bits.
        for n in 1..200_u16 {
            let values: Vec<f32> = (0..n).map(|i| f32::from(i * 7 % 64) * 0.125).collect();
            let exact = values.iter().map(|&v| f64::from(v)).sum::<f64>() / f64::from(n);
            #[expect(clippy::cast_possible_truncation, reason = "rounds")]
            let exact = exact as f32;
            assert_eq!(mean(&values), exact, "{n} values");
        }
    }

    #[test]
    fn equal_values_come_back_exactly() {
        let mut codes = [9; 3];
        assert_eq!(quantize_block(&[0.5; 3], 0.5, &mut codes), 0.0);
        assert_eq!(codes, [127; 3]);
        assert_eq!(dequantize(127, 0.0, 0.5), 0.5);
    }
}
