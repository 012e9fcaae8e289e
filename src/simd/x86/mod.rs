//! Eight blocks at a time, with AVX2. Machines with AVX-512 run it, too: in vectors twice as long, block by block, most
//! formats took longer (`docs/benchmarks.md`).
//!
//! Quantizing goes over a chunk of eight blocks twice. First their maxima are found and become scales, all in one vector: so
//! eight blocks share the divisions, and none waits for its own. Then codes are *guessed*: a weight times a rounded
//! reciprocal gives its code in fixed point, with 15 or 16 bits of fraction. Where a fraction lies so close to a boundary
//! that rounding could matter, the format's exact operations do the 32 weights again. So a guess never decides a byte.
//!
//! Maxima of the following chunk are found in between, block by block: memory then gives weights as evenly as codes are made,
//! and works all the time.

mod codebook;
pub(super) mod decode;
mod input;
mod lanes;
pub(super) mod memory;
mod mxfp4;
#[cfg(test)]
mod tests;
mod uniform;

use fearless_simd::{Avx2 as Token, f32x8, f32x16, prelude::*, u8x16, u8x32, u16x16, u32x8, u32x16};
use half::{bf16, f16};

use super::Layout;
use super::encode::{self, Encode};
use crate::dtype::{Dtype, Weights};
use input::{Input, load4};
use memory::{AHEAD, PAGES_AHEAD, prefetch};

type F32x8 = f32x8<Token>;
type U8x16 = u8x16<Token>;
type U8x32 = u8x32<Token>;
type U16x16 = u16x16<Token>;
type U32x8 = u32x8<Token>;

/// How eight blocks become codes.
pub(super) trait Chunk: Encode {
    /// Elements that share a scale: 32 or 64.
    const BLOCK: usize;

    /// What of a block decides its scale.
    type Maxima: Copy;

    /// Those of a block's weights.
    fn maxima<I: Input>(avx2: Token, block: &[u8]) -> Self::Maxima;

    /// Stores the scales of a chunk of eight blocks, whose maxima are given. `None` where they are for [`Encode`]: where a
    /// maximum isn't finite, or not [ordinary](are_ordinary).
    fn scales<I: Input>(
        avx2: Token,
        maxima: &[Self::Maxima; 8],
        chunk: &[u8],
        scales: &mut [u8],
    ) -> Option<Factors>;

    /// Guesses the codes of 32 weights. Gives them [woven](lanes), one a byte, and distances from boundaries, of which
    /// none is below [`DOUBTFUL`] where all codes are right.
    fn guess(avx2: Token, x: [F32x8; 4], rough: f32) -> (U8x32, U16x16);

    /// The codes of 16 weights, in the low bytes of lanes.
    fn exact(avx2: Token, x: f32x16<Token>, exact: f32) -> u32x16<Token>;
}

/// What eight blocks' weights are multiplied by, or divided.
pub(super) struct Factors {
    /// For [`Chunk::guess`].
    rough: F32x8,
    /// For [`Chunk::exact`].
    exact: F32x8,
}

/// From here on distances from a boundary are certain. They are in 65,536ths, and boundaries are at 2 (for 8 bits at 3). A
/// guess is rounded to one of them (for 8 bits to two) once; its reciprocal, and what the format itself rounds, move it by less
/// than 3 · 2^-24 of the largest, which is 1/6 of one (for 8 bits 3/4 of two).
const DOUBTFUL: u16 = 5;

/// Magnitudes from which on reciprocals, and scales, are ordinary numbers, and up to which; as bits.
const SMALLEST: u32 = (127 - 100) << 23;
const LARGEST: u32 = (127 + 100) << 23;

/// [`Twin::quantize`](super::Twin::quantize) of a format.
#[inline(always)]
pub(super) fn quantize<E: Chunk>(avx2: Token, weights: Weights<'_>, codes: &mut [u8], scales: &mut [u8]) -> usize {
    let code_bytes = |n: usize| if E::LAYOUT == Layout::Bytes { n } else { n / 2 };
    let mut n_done = 0;
    loop {
        let (codes, scales) = (&mut codes[code_bytes(n_done)..], &mut scales[n_done / 64 * E::SCALE_BYTES..]);
        let rest = weights.slice(n_done..weights.len());
        let n_chunks = chunks::<E>(avx2, rest, codes, scales);
        n_done += n_chunks;
        let (codes, scales) = (&mut codes[code_bytes(n_chunks)..], &mut scales[n_chunks / 64 * E::SCALE_BYTES..]);
        // A chunk that isn't ordinary, or less than one.
        let groups = weights.slice(n_done..weights.len().min(n_done + 8 * E::BLOCK));
        let n_groups = encode::quantize::<_, E>(avx2, groups, codes, scales);
        n_done += n_groups;
        if n_groups < 8 * E::BLOCK {
            return n_done;
        }
    }
}

/// Quantizes whole chunks, up to one that isn't ordinary. Gives the number of elements done.
#[inline(always)]
fn chunks<E: Chunk>(avx2: Token, weights: Weights<'_>, codes: &mut [u8], scales: &mut [u8]) -> usize {
    match weights.dtype() {
        Dtype::F32 => chunks_of::<E, f32>(avx2, weights.bytes(), codes, scales),
        Dtype::F16 => chunks_of::<E, f16>(avx2, weights.bytes(), codes, scales),
        Dtype::BF16 => chunks_of::<E, bf16>(avx2, weights.bytes(), codes, scales),
    }
}

#[inline(always)]
fn chunks_of<E: Chunk, I: Input>(avx2: Token, weights: &[u8], codes: &mut [u8], scales: &mut [u8]) -> usize {
    let n = 8 * E::BLOCK;
    let code_bytes = if E::LAYOUT == Layout::Bytes { 64 } else { 32 };
    let Some(first) = weights.get(..n * I::BYTES) else {
        return 0;
    };
    let mut maxima = all_maxima::<E, I>(avx2, first);
    let parts = codes.chunks_exact_mut(n / 64 * code_bytes).zip(scales.chunks_exact_mut(n / 64 * E::SCALE_BYTES));
    let mut n_done = 0;
    for (chunk, (codes, scales)) in weights.chunks_exact(n * I::BYTES).zip(parts) {
        let Some(factors) = E::scales::<I>(avx2, &maxima, chunk, scales) else {
            return n_done;
        };
        let (rough, exact): ([f32; 8], [f32; 8]) = (factors.rough.into(), factors.exact.into());
        let factors = rough.chunks_exact(64 / E::BLOCK).zip(exact.chunks_exact(64 / E::BLOCK));
        let parts = chunk.chunks_exact(64 * I::BYTES).zip(codes.chunks_exact_mut(code_bytes));
        // The processor looks ahead only while it reads one line after another, and not beyond a page.
        let ahead = weights.get(n_done * I::BYTES + AHEAD..(n_done + n) * I::BYTES + AHEAD).unwrap_or(chunk);
        let ahead = ahead.chunks_exact(64 * I::BYTES);
        prefetch(weights.get(n_done * I::BYTES + PAGES_AHEAD..).unwrap_or(chunk));
        n_done += n;
        let following = weights.get(n_done * I::BYTES..(n_done + n) * I::BYTES).unwrap_or_default();
        let mut following = following.chunks_exact(64 * I::BYTES).zip(maxima.chunks_exact_mut(64 / E::BLOCK));
        for (((weights, out), (rough, exact)), ahead) in parts.zip(factors).zip(ahead) {
            ahead.chunks_exact(64).for_each(prefetch);
            if let Some((following, maxima)) = following.next() {
                for (block, maxima) in following.chunks_exact(E::BLOCK * I::BYTES).zip(maxima) {
                    *maxima = E::maxima::<I>(avx2, block);
                }
            }
            let (low, high) = weights.split_at(32 * I::BYTES);
            let low = woven::<E, I>(avx2, low, rough[0], exact[0]);
            let last = 64 / E::BLOCK - 1;
            let high = woven::<E, I>(avx2, high, rough[last], exact[last]);
            store(avx2, E::LAYOUT, low, high, out);
        }
    }
    n_done
}

/// The maxima of a chunk's eight blocks.
#[inline(always)]
fn all_maxima<E: Chunk, I: Input>(avx2: Token, chunk: &[u8]) -> [E::Maxima; 8] {
    let n = E::BLOCK * I::BYTES;
    let mut maxima = [E::maxima::<I>(avx2, &chunk[..n]); 8];
    for (block, maxima) in chunk.chunks_exact(n).zip(&mut maxima) {
        *maxima = E::maxima::<I>(avx2, block);
    }
    maxima
}

/// The codes of 32 weights, woven.
#[inline(always)]
fn woven<E: Chunk, I: Input>(avx2: Token, weights: &[u8], rough: f32, exact: f32) -> U8x32 {
    let (codes, distances) = E::guess(avx2, load4::<I>(avx2, weights), rough);
    if distances.simd_ge(DOUBTFUL).all_true() { codes } else { exactly::<E, I>(avx2, weights, exact) }
}

/// [`woven`] by the format's exact operations.
#[cold]
#[inline(never)]
fn exactly<E: Chunk, I: Input>(avx2: Token, weights: &[u8], exact: f32) -> U8x32 {
    avx2.vectorize(
        #[inline(always)]
        || {
            let [a, b, c, d] = load4::<I>(avx2, weights);
            let ((a, b), (c, d)) =
                (E::exact(avx2, a.combine(b), exact).split(), E::exact(avx2, c.combine(d), exact).split());
            lanes::weave_low_bytes(avx2, [a, b, c, d])
        },
    )
}

/// Stores 64 woven codes.
#[inline(always)]
fn store(avx2: Token, layout: Layout, low: U8x32, high: U8x32, out: &mut [u8]) {
    match layout {
        Layout::EvenHigh => lanes::even_high(avx2, low & 0xf, high & 0xf).store_slice(out),
        Layout::Halves => lanes::halves(avx2, low, high).store_slice(out),
        Layout::Bytes => {
            lanes::in_order(avx2, low).store_slice(&mut out[..32]);
            lanes::in_order(avx2, high).store_slice(&mut out[32..]);
        }
    }
}

/// Whether all of these magnitudes are 0, or at least [`SMALLEST`] and less than `limit`; all given as bits.
#[inline(always)]
fn are_ordinary(magnitudes: U32x8, limit: u32) -> bool {
    ((magnitudes - SMALLEST).simd_lt(limit - SMALLEST) | magnitudes.simd_eq(0)).all_true()
}

/// `numerator` / `magnitudes`, rounded, or 0 where these are 0.
#[inline(always)]
fn reciprocals(avx2: Token, numerator: f32, magnitudes: U32x8) -> F32x8 {
    let quotients = F32x8::splat(avx2, numerator) / magnitudes.bitcast::<F32x8>();
    magnitudes.simd_eq(0).select(F32x8::splat(avx2, 0.0), quotients)
}
