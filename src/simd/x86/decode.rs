//! Codes to `f32`.

use std::arch::x86_64::{
    _mm_cvtsi64_si128, _mm256_blendv_ps, _mm256_castsi256_ps, _mm256_cvtepi8_epi32, _mm256_cvtepu8_epi32,
    _mm256_permutevar8x32_ps, _mm256_setr_epi32, _mm256_slli_epi32, _mm256_srlv_epi32,
};

use fearless_simd::{Avx2, f32x8, i32x8, kernel, prelude::*, u8x32, u32x8};

use super::super::decode::{Decode4, Decode8, Store, ordinary};
use super::memory::{AHEAD, prefetch};
use crate::dtype::Dtype;
use crate::simd::Layout;

type F32x8 = f32x8<Avx2>;
type I32x8 = i32x8<Avx2>;
type U8x32 = u8x32<Avx2>;
type U32x8 = u32x8<Avx2>;

kernel!(
    /// Looks up values in two tables of eight. Of an index the low four bits count.
    #[inline(always)]
    fn look_up(avx2: Avx2, low: F32x8, high: F32x8, index: U32x8) -> F32x8 {
        // Permuting takes the low three bits; the fourth becomes the sign, which is what blending takes.
        let index = index.into();
        let (low, high) = (_mm256_permutevar8x32_ps(low.into(), index), _mm256_permutevar8x32_ps(high.into(), index));
        _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index))).simd_into(avx2)
    }
);

kernel!(
    /// Moves each of eight codes to the low bits of a lane; the high nibble of a byte is the even one.
    #[inline(always)]
    fn spread_even_high(avx2: Avx2, codes: U32x8) -> U32x8 {
        _mm256_srlv_epi32(codes.into(), _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24)).simd_into(avx2)
    }
);

kernel!(
    /// A byte a lane.
    #[inline(always)]
    fn spread_bytes(avx2: Avx2, bytes: u64) -> U32x8 {
        _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes.cast_signed())).simd_into(avx2)
    }
);

kernel!(
    /// A byte with a sign a lane.
    #[inline(always)]
    fn spread_signed_bytes(avx2: Avx2, bytes: u64) -> I32x8 {
        _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(bytes.cast_signed())).simd_into(avx2)
    }
);

/// [`Twin::dequantize`](crate::simd::Twin::dequantize) to `f32` of a format with 4-bit codes: each block's 16 values are
/// computed once and looked up.
#[inline(always)]
pub(in crate::simd) fn dequantize4<'a, D: Decode4>(
    avx2: Avx2,
    all_codes: &[u8],
    scales: &[u8],
    out: &'a mut [u8],
    to: &impl Store<'a>,
) -> usize {
    let (low, high) = (F32x8::from_slice(avx2, &D::VALUES[..8]), F32x8::from_slice(avx2, &D::VALUES[8..]));
    let largest = D::VALUES.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    let n = if D::LAYOUT == Layout::EvenHigh { 64 } else { 32 };

    let parts = all_codes.chunks_exact(n / 2).zip(scales.chunks_exact(D::SCALE_BYTES));
    let mut n_done = 0;
    for (out, (codes, scale)) in out.chunks_exact_mut(4 * n).zip(parts) {
        let Some(scale) = ordinary(D::scale(scale), largest, Dtype::F32) else {
            return n_done;
        };
        if (n_done / 2).is_multiple_of(64) {
            prefetch(all_codes, n_done / 2 + AHEAD);
        }
        let (low, high) = (low * scale, high * scale);
        if D::LAYOUT == Layout::EvenHigh {
            if let Some(invalid) = D::INVALID {
                let codes = U8x32::from_slice(avx2, codes);
                if ((codes & 0xf).simd_eq(invalid) | (codes & 0xf0).simd_eq(invalid << 4)).any_true() {
                    return n_done;
                }
            }
            for (codes, out) in codes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                let codes = U32x8::splat(avx2, u32::from_le_bytes(*codes));
                to.store_half(look_up(avx2, low, high, spread_even_high(avx2, codes)).bitcast(), out);
            }
        } else {
            let (first, second) = out.split_at_mut(2 * n);
            let halves = first.as_chunks_mut().0.iter_mut().zip(second.as_chunks_mut().0);
            for (codes, (first, second)) in codes.as_chunks().0.iter().zip(halves) {
                let codes = spread_bytes(avx2, u64::from_le_bytes(*codes));
                to.store_half(look_up(avx2, low, high, codes).bitcast(), first);
                to.store_half(look_up(avx2, low, high, codes >> 4).bitcast(), second);
            }
        }
        n_done += n;
    }
    n_done
}

/// [`Twin::dequantize`](crate::simd::Twin::dequantize) to `f32` of a format with 8-bit codes.
#[inline(always)]
pub(in crate::simd) fn dequantize8<'a, D: Decode8>(
    avx2: Avx2,
    all_codes: &[u8],
    scales: &[u8],
    out: &'a mut [u8],
    to: &impl Store<'a>,
) -> usize {
    let parts = all_codes.chunks_exact(D::BLOCK).zip(scales.chunks_exact(D::SCALE_BYTES));
    let mut n_done = 0;
    for (out, (codes, scale)) in out.chunks_exact_mut(4 * D::BLOCK).zip(parts) {
        let Some(scale) = ordinary(D::scale(scale), 128.0, Dtype::F32) else {
            return n_done;
        };
        if n_done.is_multiple_of(64) {
            prefetch(all_codes, n_done + AHEAD);
        }
        if let Some(invalid) = D::INVALID {
            for codes in codes.chunks_exact(32) {
                if U8x32::from_slice(avx2, codes).simd_eq(invalid).any_true() {
                    return n_done;
                }
            }
        }
        for (codes, out) in codes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
            let codes = spread_signed_bytes(avx2, u64::from_le_bytes(*codes));
            to.store_half((codes.to_float::<F32x8>() * scale).bitcast(), out);
        }
        n_done += D::BLOCK;
    }
    n_done
}
