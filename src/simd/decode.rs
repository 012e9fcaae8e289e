//! From codes to weights: what all formats' dequantizers share.

use fearless_simd::{f32x16, i8x64, i32x16, prelude::*, u8x16, u8x32, u8x64, u16x32, u32x16};

#[cfg(target_arch = "x86_64")]
use super::x86::memory::{AHEAD, prefetch};
use super::{GROUP, INFINITY_BITS, LANES, Layout};
use crate::dtype::Dtype;

/// Other processors are left to look ahead by themselves.
#[cfg(not(target_arch = "x86_64"))]
fn prefetch(_: &[u8], _: usize) {}
#[cfg(not(target_arch = "x86_64"))]
const AHEAD: usize = 0;

/// Stores vectors in memory that is borrowed for `'a`.
pub(super) trait Store<'a> {
    /// Stores 64 bytes.
    fn store<S: Simd>(&self, bytes: u8x64<S>, out: &'a mut [u8; 64]);

    /// Stores 32 bytes, which AVX2 has in a vector.
    #[cfg(target_arch = "x86_64")]
    fn store_half<S: Simd>(&self, bytes: u8x32<S>, out: &'a mut [u8; 32]);
}

/// As ever.
pub(super) struct Cached;

impl<'a> Store<'a> for Cached {
    #[inline(always)]
    fn store<S: Simd>(&self, bytes: u8x64<S>, out: &'a mut [u8; 64]) {
        bytes.store_slice(out);
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn store_half<S: Simd>(&self, bytes: u8x32<S>, out: &'a mut [u8; 32]) {
        bytes.store_slice(out);
    }
}

/// How a format's 4-bit codes become values.
pub(super) trait Decode4 {
    /// Where codes stand; it says how long a block is, too.
    const LAYOUT: Layout;
    /// Bytes of a scale.
    const SCALE_BYTES: usize;
    /// The value of each code; times a scale it is the weight.
    const VALUES: [f32; 16];
    /// The code that no writer makes, if there is one.
    const INVALID: Option<u8> = None;
    /// Whether every scale times every value is exact as `f32`.
    const EXACT: bool = false;

    /// The scale from its bytes; `None` where that is the reference's to do.
    fn scale(bytes: &[u8]) -> Option<f32>;
}

/// How a format's 8-bit codes become values: they are the values.
pub(super) trait Decode8 {
    /// Elements that share a scale.
    const BLOCK: usize;
    /// Bytes of a scale.
    const SCALE_BYTES: usize;
    /// The code that no writer makes, if there is one.
    const INVALID: Option<u8> = None;
    /// Whether every scale times every value is exact as `f32`.
    const EXACT: bool = false;

    /// As [`Decode4::scale`].
    fn scale(bytes: &[u8]) -> Option<f32>;
}

/// The scale, if its products with values up to `largest` are ordinary: no overflow, and where they are rounded to 16 bits,
/// none so small that what the first rounding drops can't be computed.
#[inline(always)]
pub(super) fn ordinary(scale: Option<f32>, largest: f32, dtype: Dtype) -> Option<f32> {
    let magnitude = scale?.abs();
    let normal = magnitude == 0.0 || magnitude >= f32::from_bits((127 - 60) << 23);
    let is_ordinary = match dtype {
        Dtype::F32 => magnitude * largest < f32::INFINITY,
        Dtype::F16 => normal && magnitude * largest < 65_520.0,
        Dtype::BF16 => normal && magnitude * largest < f32::from_bits(INFINITY_BITS - (1 << 15)),
    };
    if is_ordinary { scale } else { None }
}

/// The bits of value · scale as `dtype`, rounded once, in the low bits of each lane. `exact` says that all such products are exact
/// as `f32`.
#[inline(always)]
fn products<S: Simd>(values: f32x16<S>, scale: f32, dtype: Dtype, exact: bool) -> u32x16<S> {
    let mut bits: u32x16<S> = (values * scale).bitcast();
    if dtype == Dtype::F32 {
        return bits;
    }
    if !exact {
        if let Some(rounded) = rounded_again(bits, dtype) {
            return rounded;
        }
        bits = rounded_to_odd(values, scale);
    }

    if dtype == Dtype::BF16 {
        return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    }
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // From 2^-14 on the exponent is rebased and 13 bits are rounded off. Below, adding a half leaves multiples of 2^-24.
    let normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - (112 << 23)) >> 13;
    let subnormal = (magnitude.bitcast::<f32x16<S>>() + 0.5).bitcast::<u32x16<S>>() - 0.5_f32.to_bits();
    magnitude.simd_lt(113 << 23).select(subnormal, normal) | sign
}

/// Products that are rounded already, rounded to 16 bits; `None` where that isn't rounding once: where one is in the middle between two
/// results, or, but for 0, not a normal number.
#[inline(always)]
fn rounded_again<S: Simd>(bits: u32x16<S>, dtype: Dtype) -> Option<u32x16<S>> {
    if dtype == Dtype::BF16 {
        return if (bits & 0xffff).simd_ne(0x8000).all_true() { Some((bits + 0x8000) >> 16) } else { None };
    }
    let magnitude = bits & 0x7fff_ffff;
    let normal = magnitude.simd_ge(113 << 23) | magnitude.simd_eq(0);
    if !(normal & (bits & 0x1fff).simd_ne(0x1000)).all_true() {
        return None;
    }
    Some(((magnitude.max((112 << 23) - 0x1000) + 0x1000 - (112 << 23)) >> 13) | ((bits >> 16) & 0x8000))
}

/// The bits of value · scale, the last one odd where the product isn't exact: then rounding again is rounding once.
#[cold]
#[inline(never)]
fn rounded_to_odd<S: Simd>(values: f32x16<S>, scale: f32) -> u32x16<S> {
    values.token().vectorize(
        #[inline(always)]
        || {
            let product = values * scale;
            let bits: u32x16<S> = product.bitcast();
            let error = values.mul_sub_precise(f32x16::splat(values.token(), scale), product);
            let away = (error.bitcast::<u32x16<S>>() ^ bits).simd_lt(1 << 31);
            let odd = away.select(bits + 1, bits - 1);
            let keep = error.simd_eq(0.0).select(u32x16::splat(values.token(), 1), bits & 1);
            keep.simd_eq(1).select(bits, odd)
        },
    )
}

/// [`Twin::dequantize`](super::Twin::dequantize) of a format with 4-bit codes: each block's 16 values are computed once
/// and looked up, byte by byte.
#[inline(always)]
pub(super) fn dequantize4<'a, S: Simd, D: Decode4>(
    simd: S,
    all_codes: &[u8],
    scales: &[u8],
    dtype: Dtype,
    out: &'a mut [u8],
    to: &impl Store<'a>,
) -> usize {
    let width = dtype.n_bytes();
    let n_blocks = if D::LAYOUT == Layout::EvenHigh { 2 } else { 4 };
    let values = f32x16::from_slice(simd, &D::VALUES);
    let largest = D::VALUES.iter().fold(0.0_f32, |max, value| max.max(value.abs()));

    let parts = all_codes.chunks_exact(GROUP / 2).zip(scales.chunks_exact(n_blocks * D::SCALE_BYTES));
    let mut n_done = 0;
    for (out, (codes, scales)) in out.chunks_exact_mut(GROUP * width).zip(parts) {
        prefetch(all_codes, n_done / 2 + AHEAD);
        let mut tables = [[u8x16::splat(simd, 0); 4]; 4];
        for (table, scale) in tables.iter_mut().zip(scales.chunks_exact(D::SCALE_BYTES)) {
            let Some(scale) = ordinary(D::scale(scale), largest, dtype) else {
                return n_done;
            };
            let words: u8x64<S> = products(values, scale, dtype, D::EXACT).bitcast();
            *table = u8x16::load_four_interleaved(simd, &words.to_array());
        }
        let packed = u8x64::from_slice(simd, codes);
        let (high, low) = (packed >> 4, packed & 0xf);
        if let Some(invalid) = D::INVALID
            && (high.simd_eq(invalid) | low.simd_eq(invalid)).any_true()
        {
            return n_done;
        }
        let (first, second) = out.split_at_mut(GROUP / 2 * width);
        if D::LAYOUT == Layout::EvenHigh {
            let (low, high) = high.interleave(low);
            look_up(simd, low, [tables[0]; 2], first, to);
            look_up(simd, high, [tables[1]; 2], second, to);
        } else {
            // A lane of 128 bits has a block's codes, low nibbles before high ones.
            let ((low01, low23), (high01, high23)) = (low.split(), high.split());
            look_up(simd, halves(low01, high01), [tables[0], tables[1]], first, to);
            look_up(simd, halves(low23, high23), [tables[2], tables[3]], second, to);
        }
        n_done += GROUP;
    }
    n_done
}

/// Two blocks' codes in their order: the low nibbles of each, then its high ones.
#[inline(always)]
fn halves<S: Simd>(low: u8x32<S>, high: u8x32<S>) -> u8x64<S> {
    let ((low0, low1), (high0, high1)) = (low.split(), high.split());
    low0.combine(high0).combine(low1.combine(high1))
}

/// Writes the values of 64 codes, the first 32 by one table and the others by another. A table has one vector for each
/// byte of a value, of which there is room for two or four.
#[inline(always)]
fn look_up<'a, S: Simd>(_: S, codes: u8x64<S>, tables: [[u8x16<S>; 4]; 2], out: &'a mut [u8], to: &impl Store<'a>) {
    let plane0 = plane(codes, tables[0][0], tables[1][0]);
    let plane1 = plane(codes, tables[0][1], tables[1][1]);
    let (low, high) = plane0.interleave(plane1);
    let out = out.as_chunks_mut().0;
    if let [first, second] = out {
        to.store(low, first);
        to.store(high, second);
        return;
    }
    let [first, second, third, fourth] = out else { return };
    let plane2 = plane(codes, tables[0][2], tables[1][2]);
    let plane3 = plane(codes, tables[0][3], tables[1][3]);
    let (upper_low, upper_high) = plane2.interleave(plane3);
    let (a, b) = low.bitcast::<u16x32<S>>().interleave(upper_low.bitcast::<u16x32<S>>());
    let (c, d) = high.bitcast::<u16x32<S>>().interleave(upper_high.bitcast::<u16x32<S>>());
    to.store(a.bitcast(), first);
    to.store(b.bitcast(), second);
    to.store(c.bitcast(), third);
    to.store(d.bitcast(), fourth);
}

#[inline(always)]
fn plane<S: Simd>(codes: u8x64<S>, first: u8x16<S>, second: u8x16<S>) -> u8x64<S> {
    first.combine(first).combine(second.combine(second)).swizzle_dyn_within_blocks(codes)
}

/// [`Twin::dequantize`](super::Twin::dequantize) of a format with 8-bit codes.
#[inline(always)]
pub(super) fn dequantize8<'a, S: Simd, D: Decode8>(
    simd: S,
    all_codes: &[u8],
    scales: &[u8],
    dtype: Dtype,
    out: &'a mut [u8],
    to: &impl Store<'a>,
) -> usize {
    let width = dtype.n_bytes();
    let n_vectors = D::BLOCK / LANES;

    let parts = all_codes.chunks_exact(64).zip(scales.chunks_exact(64 / D::BLOCK * D::SCALE_BYTES));
    let mut n_done = 0;
    for (out, (codes, scales)) in out.chunks_exact_mut(64 * width).zip(parts) {
        prefetch(all_codes, n_done + AHEAD);
        let codes = i8x64::from_slice(simd, bytemuck::cast_slice(codes));
        if let Some(invalid) = D::INVALID
            && codes.simd_eq(invalid.cast_signed()).any_true()
        {
            return n_done;
        }
        let ((a, b), (c, d)) = (codes.widen().0.widen(), codes.widen().1.widen());
        let vectors: [i32x16<S>; 4] = [a, b, c, d];
        for ((vectors, out), scale) in vectors
            .chunks_exact(n_vectors)
            .zip(out.chunks_exact_mut(D::BLOCK * width))
            .zip(scales.chunks_exact(D::SCALE_BYTES))
        {
            let Some(scale) = ordinary(D::scale(scale), 128.0, dtype) else {
                return n_done;
            };
            if width == 4 {
                for (&codes, out) in vectors.iter().zip(out.as_chunks_mut().0) {
                    to.store(products(codes.to_float(), scale, dtype, D::EXACT).bitcast(), out);
                }
            } else {
                for (codes, out) in vectors.chunks_exact(2).zip(out.as_chunks_mut().0) {
                    let low = products(codes[0].to_float(), scale, dtype, D::EXACT);
                    let high = products(codes[1].to_float(), scale, dtype, D::EXACT);
                    to.store(low.narrow(high).bitcast(), out);
                }
            }
        }
        n_done += 64;
    }
    n_done
}
