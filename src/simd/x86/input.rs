//! Weights of each type: widened as they are loaded, and blocks' largest ones.

use fearless_simd::{f32x16, prelude::*, u8x32, u8x64, u16x16, u16x32, u32x8, u32x16};
use half::{bf16, f16};

use super::lanes::Lanes;

/// A type of weights, which widens to `f32` exactly.
pub(in crate::simd) trait Input {
    /// Bytes of a weight.
    const BYTES: usize;

    /// 16 weights, widened.
    fn load<S: Lanes>(simd: S, weights: &[u8]) -> f32x16<S>;

    /// The largest bits that 32 or 64 weights have once they are widened, somewhere in eight lanes. Of the bits those of
    /// `MASK` count, which has the magnitude's, and those of `FLIP` are flipped, which may be the sign.
    fn lane_maxima<S: Lanes, const MASK: u32, const FLIP: u32>(simd: S, block: &[u8]) -> u32x8<S>;
}

impl Input for f32 {
    const BYTES: usize = 4;

    #[inline(always)]
    fn load<S: Lanes>(simd: S, weights: &[u8]) -> f32x16<S> {
        u8x64::from_slice(simd, weights).bitcast()
    }

    #[inline(always)]
    fn lane_maxima<S: Lanes, const MASK: u32, const FLIP: u32>(simd: S, block: &[u8]) -> u32x8<S> {
        let mut max = max_of_2::<S, MASK, FLIP>(simd, &block[..128]);
        if block.len() > 128 {
            max = max.max(max_of_2::<S, MASK, FLIP>(simd, &block[128..]));
        }
        let (low, high) = max.split();
        low.max(high)
    }
}

/// The larger lanes of 32 numbers.
#[inline(always)]
fn max_of_2<S: Lanes, const MASK: u32, const FLIP: u32>(simd: S, weights: &[u8]) -> u32x16<S> {
    let a: u32x16<S> = u8x64::from_slice(simd, &weights[..64]).bitcast();
    let b: u32x16<S> = u8x64::from_slice(simd, &weights[64..]).bitcast();
    ((a & MASK) ^ FLIP).max((b & MASK) ^ FLIP)
}

impl Input for bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn load<S: Lanes>(simd: S, weights: &[u8]) -> f32x16<S> {
        simd.widen_bf16(u8x32::from_slice(simd, weights))
    }

    #[inline(always)]
    fn lane_maxima<S: Lanes, const MASK: u32, const FLIP: u32>(simd: S, block: &[u8]) -> u32x8<S> {
        let words: u32x8<S> = word_maxima::<S, MASK, FLIP>(simd, block).bitcast();
        (words << 16).max(words & 0xffff_0000)
    }
}

impl Input for f16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn load<S: Lanes>(simd: S, weights: &[u8]) -> f32x16<S> {
        simd.widen_f16(u8x32::from_slice(simd, weights))
    }

    #[inline(always)]
    fn lane_maxima<S: Lanes, const MASK: u32, const FLIP: u32>(simd: S, block: &[u8]) -> u32x8<S> {
        // Widening keeps the order of bits.
        let widened = simd.widen_f16(word_maxima::<S, MASK, FLIP>(simd, block).bitcast());
        let (low, high) = widened.bitcast::<u32x16<S>>().split();
        low.max(high)
    }
}

/// [`Input::lane_maxima`] of 16 bits.
#[inline(always)]
fn word_maxima<S: Lanes, const MASK: u32, const FLIP: u32>(simd: S, block: &[u8]) -> u16x16<S> {
    let [.., mask_low, mask_high] = MASK.to_le_bytes();
    let [.., flip_low, flip_high] = FLIP.to_le_bytes();
    let (mask, flip) = (u16::from_le_bytes([mask_low, mask_high]), u16::from_le_bytes([flip_low, flip_high]));
    let mut max = (u8x64::from_slice(simd, &block[..64]).bitcast::<u16x32<S>>() & mask) ^ flip;
    if block.len() > 64 {
        max = max.max((u8x64::from_slice(simd, &block[64..]).bitcast::<u16x32<S>>() & mask) ^ flip);
    }
    let (low, high) = max.split();
    low.max(high)
}

/// 32 weights, widened.
#[inline(always)]
pub(super) fn load2<S: Lanes, I: Input>(simd: S, weights: &[u8]) -> [f32x16<S>; 2] {
    let (low, high) = weights.split_at(16 * I::BYTES);
    [I::load(simd, low), I::load(simd, high)]
}

/// All bits of a number but its sign; see [`Input::lane_maxima`].
pub(super) const MAGNITUDE: u32 = 0x7fff_ffff;

/// What decides the scales of eight blocks: the largest magnitudes of each, somewhere in eight lanes. Where signs count, too, the
/// largest bits, which negative numbers have, and the largest with the sign flipped.
pub(super) type Maxima<S> = [[u32x8<S>; 2]; 8];

/// The largest lane of each block, of either kind.
#[inline(always)]
pub(super) fn largest<S: Lanes>(simd: S, [a, b, c, d, e, f, g, h]: &Maxima<S>, kind: usize) -> u32x8<S> {
    simd.largest([a[kind], b[kind], c[kind], d[kind], e[kind], f[kind], g[kind], h[kind]])
}
