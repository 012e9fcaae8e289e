//! [`Lanes`] of AVX-512, whose shuffles cross 128 bits: woven bytes are in the order of their elements.

use std::arch::x86_64::{
    _MM_FROUND_TO_NEAREST_INT, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_cvtps_ph, _mm256_movm_epi8,
    _mm256_or_si256, _mm256_permute2x128_si256, _mm256_shuffle_ps, _mm256_slli_epi16, _mm512_castsi256_si512,
    _mm512_castsi512_si256, _mm512_cmple_epu16_mask, _mm512_cvtepi16_epi8, _mm512_cvtepu16_epi32, _mm512_cvtph_ps,
    _mm512_inserti64x4, _mm512_maddubs_epi16, _mm512_mask_sub_epi16, _mm512_permutex2var_epi8,
    _mm512_permutex2var_epi16, _mm512_permutexvar_epi16, _mm512_set1_epi16, _mm512_slli_epi32,
};

use fearless_simd::{Avx512, f32x8, f32x16, kernel, mask32x16, prelude::*, u8x16, u8x32, u8x64, u16x32, u32x8, u32x16};

use super::cells::Cells;
use super::lanes::Lanes;

/// Where byte `n` of each of 32 lanes is, in two vectors.
const fn bytes_of_lanes(n: u8) -> [u8; 64] {
    let (mut index, mut lane) = ([0; 64], 0);
    while lane < 32 {
        index[lane as usize] = 4 * lane + n;
        lane += 1;
    }
    index
}

static LOW_BYTES: [u8; 64] = bytes_of_lanes(0);
static THIRD_BYTES: [u8; 64] = bytes_of_lanes(2);
static HIGH_BYTES: [u8; 64] = bytes_of_lanes(3);

/// Where the lower words of 32 lanes are, in two vectors, and the upper ones.
const fn words_of_lanes(n: u16) -> [u16; 32] {
    let (mut index, mut lane) = ([0; 32], 0);
    while lane < 32 {
        index[lane as usize] = 2 * lane + n;
        lane += 1;
    }
    index
}

static LOWER_WORDS: [u16; 32] = words_of_lanes(0);
static UPPER_WORDS: [u16; 32] = words_of_lanes(1);

kernel!(
    /// Of two vectors the bytes that the first half of `index` names.
    #[inline(always)]
    fn bytes(avx512: Avx512, a: u32x16<Avx512>, index: u8x64<Avx512>, b: u32x16<Avx512>) -> u8x32<Avx512> {
        _mm512_castsi512_si256(_mm512_permutex2var_epi8(a.into(), index.into(), b.into())).simd_into(avx512)
    }
);

kernel!(
    /// Of two vectors the words that `index` names.
    #[inline(always)]
    fn words(avx512: Avx512, a: u32x16<Avx512>, index: u16x32<Avx512>, b: u32x16<Avx512>) -> u16x32<Avx512> {
        _mm512_permutex2var_epi16(a.into(), index.into(), b.into()).simd_into(avx512)
    }
);

kernel!(
    /// Words of a table, by the lower five bits of an index.
    #[inline(always)]
    fn look_up(avx512: Avx512, table: u16x32<Avx512>, index: u16x32<Avx512>) -> u16x32<Avx512> {
        _mm512_permutexvar_epi16(index.into(), table.into()).simd_into(avx512)
    }
);

kernel!(
    /// The lower bytes of words.
    #[inline(always)]
    fn lower_bytes(avx512: Avx512, words: u16x32<Avx512>) -> u8x32<Avx512> {
        _mm512_cvtepi16_epi8(words.into()).simd_into(avx512)
    }
);

kernel!(
    /// `from`, less 1 where `a` is at most `b`.
    #[inline(always)]
    fn one_less_up_to(avx512: Avx512, from: u16x32<Avx512>, a: u16x32<Avx512>, b: u16x32<Avx512>) -> u16x32<Avx512> {
        let mask = _mm512_cmple_epu16_mask(a.into(), b.into());
        _mm512_mask_sub_epi16(from.into(), mask, from.into(), _mm512_set1_epi16(1)).simd_into(avx512)
    }
);

kernel!(
    /// See [`Lanes::even_high`].
    #[inline(always)]
    fn even_high(avx512: Avx512, low: u8x32<Avx512>, high: u8x32<Avx512>) -> u8x32<Avx512> {
        let codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low.into()), high.into());
        _mm512_cvtepi16_epi8(_mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x0110))).simd_into(avx512)
    }
);

kernel!(
    /// See [`Lanes::halves`].
    #[inline(always)]
    fn halves(avx512: Avx512, first: u8x32<Avx512>, second: u8x32<Avx512>) -> u8x32<Avx512> {
        let low = _mm256_permute2x128_si256::<0x20>(first.into(), second.into());
        let high = _mm256_permute2x128_si256::<0x31>(first.into(), second.into());
        _mm256_or_si256(low, _mm256_slli_epi16::<4>(high)).simd_into(avx512)
    }
);

kernel!(
    /// The greater of neighbouring lanes, in each 128 bits of `a` and then of `b`.
    #[inline(always)]
    fn max_of_neighbours(avx512: Avx512, a: u32x8<Avx512>, b: u32x8<Avx512>) -> u32x8<Avx512> {
        let (a, b) = (_mm256_castsi256_ps(a.into()), _mm256_castsi256_ps(b.into()));
        let even: u32x8<Avx512> = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b)).simd_into(avx512);
        let odd: u32x8<Avx512> = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b)).simd_into(avx512);
        even.max(odd)
    }
);

kernel!(
    /// Widens halves (`f16`).
    #[inline(always)]
    fn from_halves(avx512: Avx512, halves: u8x32<Avx512>) -> f32x16<Avx512> {
        _mm512_cvtph_ps(halves.into()).simd_into(avx512)
    }
);

kernel!(
    /// Widens `bf16`.
    #[inline(always)]
    fn from_bf16(avx512: Avx512, upper: u8x32<Avx512>) -> f32x16<Avx512> {
        let bits: u32x16<Avx512> = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(upper.into())).simd_into(avx512);
        bits.bitcast()
    }
);

kernel!(
    /// Halves (`f16`), rounded to nearest even.
    #[inline(always)]
    fn to_halves(avx512: Avx512, x: f32x8<Avx512>) -> u8x16<Avx512> {
        _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x.into()).simd_into(avx512)
    }
);

kernel!(
    /// A byte of 255 for each bit.
    #[inline(always)]
    fn spread_bits(avx512: Avx512, bits: u32) -> u8x32<Avx512> {
        _mm256_movm_epi8(bits).simd_into(avx512)
    }
);

impl Lanes for Avx512 {
    #[inline(always)]
    fn widen_f16(self, halves: u8x32<Self>) -> f32x16<Self> {
        from_halves(self, halves)
    }

    #[inline(always)]
    fn widen_bf16(self, halves: u8x32<Self>) -> f32x16<Self> {
        from_bf16(self, halves)
    }

    #[inline(always)]
    fn narrow_f16(self, x: f32x8<Self>) -> u8x16<Self> {
        to_halves(self, x)
    }

    #[inline(always)]
    fn largest(self, [a, b, c, d, e, f, g, h]: [u32x8<Self>; 8]) -> u32x8<Self> {
        let low = max_of_neighbours(self, max_of_neighbours(self, a, b), max_of_neighbours(self, c, d));
        let high = max_of_neighbours(self, max_of_neighbours(self, e, f), max_of_neighbours(self, g, h));
        let ((a, b), (c, d)) = (low.split(), high.split());
        a.max(b).combine(c.max(d))
    }

    #[inline(always)]
    fn low_bytes(self, [a, b]: [u32x16<Self>; 2]) -> u8x32<Self> {
        bytes(self, a, u8x64::from_slice(self, &LOW_BYTES), b)
    }

    #[inline(always)]
    fn third_bytes(self, [a, b]: [u32x16<Self>; 2]) -> u8x32<Self> {
        bytes(self, a, u8x64::from_slice(self, &THIRD_BYTES), b)
    }

    #[inline(always)]
    fn high_bytes(self, [a, b]: [u32x16<Self>; 2]) -> u8x32<Self> {
        bytes(self, a, u8x64::from_slice(self, &HIGH_BYTES), b)
    }

    #[inline(always)]
    fn mask_bytes(self, [a, b]: [mask32x16<Self>; 2]) -> u8x32<Self> {
        #[expect(clippy::cast_possible_truncation, reason = "16 bits each")]
        let (low, high) = (a.to_bitmask() as u32, b.to_bitmask() as u32);
        spread_bits(self, low | high << 16)
    }

    #[inline(always)]
    fn are_all_from(self, words: u16x32<Self>, least: u16) -> bool {
        words.simd_ge(least).all_true()
    }

    #[inline(always)]
    fn count<const N: usize>(self, [a, b]: [u32x16<Self>; 2], cells: &Cells<N>) -> (u8x32<Self>, u16x32<Self>) {
        let cell = words(self, a, u16x32::from_slice(self, &UPPER_WORDS), b);
        let fraction = words(self, a, u16x32::from_slice(self, &LOWER_WORDS), b);
        let threshold = look_up(self, u16x32::from_slice(self, &cells.thresholds), cell);
        let above = look_up(self, u16x32::from_slice(self, &cells.words_above), cell);
        let count = lower_bytes(self, one_less_up_to(self, above, fraction, threshold));
        (count, fraction - threshold)
    }

    #[inline(always)]
    fn even_high(self, low: u8x32<Self>, high: u8x32<Self>) -> u8x32<Self> {
        even_high(self, low, high)
    }

    #[inline(always)]
    fn halves(self, first: u8x32<Self>, second: u8x32<Self>) -> u8x32<Self> {
        halves(self, first, second)
    }

    #[inline(always)]
    fn in_order(self, woven: u8x32<Self>) -> u8x32<Self> {
        woven
    }
}
