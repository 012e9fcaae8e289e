//! What `fearless_simd` has no portable name for, or what each instruction set has its own best way to do.

use fearless_simd::{f32x8, f32x16, mask32x16, prelude::*, u8x16, u8x32, u16x32, u32x8, u32x16};

use super::cells::Cells;

/// Vectors of an instruction set, 32 weights at a time, in two of 16 lanes.
///
/// What becomes a byte for each weight may be in any order, as long as it is always the same: *woven* bytes.
pub(in crate::simd) trait Lanes: Simd {
    /// Widens halves (`f16`).
    fn widen_f16(self, halves: u8x32<Self>) -> f32x16<Self>;

    /// Widens `bf16`.
    fn widen_bf16(self, halves: u8x32<Self>) -> f32x16<Self>;

    /// Halves (`f16`), rounded to nearest even.
    fn narrow_f16(self, x: f32x8<Self>) -> u8x16<Self>;

    /// The largest lane of each of eight vectors.
    fn largest(self, vectors: [u32x8<Self>; 8]) -> u32x8<Self>;

    /// The lowest byte of each lane, woven.
    fn low_bytes(self, lanes: [u32x16<Self>; 2]) -> u8x32<Self>;

    /// The third byte of each lane, woven.
    fn third_bytes(self, lanes: [u32x16<Self>; 2]) -> u8x32<Self>;

    /// The highest byte of each lane, woven.
    fn high_bytes(self, lanes: [u32x16<Self>; 2]) -> u8x32<Self>;

    /// Woven bytes, 255 for each lane that a mask has.
    fn mask_bytes(self, masks: [mask32x16<Self>; 2]) -> u8x32<Self>;

    /// Whether none of the words is less.
    fn are_all_from(self, words: u16x32<Self>, least: u16) -> bool;

    /// Woven numbers of thresholds exceeded, of positions in cells: fixed-point numbers with 16 bits of fraction, and anything in
    /// the bits from 22 on. And how far each is above its cell's threshold; in any order, and modulo 65,536.
    fn count<const N: usize>(self, positions: [u32x16<Self>; 2], cells: &Cells<N>) -> (u8x32<Self>, u16x32<Self>);

    /// Of 64 woven codes, each below 16, two a byte, the even element in the high nibble.
    fn even_high(self, low: u8x32<Self>, high: u8x32<Self>) -> u8x32<Self>;

    /// Of two blocks of 32 woven codes, each below 16, two a byte, element j in the low nibble and j + 16 in the high one.
    fn halves(self, first: u8x32<Self>, second: u8x32<Self>) -> u8x32<Self>;

    /// Woven bytes in the order of their elements.
    fn in_order(self, woven: u8x32<Self>) -> u8x32<Self>;
}
