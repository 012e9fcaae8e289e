//! The arithmetic that `sym4` and `sym8` share: codes -K..=K, K = 7 or 127, and one `f32` scale a block.

use super::BlockFault;

/// Subnormals are multiples of 2^-149; this is how many of those the smallest normal number has.
const MIN_NORMAL_BITS: u32 = 1 << 23;

/// The scale of a block: `RN(absmax / k)`, with two repairs that keep the contract for every finite `f32`.
///
/// Where the quotient is subnormal it is rounded *up* to a multiple of 2^-149, so that a non-zero block never gets scale
/// 0 and no code needs clamping. Where `k` times the scale would round to infinity, it is the next lower `f32`.
pub(super) fn scale(absmax: f32, k: u16) -> f32 {
    // Below k · 2^-126 the quotient is subnormal. The bound is exact in f32 for both k.
    if absmax < f32::from(k) * f32::MIN_POSITIVE {
        return f32::from_bits(units_of_min_subnormal(absmax).div_ceil(u32::from(k)));
    }
    let scale = absmax / f32::from(k);
    if (f32::from(k) * scale).is_finite() { scale } else { scale.next_down() }
}

/// `x` ≥ 0 as a multiple of 2^-149; at most 127 · 2^-126, so it fits.
fn units_of_min_subnormal(x: f32) -> u32 {
    let bits = x.to_bits();
    let exponent = (bits >> 23).max(1);
    let hidden = if bits >= MIN_NORMAL_BITS { MIN_NORMAL_BITS } else { 0 };
    ((bits & (MIN_NORMAL_BITS - 1)) | hidden) << (exponent - 1)
}

/// `round_half_away_from_zero(RN(x / scale))`, clamped to -k..=k; 0 where the scale is 0.
pub(super) fn code(x: f32, scale: f32, k: u16) -> i8 {
    if scale == 0.0 {
        return 0;
    }
    let limit = f32::from(k);
    #[expect(clippy::cast_possible_truncation, reason = "clamped to ±127")]
    let code = (x / scale).round().clamp(-limit, limit) as i8;
    code
}

/// The scale from its bytes, or the fault that it is negative or not finite.
pub(super) fn read_scale(bytes: &[u8]) -> Result<f64, BlockFault> {
    let scale = bytes.try_into().map_or(f32::NAN, f32::from_le_bytes);
    if scale.is_finite() && scale.is_sign_positive() { Ok(f64::from(scale)) } else { Err(BlockFault::Scale(scale)) }
}
