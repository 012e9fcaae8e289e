//! Bytes of several vectors' lanes put in order, and the other instructions that `fearless_simd` has no portable name
//! for. Its macro makes them safe to call.
//!
//! A shuffle across 128 bits is slow, so the codes of four vectors become bytes where they are: byte `4i` of 32 is lane `i`
//! of the first vector, then the third's, the second's and the fourth's. That order is called *woven* here.

use std::arch::x86_64::{
    _MM_FROUND_TO_NEAREST_INT, _mm256_blend_epi16, _mm256_blendv_epi8, _mm256_castps_si256, _mm256_castsi256_ps,
    _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_cvtps_ph, _mm256_maddubs_epi16, _mm256_packus_epi16,
    _mm256_permute2x128_si256, _mm256_permute4x64_epi64, _mm256_permutevar8x32_epi32, _mm256_set1_epi16,
    _mm256_setr_epi32, _mm256_shuffle_ps, _mm256_slli_epi16, _mm256_slli_epi32, _mm256_srli_epi16, _mm256_srli_epi32,
};

use fearless_simd::{kernel, prelude::*};

use super::{F32x8, Token, U8x16, U8x32, U16x16, U32x8};

kernel!(
    /// The upper halves of two vectors' lanes, taking turns.
    #[inline(always)]
    pub(super) fn upper_words(avx2: Avx2, a: U32x8, b: U32x8) -> U16x16 {
        _mm256_blend_epi16::<0xaa>(_mm256_srli_epi32::<16>(a.into()), b.into()).simd_into(avx2)
    }
);

kernel!(
    /// The lower halves of two vectors' lanes, taking turns.
    #[inline(always)]
    pub(super) fn lower_words(avx2: Avx2, a: U32x8, b: U32x8) -> U16x16 {
        _mm256_blend_epi16::<0xaa>(a.into(), _mm256_slli_epi32::<16>(b.into())).simd_into(avx2)
    }
);

kernel!(
    /// The lower halves of two vectors' words, taking turns.
    #[inline(always)]
    pub(super) fn lower_bytes(avx2: Avx2, a: U16x16, b: U16x16) -> U8x32 {
        let lower = _mm256_set1_epi16(0xff);
        _mm256_blendv_epi8(_mm256_slli_epi16::<8>(b.into()), a.into(), lower).simd_into(avx2)
    }
);

kernel!(
    /// The upper halves of two vectors' words, taking turns.
    #[inline(always)]
    pub(super) fn upper_bytes(avx2: Avx2, a: U16x16, b: U16x16) -> U8x32 {
        let lower = _mm256_set1_epi16(0xff);
        _mm256_blendv_epi8(b.into(), _mm256_srli_epi16::<8>(a.into()), lower).simd_into(avx2)
    }
);

kernel!(
    /// The bytes of `low`, or those of `high` where bit 4 of `index` is set.
    #[inline(always)]
    pub(super) fn by_bit_4(avx2: Avx2, index: U8x32, low: U8x32, high: U8x32) -> U8x32 {
        // A byte's sign decides. (Bits of the byte below don't get that far.)
        let sign = _mm256_slli_epi16::<3>(index.into());
        _mm256_blendv_epi8(low.into(), high.into(), sign).simd_into(avx2)
    }
);

/// Woven bytes 2 of four vectors' lanes.
#[inline(always)]
pub(super) fn weave_third_bytes(avx2: Token, [a, b, c, d]: [U32x8; 4]) -> U8x32 {
    lower_bytes(avx2, upper_words(avx2, a, b), upper_words(avx2, c, d))
}

/// Woven lowest bytes of four vectors' lanes.
#[inline(always)]
pub(super) fn weave_low_bytes(avx2: Token, [a, b, c, d]: [U32x8; 4]) -> U8x32 {
    lower_bytes(avx2, lower_words(avx2, a, b), lower_words(avx2, c, d))
}

/// Woven highest bytes of four vectors' lanes.
#[inline(always)]
pub(super) fn weave_high_bytes(avx2: Token, [a, b, c, d]: [U32x8; 4]) -> U8x32 {
    upper_bytes(avx2, upper_words(avx2, a, b), upper_words(avx2, c, d))
}

/// In each 128 bits of woven bytes: those of each vector beside each other.
#[inline(always)]
fn fours(avx2: Token, woven: U8x32) -> U8x32 {
    let order = U8x16::from_slice(avx2, &[0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15]);
    woven.swizzle_dyn_within_blocks(U8x32::block_splat(order))
}

kernel!(
    /// Four bytes of the lower half, four of the upper one, and so on.
    #[inline(always)]
    fn take_turns_by_fours(avx2: Avx2, bytes: U8x32) -> U8x32 {
        _mm256_permutevar8x32_epi32(bytes.into(), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)).simd_into(avx2)
    }
);

/// Woven bytes in the order of their elements.
#[inline(always)]
pub(super) fn in_order(avx2: Token, woven: U8x32) -> U8x32 {
    take_turns_by_fours(avx2, fours(avx2, woven))
}

kernel!(
    /// Of 64 woven codes, each below 16, two a byte, the even element in the high nibble.
    #[inline(always)]
    pub(super) fn even_high(avx2: Avx2, low: U8x32, high: U8x32) -> U8x32 {
        let weights = _mm256_set1_epi16(0x0110);
        let low = _mm256_maddubs_epi16(fours(avx2, low).into(), weights);
        let high = _mm256_maddubs_epi16(fours(avx2, high).into(), weights);
        // Each half of 128 bits has two bytes of each vector; put the halves of the first four vectors together.
        let pairs = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(low, high));
        let pairs: U8x32 = pairs.simd_into(avx2);
        let order = U8x16::from_slice(avx2, &[0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]);
        pairs.swizzle_dyn_within_blocks(U8x32::block_splat(order))
    }
);

kernel!(
    /// Of two blocks of 32 woven codes, each below 16, two a byte, element j in the low nibble and j + 16 in the high one.
    #[inline(always)]
    pub(super) fn halves(avx2: Avx2, first: U8x32, second: U8x32) -> U8x32 {
        let weights = _mm256_set1_epi16(0x1001);
        let first = _mm256_maddubs_epi16(first.into(), weights);
        let second = _mm256_maddubs_epi16(second.into(), weights);
        let bytes: U8x32 = _mm256_packus_epi16(first, second).simd_into(avx2);
        let order = U8x16::from_slice(avx2, &[0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]);
        take_turns_by_fours(avx2, bytes.swizzle_dyn_within_blocks(U8x32::block_splat(order)))
    }
);

kernel!(
    /// The greater of neighbouring lanes, in each 128 bits of `a` and then of `b`.
    #[inline(always)]
    pub(super) fn max_of_neighbours(avx2: Avx2, a: U32x8, b: U32x8) -> U32x8 {
        let (a, b) = (_mm256_castsi256_ps(a.into()), _mm256_castsi256_ps(b.into()));
        let even: U32x8 = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b)).simd_into(avx2);
        let odd: U32x8 = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b)).simd_into(avx2);
        even.max(odd)
    }
);

kernel!(
    /// The greater of the lanes of a vector's two halves, of `a` and then of `b`.
    #[inline(always)]
    pub(super) fn max_of_halves(avx2: Avx2, a: U32x8, b: U32x8) -> U32x8 {
        let lower: U32x8 = _mm256_permute2x128_si256::<0x20>(a.into(), b.into()).simd_into(avx2);
        let upper: U32x8 = _mm256_permute2x128_si256::<0x31>(a.into(), b.into()).simd_into(avx2);
        lower.max(upper)
    }
);

kernel!(
    /// Halves (`f16`), rounded to nearest even.
    #[inline(always)]
    pub(super) fn to_halves(avx2: Avx2, x: F32x8) -> U8x16 {
        _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x.into()).simd_into(avx2)
    }
);

kernel!(
    /// Widens halves (`f16`).
    #[inline(always)]
    pub(super) fn from_halves(avx2: Avx2, halves: U8x16) -> F32x8 {
        _mm256_cvtph_ps(halves.into()).simd_into(avx2)
    }
);

kernel!(
    /// Widens `bf16`.
    #[inline(always)]
    pub(super) fn from_bf16(avx2: Avx2, upper: U8x16) -> F32x8 {
        let bits: U32x8 = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(upper.into())).simd_into(avx2);
        bits.bitcast()
    }
);
