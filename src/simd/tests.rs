//! Scales and codes over all of `f32`.

use fearless_simd::{Level, f32x16, prelude::*, u32x16};

use super::encode::Encode;
use super::gguf::write_half;
use super::symmetric::{Sym4, Sym8};
use super::{INFINITY_BITS, LANES, dispatch};
use crate::quant::{half_scale, quant4bit, quant8bit};

/// Runs `work` on two halves of `0..n` and adds up what it gives.
fn in_halves(n: u32, work: impl Fn(std::ops::Range<u32>) -> usize + Sync) -> usize {
    std::thread::scope(|scope| {
        let halves = [0..n / 2, n / 2..n].map(|part| scope.spawn(|| work(part)));
        halves.into_iter().map(|half| half.join().expect("no panic")).sum()
    })
}

/// All of them would take minutes. An odd stride has all low bits, and millions of maxima in each power of two.
const STRIDE: u32 = 3;

/// How many maxima with numbers of `part` give another scale or another code than the reference. The block has its maximum, and a
/// weight that depends on it, within five powers of two or anywhere below.
#[inline(always)]
fn wrong_maxima<S: Simd, E: Encode>(
    simd: S,
    part: std::ops::Range<u32>,
    reference: fn(f32) -> f32,
    reference_code: fn(f32, f32) -> i8,
) -> usize {
    let mut n_wrong = 0;
    for absmax in part.map(|index| index * STRIDE) {
        let hash = absmax.wrapping_mul(0x9e37_79b1).rotate_left(15).wrapping_mul(0x85eb_ca77);
        let span = if hash & 1 == 1 { (absmax + 1).min(0x0280_0000) } else { absmax + 1 };
        let other = (absmax - (hash >> 1) % span) | (hash << 31);
        let mut bits = [0; LANES];
        (bits[0], bits[1]) = (absmax | ((hash & 2) << 30), other);
        let zero = f32x16::splat(simd, 0.0);
        let x = [u32x16::load_array(simd, bits).bitcast(), zero, zero, zero];
        let mut scale = [0; 4];
        let Some([codes, ..]) = E::encode(simd, x, INFINITY_BITS, &mut scale) else {
            n_wrong += 1;
            continue;
        };
        let codes = codes.to_array();
        let expected = reference(f32::from_bits(absmax));
        let mask = if E::SCALE_BYTES == 4 && E::LAYOUT == super::Layout::EvenHigh { 0xf } else { 0xff };
        let right = |lane: usize| {
            let code = i32::from(reference_code(f32::from_bits(bits[lane]), expected)).cast_unsigned();
            (codes[lane] ^ code) & mask == 0
        };
        n_wrong += usize::from(f32::from_le_bytes(scale).to_bits() != expected.to_bits() || !right(0) || !right(1));
    }
    n_wrong
}

#[test]
fn maxima_over_all_exponents_give_the_reference_scale_and_codes_in_sym4() {
    let level = Level::new();
    let wrong = in_halves(
        INFINITY_BITS / STRIDE,
        |part| dispatch!(level, simd => wrong_maxima::<_, Sym4>(simd, part.clone(), quant4bit::scale, quant4bit::code)),
    );
    assert_eq!(wrong, 0);
}

#[test]
fn maxima_over_all_exponents_give_the_reference_scale_and_codes_in_sym8() {
    let level = Level::new();
    let wrong = in_halves(
        INFINITY_BITS / STRIDE,
        |part| dispatch!(level, simd => wrong_maxima::<_, Sym8>(simd, part.clone(), quant8bit::scale, quant8bit::code)),
    );
    assert_eq!(wrong, 0);
}

/// Halves, the middles between them, and numbers beside both, and any others.
#[test]
fn half_scales_are_rounded_as_by_the_reference() {
    let check = |d: f32| {
        let (mut expected, mut actual) = ([0; 2], [0; 2]);
        let expected = half_scale::write(d, &mut expected).ok().map(|()| expected);
        let actual = write_half(d, &mut actual).map(|()| actual);
        assert_eq!(actual, expected, "{d:e} ({:#x})", d.to_bits());
    };
    for bits in 0..=0x7c00_u16 {
        let (half, next) = (half::f16::from_bits(bits).to_f32(), half::f16::from_bits(bits + 1).to_f32());
        for d in [half, half / 2.0 + next / 2.0].into_iter().filter(|d| d.is_finite()) {
            [d, -d, d.next_up(), d.next_down(), -d.next_up(), -d.next_down()].into_iter().for_each(check);
        }
    }
    for bits in (0..INFINITY_BITS).step_by(1009) {
        check(f32::from_bits(bits));
        check(-f32::from_bits(bits));
    }
}
