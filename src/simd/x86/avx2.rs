//! [`Lanes`] of AVX2. A vector of 512 bits is two here.
//!
//! A shuffle across 128 bits is slow, so the codes of 32 weights become bytes where they are: byte `4i` of 32 is lane `i` of
//! the first eight weights, then the third's, the second's and the fourth's. That is the woven order here.

use std::arch::x86_64::{
    _MM_FROUND_TO_NEAREST_INT, _mm256_blend_epi16, _mm256_blendv_epi8, _mm256_castps_si256, _mm256_castsi256_ps,
    _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_cvtps_ph, _mm256_maddubs_epi16, _mm256_packus_epi16,
    _mm256_permute2x128_si256, _mm256_permute4x64_epi64, _mm256_permutevar8x32_epi32, _mm256_set1_epi16,
    _mm256_setr_epi32, _mm256_shuffle_ps, _mm256_slli_epi16, _mm256_slli_epi32, _mm256_srli_epi16, _mm256_srli_epi32,
};

use fearless_simd::{Avx2, f32x8, f32x16, kernel, mask32x16, prelude::*, u8x16, u8x32, u16x16, u16x32, u32x8, u32x16};

use super::cells::Cells;
use super::lanes::Lanes;

type F32x8 = f32x8<Avx2>;
type U8x16 = u8x16<Avx2>;
type U8x32 = u8x32<Avx2>;
type U16x16 = u16x16<Avx2>;
type U32x8 = u32x8<Avx2>;

kernel!(
    /// The upper halves of two vectors' lanes, taking turns.
    #[inline(always)]
    fn upper_words(avx2: Avx2, a: U32x8, b: U32x8) -> U16x16 {
        _mm256_blend_epi16::<0xaa>(_mm256_srli_epi32::<16>(a.into()), b.into()).simd_into(avx2)
    }
);

kernel!(
    /// The lower halves of two vectors' lanes, taking turns.
    #[inline(always)]
    fn lower_words(avx2: Avx2, a: U32x8, b: U32x8) -> U16x16 {
        _mm256_blend_epi16::<0xaa>(a.into(), _mm256_slli_epi32::<16>(b.into())).simd_into(avx2)
    }
);

kernel!(
    /// The lower halves of two vectors' words, taking turns.
    #[inline(always)]
    fn lower_bytes(avx2: Avx2, a: U16x16, b: U16x16) -> U8x32 {
        let lower = _mm256_set1_epi16(0xff);
        _mm256_blendv_epi8(_mm256_slli_epi16::<8>(b.into()), a.into(), lower).simd_into(avx2)
    }
);

kernel!(
    /// The upper halves of two vectors' words, taking turns.
    #[inline(always)]
    fn upper_bytes(avx2: Avx2, a: U16x16, b: U16x16) -> U8x32 {
        let lower = _mm256_set1_epi16(0xff);
        _mm256_blendv_epi8(b.into(), _mm256_srli_epi16::<8>(a.into()), lower).simd_into(avx2)
    }
);

kernel!(
    /// The bytes of `low`, or those of `high` where bit 4 of `index` is set.
    #[inline(always)]
    fn by_bit_4(avx2: Avx2, index: U8x32, low: U8x32, high: U8x32) -> U8x32 {
        // A byte's sign decides. (Bits of the byte below don't get that far.)
        let sign = _mm256_slli_epi16::<3>(index.into());
        _mm256_blendv_epi8(low.into(), high.into(), sign).simd_into(avx2)
    }
);

/// In each 128 bits of woven bytes: those of each vector beside each other.
#[inline(always)]
fn fours(avx2: Avx2, woven: U8x32) -> U8x32 {
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

kernel!(
    /// Of 64 woven codes, each below 16, two a byte, the even element in the high nibble.
    #[inline(always)]
    fn even_high(avx2: Avx2, low: U8x32, high: U8x32) -> U8x32 {
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
    fn halves(avx2: Avx2, first: U8x32, second: U8x32) -> U8x32 {
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
    fn max_of_neighbours(avx2: Avx2, a: U32x8, b: U32x8) -> U32x8 {
        let (a, b) = (_mm256_castsi256_ps(a.into()), _mm256_castsi256_ps(b.into()));
        let even: U32x8 = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b)).simd_into(avx2);
        let odd: U32x8 = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b)).simd_into(avx2);
        even.max(odd)
    }
);

kernel!(
    /// The greater of the lanes of a vector's two halves, of `a` and then of `b`.
    #[inline(always)]
    fn max_of_halves(avx2: Avx2, a: U32x8, b: U32x8) -> U32x8 {
        let lower: U32x8 = _mm256_permute2x128_si256::<0x20>(a.into(), b.into()).simd_into(avx2);
        let upper: U32x8 = _mm256_permute2x128_si256::<0x31>(a.into(), b.into()).simd_into(avx2);
        lower.max(upper)
    }
);

kernel!(
    /// Halves (`f16`), rounded to nearest even.
    #[inline(always)]
    fn to_halves(avx2: Avx2, x: F32x8) -> U8x16 {
        _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x.into()).simd_into(avx2)
    }
);

kernel!(
    /// Widens halves (`f16`).
    #[inline(always)]
    fn from_halves(avx2: Avx2, halves: U8x16) -> F32x8 {
        _mm256_cvtph_ps(halves.into()).simd_into(avx2)
    }
);

kernel!(
    /// Widens `bf16`.
    #[inline(always)]
    fn from_bf16(avx2: Avx2, upper: U8x16) -> F32x8 {
        let bits: U32x8 = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(upper.into())).simd_into(avx2);
        bits.bitcast()
    }
);

/// Both halves of two vectors.
#[inline(always)]
fn four([a, b]: [u32x16<Avx2>; 2]) -> [U32x8; 4] {
    let ((a, b), (c, d)) = (a.split(), b.split());
    [a, b, c, d]
}

/// Bytes of a table of 16, by the lower four bits of an index.
#[inline(always)]
fn table(avx2: Avx2, bytes: &[u8], index: U8x32) -> U8x32 {
    U8x32::block_splat(U8x16::from_slice(avx2, bytes)).swizzle_dyn_within_blocks(index)
}

/// Bytes of a table, by the lower four or five bits of an index.
#[inline(always)]
fn look_up<const N: usize>(avx2: Avx2, bytes: &[u8; N], index: U8x32) -> U8x32 {
    let low = table(avx2, &bytes[..16], index);
    if N == 16 { low } else { by_bit_4(avx2, index, low, table(avx2, &bytes[N - 16..], index)) }
}

impl Lanes for Avx2 {
    #[inline(always)]
    fn widen_f16(self, halves: U8x32) -> f32x16<Self> {
        let (low, high) = halves.split();
        from_halves(self, low).combine(from_halves(self, high))
    }

    #[inline(always)]
    fn widen_bf16(self, halves: U8x32) -> f32x16<Self> {
        let (low, high) = halves.split();
        from_bf16(self, low).combine(from_bf16(self, high))
    }

    #[inline(always)]
    fn narrow_f16(self, x: F32x8) -> U8x16 {
        to_halves(self, x)
    }

    #[inline(always)]
    fn largest(self, [a, b, c, d, e, f, g, h]: [U32x8; 8]) -> U32x8 {
        let low = max_of_neighbours(self, max_of_neighbours(self, a, b), max_of_neighbours(self, c, d));
        let high = max_of_neighbours(self, max_of_neighbours(self, e, f), max_of_neighbours(self, g, h));
        max_of_halves(self, low, high)
    }

    #[inline(always)]
    fn low_bytes(self, lanes: [u32x16<Self>; 2]) -> U8x32 {
        let [a, b, c, d] = four(lanes);
        lower_bytes(self, lower_words(self, a, b), lower_words(self, c, d))
    }

    #[inline(always)]
    fn third_bytes(self, lanes: [u32x16<Self>; 2]) -> U8x32 {
        let [a, b, c, d] = four(lanes);
        lower_bytes(self, upper_words(self, a, b), upper_words(self, c, d))
    }

    #[inline(always)]
    fn high_bytes(self, lanes: [u32x16<Self>; 2]) -> U8x32 {
        let [a, b, c, d] = four(lanes);
        upper_bytes(self, upper_words(self, a, b), upper_words(self, c, d))
    }

    #[inline(always)]
    fn mask_bytes(self, [a, b]: [mask32x16<Self>; 2]) -> U8x32 {
        self.low_bytes([a.to_vector().bitcast(), b.to_vector().bitcast()])
    }

    #[inline(always)]
    fn are_all_from(self, words: u16x32<Self>, least: u16) -> bool {
        let (low, high) = words.split();
        low.min(high).simd_ge(least).all_true()
    }

    #[inline(always)]
    fn count<const N: usize>(self, positions: [u32x16<Self>; 2], cells: &Cells<N>) -> (U8x32, u16x32<Self>) {
        let cell = self.third_bytes(positions);
        let (low, high) = (look_up(self, &cells.low, cell), look_up(self, &cells.high, cell));
        let [a, b, c, d] = four(positions);
        let (first, second) = (lower_words(self, a, b), lower_words(self, c, d));
        // Even bytes belong to the first two vectors.
        let (low, high): (U16x16, U16x16) = (low.bitcast(), high.bitcast());
        let threshold_first: U16x16 = lower_bytes(self, low, high).bitcast();
        let threshold_second: U16x16 = upper_bytes(self, low, high).bitcast();
        let distances = (first - threshold_first).combine(second - threshold_second);
        // A mask's lanes are 0 and -1. (Comparing this way round takes one instruction less.)
        let first: U16x16 = first.simd_le(threshold_first).to_vector().bitcast();
        let second: U16x16 = second.simd_le(threshold_second).to_vector().bitcast();
        (look_up(self, &cells.above, cell) + lower_bytes(self, first, second), distances)
    }

    #[inline(always)]
    fn even_high(self, low: U8x32, high: U8x32) -> U8x32 {
        even_high(self, low, high)
    }

    #[inline(always)]
    fn halves(self, first: U8x32, second: U8x32) -> U8x32 {
        halves(self, first, second)
    }

    #[inline(always)]
    fn in_order(self, woven: U8x32) -> U8x32 {
        take_turns_by_fours(self, fours(self, woven))
    }
}
