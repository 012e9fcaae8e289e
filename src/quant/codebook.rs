//! What `nf4` and `fp4` share: weights normalised by the block's maximum, two nibbles a byte, an `f32` scale.

use super::BlockFault;

/// `x / absmax` as bitsandbytes' CUDA kernel takes it: `RN(x · RN(1 / absmax))`, and `RN(x / absmax)` where that
/// reciprocal is not finite. `absmax` is not 0.
pub(super) fn normalized(x: f32, absmax: f32) -> f32 {
    let reciprocal = 1.0 / absmax;
    if reciprocal.is_finite() { x * reciprocal } else { x / absmax }
}

/// Stores a block's codes, the even element in the high nibble.
pub(super) fn pack(codes: impl Iterator<Item = u8>, out: &mut [u8]) {
    for (index, code) in codes.enumerate() {
        out[index / 2] |= code << if index.is_multiple_of(2) { 4 } else { 0 };
    }
}

/// Exact products of a codebook's values and the scale.
pub(super) fn dequantize(values: &[f32; 16], codes: &[u8], scale: &[u8], out: &mut [f64]) -> Result<(), BlockFault> {
    let scale = scale.try_into().map_or(f32::NAN, f32::from_le_bytes);
    // A scale that was quantized in turn may come back a little below 0.
    if !scale.is_finite() {
        return Err(BlockFault::Scale(scale));
    }
    for (index, value) in out.iter_mut().enumerate() {
        let code = if index.is_multiple_of(2) { codes[index / 2] >> 4 } else { codes[index / 2] & 0xf };
        *value = f64::from(values[usize::from(code)]) * f64::from(scale);
    }
    Ok(())
}
