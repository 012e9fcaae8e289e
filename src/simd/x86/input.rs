//! Weights of each type: widened as they are loaded, and blocks' largest ones.

use fearless_simd::prelude::*;
use half::{bf16, f16};

use super::{F32x8, Token, U8x16, U8x32, U16x16, U32x8, lanes};

/// A type of weights, which widens to `f32` exactly.
pub(in crate::simd) trait Input {
    /// Bytes of a weight.
    const BYTES: usize;

    /// Eight weights, widened.
    fn load(avx2: Token, weights: &[u8]) -> F32x8;

    /// The largest bits that weights of a block have once they are widened, somewhere in eight lanes. Of the bits those of
    /// `MASK` count, which has the magnitude's, and those of `FLIP` are flipped, which may be the sign.
    fn lane_maxima<const MASK: u32, const FLIP: u32>(avx2: Token, block: &[u8]) -> U32x8;
}

impl Input for f32 {
    const BYTES: usize = 4;

    #[inline(always)]
    fn load(avx2: Token, weights: &[u8]) -> F32x8 {
        U8x32::from_slice(avx2, weights).bitcast()
    }

    #[inline(always)]
    fn lane_maxima<const MASK: u32, const FLIP: u32>(avx2: Token, block: &[u8]) -> U32x8 {
        let [a, b, c, d] = load4::<Self>(avx2, &block[..128]);
        let low = max_of_4::<MASK, FLIP>([a.bitcast(), b.bitcast(), c.bitcast(), d.bitcast()]);
        if block.len() == 128 {
            return low;
        }
        let [a, b, c, d] = load4::<Self>(avx2, &block[128..]);
        low.max(max_of_4::<MASK, FLIP>([a.bitcast(), b.bitcast(), c.bitcast(), d.bitcast()]))
    }
}

#[inline(always)]
fn max_of_4<const MASK: u32, const FLIP: u32>([a, b, c, d]: [U32x8; 4]) -> U32x8 {
    let low = ((a & MASK) ^ FLIP).max((b & MASK) ^ FLIP);
    low.max(((c & MASK) ^ FLIP).max((d & MASK) ^ FLIP))
}

impl Input for bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn load(avx2: Token, weights: &[u8]) -> F32x8 {
        lanes::from_bf16(avx2, U8x16::from_slice(avx2, weights))
    }

    #[inline(always)]
    fn lane_maxima<const MASK: u32, const FLIP: u32>(avx2: Token, block: &[u8]) -> U32x8 {
        let words: U32x8 = word_maxima::<MASK, FLIP>(avx2, block).bitcast();
        (words << 16).max(words & 0xffff_0000)
    }
}

impl Input for f16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn load(avx2: Token, weights: &[u8]) -> F32x8 {
        lanes::from_halves(avx2, U8x16::from_slice(avx2, weights))
    }

    #[inline(always)]
    fn lane_maxima<const MASK: u32, const FLIP: u32>(avx2: Token, block: &[u8]) -> U32x8 {
        // Widening keeps the order of bits.
        let (low, high) = word_maxima::<MASK, FLIP>(avx2, block).bitcast::<U8x32>().split();
        let (low, high) = (lanes::from_halves(avx2, low), lanes::from_halves(avx2, high));
        low.bitcast::<U32x8>().max(high.bitcast::<U32x8>())
    }
}

/// [`Input::lane_maxima`] of 16 bits.
#[inline(always)]
fn word_maxima<const MASK: u32, const FLIP: u32>(avx2: Token, block: &[u8]) -> U16x16 {
    let low = max_of_2::<MASK, FLIP>(avx2, &block[..64]);
    if block.len() == 64 { low } else { low.max(max_of_2::<MASK, FLIP>(avx2, &block[64..])) }
}

#[inline(always)]
fn max_of_2<const MASK: u32, const FLIP: u32>(avx2: Token, weights: &[u8]) -> U16x16 {
    let [.., mask_low, mask_high] = MASK.to_le_bytes();
    let [.., flip_low, flip_high] = FLIP.to_le_bytes();
    let (mask, flip) = (u16::from_le_bytes([mask_low, mask_high]), u16::from_le_bytes([flip_low, flip_high]));
    let a: U16x16 = U8x32::from_slice(avx2, &weights[..32]).bitcast();
    let b: U16x16 = U8x32::from_slice(avx2, &weights[32..]).bitcast();
    ((a & mask) ^ flip).max((b & mask) ^ flip)
}

/// 32 weights, widened.
#[inline(always)]
pub(super) fn load4<I: Input>(avx2: Token, weights: &[u8]) -> [F32x8; 4] {
    let n = 8 * I::BYTES;
    [
        I::load(avx2, &weights[..n]),
        I::load(avx2, &weights[n..2 * n]),
        I::load(avx2, &weights[2 * n..3 * n]),
        I::load(avx2, &weights[3 * n..4 * n]),
    ]
}

/// All bits of a number but its sign; see [`Input::lane_maxima`].
pub(super) const MAGNITUDE: u32 = 0x7fff_ffff;

/// The largest lane of each of eight vectors.
#[inline(always)]
pub(super) fn largest(avx2: Token, [a, b, c, d, e, f, g, h]: [U32x8; 8]) -> U32x8 {
    lanes::max_of_halves(avx2, largest_of_halves(avx2, [a, b, c, d]), largest_of_halves(avx2, [e, f, g, h]))
}

/// Those of each half of four vectors.
#[inline(always)]
fn largest_of_halves(avx2: Token, [a, b, c, d]: [U32x8; 4]) -> U32x8 {
    lanes::max_of_neighbours(avx2, lanes::max_of_neighbours(avx2, a, b), lanes::max_of_neighbours(avx2, c, d))
}
