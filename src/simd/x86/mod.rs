//! Eight blocks at a time, with AVX2 or AVX-512.
//!
//! Quantizing goes over a chunk of eight blocks twice. First their maxima are found and become scales, all in one vector: so
//! eight blocks share the divisions, and none waits for its own. Then codes are *guessed*: a weight times a rounded
//! reciprocal gives its code in fixed point, with 15 or 16 bits of fraction. Where a fraction lies so close to a boundary
//! that rounding could matter, the format's exact operations do the 32 weights again. So a guess never decides a byte.
//!
//! Maxima of the following chunk are found in between, block by block: memory then gives weights as evenly as codes are made,
//! and works all the time.

mod avx2;
mod avx512;
mod cells;
mod codebook;
pub(super) mod decode;
mod input;
mod lanes;
pub(super) mod memory;
mod mxfp4;
#[cfg(test)]
mod tests;
mod uniform;

use fearless_simd::{f32x8, f32x16, prelude::*, u8x32, u16x32, u32x8, u32x16};
use half::{bf16, f16};

use super::Layout;
use super::encode::{self, Encode};
use crate::dtype::{Dtype, Weights};
use input::{Input, MAGNITUDE, Maxima, load2};
use lanes::Lanes;
use memory::{AHEAD, PAGES_AHEAD, prefetch};

/// How eight blocks become codes.
pub(super) trait Chunk: Encode {
    /// Elements that share a scale: 32 or 64.
    const BLOCK: usize;

    /// Whether signs of [`Maxima`] count.
    const SIGNS_COUNT: bool = false;

    /// Stores the scales of a chunk of eight blocks, whose maxima are given. `None` where they are for [`Encode`]: where a
    /// maximum isn't finite, or not [ordinary](are_ordinary).
    fn scales<S: Lanes, I: Input>(simd: S, maxima: &Maxima<S>, chunk: &[u8], scales: &mut [u8]) -> Option<Factors<S>>;

    /// Guesses the codes of 32 weights. Gives them [woven](Lanes), and distances from boundaries, in any order, of which
    /// none is below [`DOUBTFUL`] where all codes are right. Of codes with 4 bits anything may stand above these in
    /// [`Layout::EvenHigh`].
    fn guess<S: Lanes>(simd: S, x: [f32x16<S>; 2], rough: f32) -> (u8x32<S>, u16x32<S>);

    /// The codes of 16 weights, in the low bytes of lanes.
    fn exact<S: Lanes>(simd: S, x: f32x16<S>, exact: f32) -> u32x16<S>;
}

/// What eight blocks' weights are multiplied by, or divided.
pub(super) struct Factors<S: Simd> {
    /// For [`Chunk::guess`].
    rough: f32x8<S>,
    /// For [`Chunk::exact`].
    exact: f32x8<S>,
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
pub(super) fn quantize<S: Lanes, E: Chunk>(
    simd: S,
    weights: Weights<'_>,
    codes: &mut [u8],
    scales: &mut [u8],
) -> usize {
    let code_bytes = |n: usize| if E::LAYOUT == Layout::Bytes { n } else { n / 2 };
    let mut n_done = 0;
    loop {
        let (codes, scales) = (&mut codes[code_bytes(n_done)..], &mut scales[n_done / 64 * E::SCALE_BYTES..]);
        let rest = weights.slice(n_done..weights.len());
        let n_chunks = chunks::<S, E>(simd, rest, codes, scales);
        n_done += n_chunks;
        let (codes, scales) = (&mut codes[code_bytes(n_chunks)..], &mut scales[n_chunks / 64 * E::SCALE_BYTES..]);
        // A chunk that isn't ordinary, or less than one.
        let groups = weights.slice(n_done..weights.len().min(n_done + 8 * E::BLOCK));
        let n_groups = encode::quantize::<_, E>(simd, groups, codes, scales);
        n_done += n_groups;
        if n_groups < 8 * E::BLOCK {
            return n_done;
        }
    }
}

/// Quantizes whole chunks, up to one that isn't ordinary. Gives the number of elements done.
#[inline(always)]
fn chunks<S: Lanes, E: Chunk>(simd: S, weights: Weights<'_>, codes: &mut [u8], scales: &mut [u8]) -> usize {
    match weights.dtype() {
        Dtype::F32 => chunks_of::<S, E, f32>(simd, weights.bytes(), codes, scales),
        Dtype::F16 => chunks_of::<S, E, f16>(simd, weights.bytes(), codes, scales),
        Dtype::BF16 => chunks_of::<S, E, bf16>(simd, weights.bytes(), codes, scales),
    }
}

#[inline(always)]
fn chunks_of<S: Lanes, E: Chunk, I: Input>(simd: S, all_weights: &[u8], codes: &mut [u8], scales: &mut [u8]) -> usize {
    let n = 8 * E::BLOCK;
    let code_bytes = if E::LAYOUT == Layout::Bytes { 64 } else { 32 };
    let Some(first) = all_weights.get(..n * I::BYTES) else {
        return 0;
    };
    let mut maxima = maxima::<S, E, I>(simd, first);
    let parts = codes.chunks_exact_mut(n / 64 * code_bytes).zip(scales.chunks_exact_mut(n / 64 * E::SCALE_BYTES));
    let mut n_done = 0;
    for (chunk, (codes, scales)) in all_weights.chunks_exact(n * I::BYTES).zip(parts) {
        let Some(factors) = E::scales::<S, I>(simd, &maxima, chunk, scales) else {
            return n_done;
        };
        let (rough, exact): ([f32; 8], [f32; 8]) = (factors.rough.into(), factors.exact.into());
        let factors = rough.chunks_exact(64 / E::BLOCK).zip(exact.chunks_exact(64 / E::BLOCK));
        let parts = chunk.chunks_exact(64 * I::BYTES).zip(codes.chunks_exact_mut(code_bytes));
        // The processor looks ahead only while it reads one line after another, and not beyond a page.
        let ahead = all_weights.get(n_done * I::BYTES + AHEAD..(n_done + n) * I::BYTES + AHEAD).unwrap_or(chunk);
        let ahead = ahead.chunks_exact(64 * I::BYTES);
        prefetch(all_weights, n_done * I::BYTES + PAGES_AHEAD);
        n_done += n;
        let following = all_weights.get(n_done * I::BYTES..(n_done + n) * I::BYTES).unwrap_or_default();
        let mut following = following.chunks_exact(64 * I::BYTES).zip(maxima.chunks_exact_mut(64 / E::BLOCK));
        for (((weights, out), (rough, exact)), ahead) in parts.zip(factors).zip(ahead) {
            for line in ahead.chunks_exact(64) {
                prefetch(line, 0);
            }
            if let Some((following, maxima)) = following.next() {
                set_maxima::<S, E, I>(simd, following, maxima);
            }
            let (low, high) = weights.split_at(32 * I::BYTES);
            let low = woven::<S, E, I>(simd, low, rough[0], exact[0]);
            let last = 64 / E::BLOCK - 1;
            let high = woven::<S, E, I>(simd, high, rough[last], exact[last]);
            store(simd, E::LAYOUT, low, high, out);
        }
    }
    n_done
}

/// What decides the scales of a chunk.
#[inline(always)]
fn maxima<S: Lanes, E: Chunk, I: Input>(simd: S, chunk: &[u8]) -> Maxima<S> {
    let mut maxima = [[u32x8::splat(simd, 0); 2]; 8];
    set_maxima::<S, E, I>(simd, chunk, &mut maxima);
    maxima
}

/// [`maxima`] of some blocks.
#[inline(always)]
fn set_maxima<S: Lanes, E: Chunk, I: Input>(simd: S, blocks: &[u8], maxima: &mut [[u32x8<S>; 2]]) {
    for (block, maxima) in blocks.chunks_exact(E::BLOCK * I::BYTES).zip(maxima) {
        if E::SIGNS_COUNT {
            maxima[0] = I::lane_maxima::<S, { u32::MAX }, 0>(simd, block);
            maxima[1] = I::lane_maxima::<S, { u32::MAX }, { 1 << 31 }>(simd, block);
        } else {
            maxima[0] = I::lane_maxima::<S, MAGNITUDE, 0>(simd, block);
        }
    }
}

/// The codes of 32 weights, woven.
#[inline(always)]
fn woven<S: Lanes, E: Chunk, I: Input>(simd: S, weights: &[u8], rough: f32, exact: f32) -> u8x32<S> {
    let (codes, distances) = E::guess(simd, load2::<S, I>(simd, weights), rough);
    if simd.are_all_from(distances, DOUBTFUL) { codes } else { exactly::<S, E, I>(simd, weights, exact) }
}

/// [`woven`] by the format's exact operations.
#[cold]
#[inline(never)]
fn exactly<S: Lanes, E: Chunk, I: Input>(simd: S, weights: &[u8], exact: f32) -> u8x32<S> {
    simd.vectorize(
        #[inline(always)]
        || {
            let [low, high] = load2::<S, I>(simd, weights);
            simd.low_bytes([E::exact(simd, low, exact), E::exact(simd, high, exact)])
        },
    )
}

/// Stores 64 woven codes.
#[inline(always)]
fn store<S: Lanes>(simd: S, layout: Layout, low: u8x32<S>, high: u8x32<S>, out: &mut [u8]) {
    match layout {
        Layout::EvenHigh => simd.even_high(low & 0xf, high & 0xf).store_slice(out),
        Layout::Halves => simd.halves(low, high).store_slice(out),
        Layout::Bytes => {
            simd.in_order(low).store_slice(&mut out[..32]);
            simd.in_order(high).store_slice(&mut out[32..]);
        }
    }
}

/// Whether all of these magnitudes are 0, or at least [`SMALLEST`] and less than `limit`; all given as bits.
#[inline(always)]
fn are_ordinary<S: Simd>(magnitudes: u32x8<S>, limit: u32) -> bool {
    ((magnitudes - SMALLEST).simd_lt(limit - SMALLEST) | magnitudes.simd_eq(0)).all_true()
}

/// `numerator` / `magnitudes`, rounded, or 0 where these are 0.
#[inline(always)]
fn reciprocals<S: Simd>(simd: S, numerator: f32, magnitudes: u32x8<S>) -> f32x8<S> {
    let quotients = f32x8::splat(simd, numerator) / magnitudes.bitcast::<f32x8<S>>();
    magnitudes.simd_eq(0).select(f32x8::splat(simd, 0.0), quotients)
}
