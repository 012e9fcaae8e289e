//! The reference's fast twin: the same bytes, a group of blocks at a time, in SIMD registers.
//!
//! A format's twin takes only what is ordinary: whole groups of finite weights. It stops before a group that isn't, and the
//! caller has the reference do that one. So errors, short tails and rare values are the reference's own.
//!
//! Each function is written once, on vectors of 16 lanes, and compiled for every instruction set; `fearless_simd` picks
//! one at run time. Operations are IEEE 754's, each rounded once, so all of them give the same bits. With AVX2 or AVX-512
//! most blocks are done by `x86`, eight at a time.
//!
//! Every function is `inline(always)`, and none has a closure or calls one of the standard library's helpers that take one:
//! what is not inlined is compiled without the instructions it was meant for. The hot parts are straight lines of code, so that
//! vectors stay in registers.

mod codebook;
mod decode;
mod encode;
mod figures;
mod gguf;
mod mxfp4;
mod symmetric;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use fearless_simd::{Level, f32x16, prelude::*, u8x64, u16x32, u32x16};

use crate::dtype::{Dtype, Weights};

pub(crate) use codebook::{FP4, NF4};
pub(crate) use figures::figures;
pub(crate) use gguf::{Q4_0, Q8_0};
pub(crate) use mxfp4::MXFP4;
pub(crate) use symmetric::{SYM4, SYM8};

/// Calls a function of an instruction set's token, compiled for that set; gives 0, no elements done, where there is none
/// that is worth it.
macro_rules! dispatch {
    ($level:expr, $simd:ident => $call:expr) => {
        match $level {
            #[cfg(target_arch = "x86_64")]
            fearless_simd::Level::Avx512($simd) => $simd.vectorize(
                #[inline(always)]
                || $call,
            ),
            #[cfg(target_arch = "x86_64")]
            fearless_simd::Level::Avx2($simd) => $simd.vectorize(
                #[inline(always)]
                || $call,
            ),
            #[cfg(target_arch = "aarch64")]
            fearless_simd::Level::Neon($simd) => $simd.vectorize(
                #[inline(always)]
                || $call,
            ),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            fearless_simd::Level::WasmSimd128($simd) => $simd.vectorize(
                #[inline(always)]
                || $call,
            ),
            // Only to be type-checked.
            #[cfg(all(target_arch = "wasm32", not(target_feature = "simd128")))]
            fearless_simd::Level::Fallback($simd) => {
                let _ = || $call;
                0
            }
            _ => 0,
        }
    };
}
use dispatch;

/// [`Twin::quantize`] of a format: on x86-64 by chunks of eight blocks, which takes AVX2 or AVX-512, else by groups.
macro_rules! quantize {
    ($format:ty) => {
        |level, weights, codes, scales| {
            #[cfg(target_arch = "x86_64")]
            return match level {
                fearless_simd::Level::Avx512(avx512) => avx512.vectorize(
                    #[inline(always)]
                    || crate::simd::x86::quantize::<_, $format>(avx512, weights, codes, scales),
                ),
                fearless_simd::Level::Avx2(avx2) => avx2.vectorize(
                    #[inline(always)]
                    || crate::simd::x86::quantize::<_, $format>(avx2, weights, codes, scales),
                ),
                _ => 0,
            };
            #[cfg(not(target_arch = "x86_64"))]
            crate::simd::dispatch!(level, simd => crate::simd::encode::quantize::<_, $format>(simd, weights, codes, scales))
        }
    };
}
use quantize;

/// [`Twin::dequantize`] of a format, by a function for each instruction set and one for AVX2 and `f32`.
macro_rules! dequantize {
    ($function:ident, $format:ty) => {
        |level, codes, scales, dtype, stores, out| {
            #[cfg(target_arch = "x86_64")]
            if stores == crate::simd::Stores::PastCaches {
                let to = crate::simd::x86::memory::PastCaches::new();
                return crate::simd::dequantize!($function, $format, level, codes, scales, dtype, out, &to);
            }
            let _ = stores;
            crate::simd::dequantize!($function, $format, level, codes, scales, dtype, out, &crate::simd::decode::Cached)
        }
    };
    ($function:ident, $format:ty, $level:ident, $codes:ident, $scales:ident, $dtype:ident, $out:ident, $to:expr) => {
        {
            #[cfg(target_arch = "x86_64")]
            if let (Some(avx2), $crate::Dtype::F32) = ($level.as_avx2(), $dtype) {
                return avx2.vectorize(
                    #[inline(always)]
                    || crate::simd::x86::decode::$function::<$format>(avx2, $codes, $scales, $out, $to),
                );
            }
            crate::simd::dispatch!($level, simd => crate::simd::decode::$function::<_, $format>(
                simd, $codes, $scales, $dtype, $out, $to
            ))
        }
    };
}
use dequantize;

/// Lanes of the vectors that everything is written in.
const LANES: usize = 16;

/// Elements that are done at a time: the fewest that give whole vectors of 4-bit codes.
pub(crate) const GROUP: usize = 128;

/// See [`Twin::dequantize`].
type Dequantize = fn(Level, &[u8], &[u8], Dtype, Stores, &mut [u8]) -> usize;

/// How values are stored, where there is a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stores {
    /// Into the caches: something will read them soon.
    Cached,
    /// Past the caches, which couldn't hold them all.
    PastCaches,
}

/// A format's fast twin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Twin {
    /// Quantizes groups from the first on, up to one that isn't ordinary, into codes and scales. Gives the number of
    /// elements done.
    pub(crate) quantize: fn(Level, Weights<'_>, &mut [u8], &mut [u8]) -> usize,
    /// Dequantizes groups from the first on, up to one that isn't ordinary. Gives the number of elements done.
    pub(crate) dequantize: Dequantize,
}

/// Where a block's codes stand in its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Two codes a byte, the even element in the high nibble.
    EvenHigh,
    /// Two codes a byte: element j in the low nibble, element j + 16 in the high one.
    Halves,
    /// One code a byte.
    Bytes,
}

/// Bits of the smallest infinity.
const INFINITY_BITS: u32 = 0x7f80_0000;

/// Widens a group of 16-bit weights. Infinities and NaN of an `f16` become magnitudes from 65536 on, which no finite one
/// reaches.
#[inline(always)]
fn widen_group<S: Simd>(simd: S, dtype: Dtype, group: &[u8], out: &mut [u8; 4 * GROUP]) {
    for (bytes, out) in group.chunks_exact(64).zip(out.chunks_exact_mut(128)) {
        let (low, high) = u8x64::from_slice(simd, bytes).bitcast::<u16x32<S>>().widen();
        let (low, high): (f32x16<S>, f32x16<S>) = if dtype == Dtype::F16 {
            (widen_f16(low), widen_f16(high))
        } else {
            ((low << 16).bitcast(), (high << 16).bitcast())
        };
        low.bitcast::<u8x64<S>>().store_slice(&mut out[..64]);
        high.bitcast::<u8x64<S>>().store_slice(&mut out[64..]);
    }
}

#[inline(always)]
fn widen_f16<S: Simd>(bits: u32x16<S>) -> f32x16<S> {
    // Exponents differ by 112; multiplying makes normal numbers of subnormal ones, exactly.
    let magnitude = ((bits & 0x7fff) << 13).bitcast::<f32x16<S>>() * f32::from_bits((127 + 112) << 23);
    (magnitude.bitcast::<u32x16<S>>() | ((bits & 0x8000) << 16)).bitcast()
}

/// The bits of |x|, which order as |x| does.
#[inline(always)]
fn magnitude_bits<S: Simd>(x: f32x16<S>) -> u32x16<S> {
    x.bitcast::<u32x16<S>>() & 0x7fff_ffff
}

/// The largest |x| of two vectors; `None` where it reaches `infinity`, given as bits.
#[inline(always)]
fn absmax2<S: Simd>(a: f32x16<S>, b: f32x16<S>, infinity: u32) -> Option<f32> {
    let max = magnitude_bits(a).max(magnitude_bits(b)).reduce_max();
    (max < infinity).then_some(f32::from_bits(max))
}

/// [`absmax2`] of four.
#[inline(always)]
fn absmax4<S: Simd>(x: [f32x16<S>; 4], infinity: u32) -> Option<f32> {
    let low = magnitude_bits(x[0]).max(magnitude_bits(x[1]));
    let max = low.max(magnitude_bits(x[2]).max(magnitude_bits(x[3]))).reduce_max();
    (max < infinity).then_some(f32::from_bits(max))
}
