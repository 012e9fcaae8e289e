//! `nf4` and `fp4`.

use fearless_simd::{f32x16, prelude::*, u8x16, u8x64, u32x16};

use super::decode::{self, Decode4};
use super::encode::{self, Encode};
use super::{Layout, Twin, absmax4, dispatch, magnitude_bits};
use crate::quant::{fp4, nf4};

pub(crate) const NF4: Twin = Twin {
    quantize: |level, weights, codes, scales| dispatch!(level, simd => encode::quantize::<_, Nf4>(simd, weights, codes, scales)),
    dequantize: |level, codes, scales, dtype, out| dispatch!(level, simd => decode::dequantize4::<_, Nf4>(simd, codes, scales, dtype, out)),
};

pub(crate) const FP4: Twin = Twin {
    quantize: |level, weights, codes, scales| dispatch!(level, simd => encode::quantize::<_, Fp4>(simd, weights, codes, scales)),
    dequantize: |level, codes, scales, dtype, out| dispatch!(level, simd => decode::dequantize4::<_, Fp4>(simd, codes, scales, dtype, out)),
};

struct Nf4;
struct Fp4;

/// Stores the scale and gives what a block is multiplied by; `None` where the reciprocal is infinite. A zero block's
/// normalised weights are zeros whatever that is.
#[inline(always)]
fn reciprocal(absmax: f32, scale: &mut [u8]) -> Option<f32> {
    scale.copy_from_slice(&absmax.to_le_bytes());
    let reciprocal = if absmax == 0.0 { 1.0 } else { 1.0 / absmax };
    reciprocal.is_finite().then_some(reciprocal)
}

/// Ascending thresholds between -1 and 1, and the same by cells: intervals so short that none has two of them.
struct Thresholds<const N: usize> {
    values: [f32; N],
    /// The threshold in each cell; where there is none, one that nothing exceeds.
    in_cell: [f32; CELLS],
    /// How many thresholds lie in lower cells.
    below_cell: [u32; CELLS],
}

/// The last five bits of `cell`.
const CELLS: usize = 32;
/// Cells are one 15th long: with this number of them there are 31 from -1 to 1.
const CELLS_BY_ONE: f32 = 15.0;
/// Its last bits are integers, so adding it rounds to the nearest one.
const TO_INTEGER: f32 = 12_582_912.0;

impl<const N: usize> Thresholds<N> {
    const fn new(values: [f32; N]) -> Self {
        let (mut in_cell, mut below_cell) = ([f32::INFINITY; CELLS], [0; CELLS]);
        let mut i = 0;
        while i < N {
            let cell = Self::cell(values[i]);
            assert!(in_cell[(cell & 31) as usize] == f32::INFINITY, "two thresholds in one cell");
            in_cell[(cell & 31) as usize] = values[i];
            let mut above = cell + 1;
            while above <= Self::cell(1.0) {
                below_cell[(above & 31) as usize] += 1;
                above += 1;
            }
            i += 1;
        }
        Self { values, in_cell, below_cell }
    }

    /// A number that never falls as `x` grows, so that thresholds of lower cells are exceeded and those of higher ones
    /// are not.
    const fn cell(x: f32) -> u32 {
        (x * CELLS_BY_ONE + TO_INTEGER).to_bits()
    }
}

/// How many of the thresholds `x`, in -1..=1, exceeds, strictly.
#[inline(always)]
fn count_exceeded<S: Simd, const N: usize>(simd: S, x: f32x16<S>, thresholds: &Thresholds<N>) -> u32x16<S> {
    if looks_up_128_bytes(simd) {
        let cell = (x * CELLS_BY_ONE + TO_INTEGER).bitcast::<u32x16<S>>() & 31;
        // Indices of a cell's four bytes.
        let first: u8x64<S> = (cell << 2).bitcast();
        let to_all = u8x64::block_splat(u8x16::from_slice(simd, &[0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12]));
        let bytes = first.swizzle_dyn_within_blocks(to_all).bitcast::<u32x16<S>>() + 0x0302_0100;
        let [low, high] = halves(simd, bytemuck::cast_slice(&thresholds.in_cell));
        let threshold: f32x16<S> = low.concat_swizzle_dyn(high, bytes.bitcast::<u8x64<S>>()).bitcast();
        let [low, high] = halves(simd, bytemuck::cast_slice(&thresholds.below_cell));
        let below: u32x16<S> = low.concat_swizzle_dyn(high, bytes.bitcast::<u8x64<S>>()).bitcast();
        // A mask's lanes are 0 and -1.
        return below - x.simd_gt(threshold).to_vector().bitcast::<u32x16<S>>();
    }
    let mut n = u32x16::splat(simd, 0);
    for &threshold in &thresholds.values {
        n -= x.simd_gt(threshold).to_vector().bitcast::<u32x16<S>>();
    }
    n
}

/// Whether there is an instruction that looks up any of 128 bytes.
#[inline(always)]
fn looks_up_128_bytes<S: Simd>(simd: S) -> bool {
    let level = simd.level();
    #[cfg(target_arch = "x86_64")]
    return level.as_avx512().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = level;
        false
    }
}

#[inline(always)]
fn halves<S: Simd>(simd: S, bytes: &[u8]) -> [u8x64<S>; 2] {
    [u8x64::from_slice(simd, &bytes[..64]), u8x64::from_slice(simd, &bytes[64..])]
}

static NF4_THRESHOLDS: Thresholds<15> = Thresholds::new(nf4::thresholds());
static FP4_THRESHOLDS: Thresholds<7> = Thresholds::new(fp4::THRESHOLDS);

impl Encode for Nf4 {
    const LAYOUT: Layout = Layout::EvenHigh;
    const SCALE_BYTES: usize = 4;

    #[inline(always)]
    fn encode<S: Simd>(simd: S, x: [f32x16<S>; 4], infinity: u32, scales: &mut [u8]) -> Option<[u32x16<S>; 4]> {
        let reciprocal = reciprocal(absmax4(x, infinity)?, scales)?;
        Some([
            count_exceeded(simd, x[0] * reciprocal, &NF4_THRESHOLDS),
            count_exceeded(simd, x[1] * reciprocal, &NF4_THRESHOLDS),
            count_exceeded(simd, x[2] * reciprocal, &NF4_THRESHOLDS),
            count_exceeded(simd, x[3] * reciprocal, &NF4_THRESHOLDS),
        ])
    }
}

impl Encode for Fp4 {
    const LAYOUT: Layout = Layout::EvenHigh;
    const SCALE_BYTES: usize = 4;

    #[inline(always)]
    fn encode<S: Simd>(simd: S, x: [f32x16<S>; 4], infinity: u32, scales: &mut [u8]) -> Option<[u32x16<S>; 4]> {
        let r = reciprocal(absmax4(x, infinity)?, scales)?;
        Some([fp4_codes(simd, x[0], r), fp4_codes(simd, x[1], r), fp4_codes(simd, x[2], r), fp4_codes(simd, x[3], r)])
    }
}

#[inline(always)]
fn fp4_codes<S: Simd>(simd: S, x: f32x16<S>, reciprocal: f32) -> u32x16<S> {
    let magnitude: f32x16<S> = magnitude_bits(x * reciprocal).bitcast();
    let level: u8x64<S> = count_exceeded(simd, magnitude, &FP4_THRESHOLDS).bitcast();
    // The other bytes of a lane are level 0, whose code is 0.
    let codes_of_levels = u8x64::block_splat(u8x16::from_slice(simd, &FP4_CODES));
    let code: u32x16<S> = codes_of_levels.swizzle_dyn_within_blocks(level).bitcast();
    // 8 where x < 0, which -0.0 is not.
    code | (x.simd_lt(0.0).to_vector().bitcast::<u32x16<S>>() & 8)
}

/// Codes by level, for a lookup of 16.
const FP4_CODES: [u8; 16] = {
    let mut codes = [0; 16];
    let mut level = 0;
    while level < 8 {
        codes[level] = fp4::CODES[level];
        level += 1;
    }
    codes
};

impl Decode4 for Nf4 {
    const LAYOUT: Layout = Layout::EvenHigh;
    const SCALE_BYTES: usize = 4;
    const VALUES: [f32; 16] = nf4::VALUES;

    #[inline(always)]
    fn scale(bytes: &[u8]) -> Option<f32> {
        Some(f32::from_le_bytes(bytes.try_into().ok()?))
    }
}

impl Decode4 for Fp4 {
    const LAYOUT: Layout = Layout::EvenHigh;
    const SCALE_BYTES: usize = 4;
    const VALUES: [f32; 16] = fp4::values();

    #[inline(always)]
    fn scale(bytes: &[u8]) -> Option<f32> {
        Some(f32::from_le_bytes(bytes.try_into().ok()?))
    }
}
