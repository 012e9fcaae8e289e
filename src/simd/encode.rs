//! From weights to codes: what all formats' quantizers share.

use fearless_simd::{f32x16, i32x16, prelude::*, u8x64, u16x32, u32x16};

use super::{GROUP, INFINITY_BITS, Layout, widen_group};
use crate::dtype::{Dtype, Weights};

/// How 64 weights, one block or two, become codes.
pub(super) trait Encode {
    /// Where codes go.
    const LAYOUT: Layout;
    /// Bytes of the scales of 64 weights.
    const SCALE_BYTES: usize;

    /// Stores the scales and gives the codes, one a lane: its lowest bits, with anything above but in
    /// [`Layout::Halves`], which wants zeros there.
    /// `None` where a magnitude reaches `infinity`, given as bits, or where the rest is the reference's to do.
    fn encode<S: Simd>(simd: S, x: [f32x16<S>; 4], infinity: u32, scales: &mut [u8]) -> Option<[u32x16<S>; 4]>;
}

/// [`Twin::quantize`](super::Twin::quantize) of a format.
#[inline(always)]
pub(super) fn quantize<S: Simd, E: Encode>(
    simd: S,
    weights: Weights<'_>,
    codes: &mut [u8],
    scales: &mut [u8],
) -> usize {
    let dtype = weights.dtype();
    let codes_bytes = if E::LAYOUT == Layout::Bytes { GROUP } else { GROUP / 2 };
    // What an f16's infinities and NaN became counts as not finite, too.
    let infinity = if dtype == Dtype::F16 { 65_536_f32.to_bits() } else { INFINITY_BITS };

    let groups = weights.bytes().chunks_exact(GROUP * dtype.n_bytes());
    let parts = codes.chunks_exact_mut(codes_bytes).zip(scales.chunks_exact_mut(2 * E::SCALE_BYTES));
    let mut widened = [0; 4 * GROUP];
    let mut n_done = 0;
    for (group, (codes, scales)) in groups.zip(parts) {
        let values = match <&[u8; 4 * GROUP]>::try_from(group) {
            Ok(group) => group,
            Err(_) => {
                widen_group(simd, dtype, group, &mut widened);
                &widened
            }
        };
        let (first, second) = scales.split_at_mut(E::SCALE_BYTES);
        let Some(low) = E::encode(simd, load(simd, &values[..256]), infinity, first) else {
            return n_done;
        };
        let Some(high) = E::encode(simd, load(simd, &values[256..]), infinity, second) else {
            return n_done;
        };
        pack(E::LAYOUT, low, high, codes);
        n_done += GROUP;
    }
    n_done
}

#[inline(always)]
fn load<S: Simd>(simd: S, values: &[u8]) -> [f32x16<S>; 4] {
    [
        u8x64::from_slice(simd, &values[..64]).bitcast(),
        u8x64::from_slice(simd, &values[64..128]).bitcast(),
        u8x64::from_slice(simd, &values[128..192]).bitcast(),
        u8x64::from_slice(simd, &values[192..]).bitcast(),
    ]
}

/// Stores a group's codes.
#[inline(always)]
fn pack<S: Simd>(layout: Layout, low: [u32x16<S>; 4], high: [u32x16<S>; 4], out: &mut [u8]) {
    let ([a, b, c, d], [e, f, g, h]) = (low, high);
    match layout {
        Layout::EvenHigh => {
            let (low, high): (u16x32<S>, u16x32<S>) = (bytes(a, b, c, d).bitcast(), bytes(e, f, g, h).bitcast());
            ((low << 4) | ((low >> 8) & 0xf)).narrow((high << 4) | ((high >> 8) & 0xf)).store_slice(out);
        }
        Layout::Halves => {
            bytes(a | (b << 4), c | (d << 4), e | (f << 4), g | (h << 4)).store_slice(out);
        }
        Layout::Bytes => {
            bytes(a, b, c, d).store_slice(&mut out[..64]);
            bytes(e, f, g, h).store_slice(&mut out[64..]);
        }
    }
}

/// The low bytes of four vectors' lanes.
#[inline(always)]
fn bytes<S: Simd>(a: u32x16<S>, b: u32x16<S>, c: u32x16<S>, d: u32x16<S>) -> u8x64<S> {
    a.narrow(b).narrow(c.narrow(d))
}

/// `x` rounded to the nearest integer, halves away from zero, for |x| < 2^22.
///
/// What is added before truncating is the `f32` below a half: with a half itself, 0.49999997 would round up to 1. Ties
/// still do, as the sum rounds to the integer.
#[inline(always)]
pub(super) fn round_half_away<S: Simd>(x: f32x16<S>) -> i32x16<S> {
    let half = f32x16::splat(x.token(), 0.499_999_97);
    (x + half.copysign(x)).to_int()
}
