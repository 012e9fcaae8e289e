//! What the GGUF formats share: a scale that is an f16, and reciprocals that are 0 where they are not finite.

use super::BlockFault;
use crate::dtype::Dtype;

/// `1 / d`, or 0 where that is not finite: C leaves those cases undefined.
pub(crate) fn reciprocal(d: f32) -> f32 {
    let reciprocal = 1.0 / d;
    if reciprocal.is_finite() { reciprocal } else { 0.0 }
}

/// Stores `d` as an f16, rounded to nearest even; a fault where it rounds to infinity.
pub(crate) fn write(d: f32, scale: &mut [u8]) -> Result<(), BlockFault> {
    Dtype::F16.round_into(f64::from(d), scale).map_err(|_| BlockFault::ScaleOverflow(d))
}

/// The scale from its bytes; a fault where it is not finite.
pub(crate) fn read(scale: &[u8]) -> Result<f64, BlockFault> {
    let scale = scale.try_into().map_or(f32::NAN, |bytes| half::f16::from_le_bytes(bytes).to_f32());
    if scale.is_finite() { Ok(f64::from(scale)) } else { Err(BlockFault::Scale(scale)) }
}
