//! The proof obligations of `contracts/quantization-v1.yaml` by exhaustion: every finite `f32` as a block's maximum, and
//! both neighbours of every code boundary for scales over all exponents. The reference is held to a second derivation
//! that works on bits, in integers alone.

#![cfg(test)] // so that lints know every helper for a part of a test

use std::collections::BTreeSet;
use std::ops::Range;

use wgquant::quant::{quant4bit, quant8bit};

/// Bits of the first `f32` that is not finite.
const INFINITY: u32 = 0x7f80_0000;

/// A symmetric format: codes -k..=k.
#[derive(Clone, Copy)]
struct Symmetric {
    k: u8,
    scale: fn(f32) -> f32,
    code: fn(f32, f32) -> i8,
}

const SYM4: Symmetric = Symmetric { k: 7, scale: quant4bit::scale, code: quant4bit::code };
const SYM8: Symmetric = Symmetric { k: 127, scale: quant8bit::scale, code: quant8bit::code };

#[test]
fn sym4_holds_for_every_block_maximum() {
    in_parallel(0..INFINITY, |part| part.for_each(|bits| check_maximum(SYM4, bits)));
}

#[test]
fn sym8_holds_for_every_block_maximum() {
    in_parallel(0..INFINITY, |part| part.for_each(|bits| check_maximum(SYM8, bits)));
}

#[test]
fn sym4_holds_on_both_sides_of_every_code_boundary() {
    check_boundaries(SYM4);
}

#[test]
fn sym8_holds_on_both_sides_of_every_code_boundary() {
    check_boundaries(SYM8);
}

/// A subnormal scale and one in the middle: every finite x, with no assumption about order.
#[test]
fn codes_never_fall_as_weights_rise() {
    for (format, scale) in [(SYM4, 0.01), (SYM8, f32::from_bits(3))] {
        let code = |bits| (format.code)(f32::from_bits(bits), scale);
        in_parallel(0..INFINITY, |part| {
            let mut low = code(part.start.saturating_sub(1));
            for bits in part {
                let high = code(bits);
                assert!(low <= high && high - low <= 1, "scale {scale:e}: codes {low}, {high} at bits {bits:#x}");
                low = high;
            }
        });
    }
}

#[test]
fn zero_stays_zero() {
    for format in [SYM4, SYM8] {
        for zero in [0.0, -0.0] {
            assert_eq!((format.scale)(f32::abs(zero)).to_bits(), 0, "a zero block's scale is +0.0");
            for bits in (0..INFINITY).step_by(9973) {
                let scale = f32::from_bits(bits);
                let code = (format.code)(zero, scale);
                assert_eq!((f32::from(code) * scale).to_bits(), 0, "{zero} at scale {scale:e}");
            }
        }
    }
}

/// Runs `work` on parts of a range of bits, on all cores.
fn in_parallel(range: Range<u32>, work: impl Fn(Range<u32>) + Sync) {
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = range.len().div_ceil(n_threads);
    let mut rest = range;
    std::thread::scope(|scope| {
        while !rest.is_empty() {
            let middle = rest.start + u32::try_from(share.min(rest.len())).expect("a part is no longer than the range");
            let (part, work) = (rest.start..middle, &work);
            scope.spawn(move || work(part));
            rest.start = middle;
        }
    });
}

/// All that is promised for a block whose largest |x| has these bits. The sign of that x makes no difference.
fn check_maximum(format: Symmetric, bits: u32) {
    let absmax = f32::from_bits(bits);
    let k = f32::from(format.k);
    let scale = (format.scale)(absmax);
    assert_eq!(scale.to_bits(), scale_in_integers(bits, format.k), "scale of {bits:#x} is {scale:e}");
    assert!(scale.is_finite() && (scale > 0.0) == (absmax > 0.0), "scale of {bits:#x} is {scale:e}");
    assert!((k * scale).is_finite(), "{k} times the scale of {bits:#x} overflows");

    // What the code would be without the clamp: the clamp must have nothing to do.
    let quotient = if absmax > 0.0 { (absmax / scale).round() } else { 0.0 };
    assert!(quotient <= k, "the code of {bits:#x} would be {quotient} without the clamp");
    let code = (format.code)(absmax, scale);
    assert_eq!(f32::from(code), quotient, "code of {bits:#x}");
    assert_eq!((format.code)(-absmax, scale), -code, "code of -{bits:#x}");
    check_error(format, absmax, code, scale);
}

/// |x − RN(code · scale)| ≤ scale/2 · (1 + K · 2^-22). Each step is exact in `f64`.
fn check_error(format: Symmetric, x: f32, code: i8, scale: f32) {
    let error = (f64::from(x) - f64::from(f32::from(code) * scale)).abs();
    let bound = f64::from(scale) / 2.0 * (1.0 + f64::from(format.k) / f64::from(1 << 22));
    assert!(error <= bound, "{x:e} came back {error:e} away at scale {scale:e}, code {code}: the bound is {bound:e}");
}

/// For many scales, both neighbours of every code boundary.
fn check_boundaries(format: Symmetric) {
    let scales = scales_over_all_exponents(format);
    let exponents: BTreeSet<u32> = scales.iter().map(|bits| bits >> 23).collect();
    let n_subnormal = scales.iter().filter(|&&bits| bits < 1 << 23).count();
    assert!(scales.len() >= 1000 && n_subnormal >= 100, "{} scales, {n_subnormal} subnormal", scales.len());
    // No gap from subnormals up to the largest scale.
    assert_eq!(exponents.len(), 1 + (scales.last().map_or(0, |bits| bits >> 23)) as usize);

    for &scale_bits in &scales {
        let scale = f32::from_bits(scale_bits);
        let code = |bits| (format.code)(f32::from_bits(bits), scale);
        let mut below = 0;
        for k in 1..=format.k.cast_signed() {
            let boundary = smallest(below..INFINITY, |bits| code(bits) >= k);
            assert!(boundary > below || k == 1, "scale {scale_bits:#x}: boundaries {k} and {} coincide", k - 1);
            assert_eq!(
                boundary,
                threshold_in_integers(k.unsigned_abs(), scale_bits),
                "scale {scale_bits:#x}: boundary of code {k}"
            );
            for (bits, expected) in [(boundary - 1, k - 1), (boundary, k)] {
                let x = f32::from_bits(bits);
                assert_eq!(code(bits), expected, "scale {scale_bits:#x}: code of {bits:#x}");
                assert_eq!((format.code)(-x, scale), -expected, "scale {scale_bits:#x}: code of -{bits:#x}");
                check_error(format, x, expected, scale);
            }
            below = boundary;
        }
    }
}

/// Bits of scales that blocks have, ascending: for each exponent of a maximum its first, last and some values between,
/// and all of the smallest maxima.
fn scales_over_all_exponents(format: Symmetric) -> BTreeSet<u32> {
    const LAST: u32 = (1 << 23) - 1;
    let mut random = 0x2545_f491_u32;
    let mut fraction = || {
        // Marsaglia's xorshift32
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random & LAST
    };
    let mut maxima: Vec<u32> = (1..2000).collect();
    for exponent in 0..INFINITY >> 23 {
        let fractions = [0, 1, 2, LAST - 2, LAST - 1, LAST].into_iter().chain((0..26).map(|_| fraction()));
        maxima.extend(fractions.map(|fraction| exponent << 23 | fraction));
    }
    let scale_bits = |bits| (format.scale)(f32::from_bits(bits)).to_bits();
    maxima.into_iter().map(scale_bits).filter(|&bits| bits > 0).collect()
}

/// The first of a range that `holds`; it must hold for all that follow.
fn smallest(range: Range<u32>, holds: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

/// Significand and exponent field (1 for subnormals) of a finite `f32` ≥ 0: it is `m · 2^(e − 150)`.
fn parts(bits: u32) -> (u64, u32) {
    let exponent = bits >> 23;
    let hidden = u32::from(exponent > 0) << 23;
    (u64::from(bits & ((1 << 23) - 1) | hidden), exponent.max(1))
}

/// The scale of a block by long division of the maximum's significand. Derived from the formula alone: it shares nothing
/// with the reference's `f32` operations, nor with the kernels' single division.
fn scale_in_integers(absmax_bits: u32, k: u8) -> u32 {
    let (m, e) = parts(absmax_bits);
    let (quotient, rest) = ((m << 32) / u64::from(k), (m << 32) % u64::from(k));
    if quotient == 0 {
        return 0;
    }
    // The quotient counts units of 2^(e − 182). Keep 24 bits, but no unit below 2^-149, which is that of subnormals.
    let n_bits = 64 - quotient.leading_zeros();
    let is_subnormal = n_bits + e < 24 + 33;
    let n_dropped = if is_subnormal { 33 - e } else { n_bits - 24 };
    let (kept, dropped) = (quotient >> n_dropped, quotient & ((1 << n_dropped) - 1));
    let half = 1 << (n_dropped - 1);
    let up = if is_subnormal {
        dropped > 0 || rest > 0
    } else {
        dropped > half || (dropped == half && (rest > 0 || kept & 1 == 1))
    };
    let significand = kept + u64::from(up);
    let exponent = e + n_dropped - 33; // that of the unit, from 2^-149 on
    let bits = u32::try_from((u64::from(exponent) << 23) + significand).expect("a scale is finite");

    // k · scale overflows from halfway between f32::MAX and 2^128 on.
    let (m, e) = parts(bits);
    let room = 253 - e;
    let overflows = room < 32 && m * u64::from(k) >= ((1 << 25) - 1) << room;
    bits - u32::from(overflows)
}

/// Bits of the smallest |x| whose code is at least `code`, for a scale: the formula that the kernels count with.
fn threshold_in_integers(code: u8, scale_bits: u32) -> u32 {
    let (m, e) = parts(scale_bits);
    let odd = 2 * u64::from(code) - 1;
    let product = m * odd;
    let sh = (product | 1).ilog2().max(if e < 2 { 24 } else { 23 }) - 23;
    let rest = (product & ((1 << sh) - 1)) << (24 - odd.ilog2());
    let truncated = u64::from(e + sh - 2) << 23;
    u32::try_from(truncated + (product >> sh) + u64::from(rest > m)).expect("a threshold has 32 bits")
}
