//! Guesses against exact operations, and that chunks are done as chunks.

use fearless_simd::Level;

use super::super::codebook::{Fp4, Nf4};
use super::super::gguf::{Q40, Q80};
use super::super::mxfp4::Mx;
use super::super::symmetric::{Sym4, Sym8};
use super::*;
use crate::random::SplitMix;

macro_rules! for_all_formats {
    ($hold:ident, $simd:expr) => {
        $hold::<_, Sym4>($simd, "sym4");
        $hold::<_, Sym8>($simd, "sym8");
        $hold::<_, Nf4>($simd, "nf4");
        $hold::<_, Fp4>($simd, "fp4");
        $hold::<_, Q40>($simd, "q4_0");
        $hold::<_, Q80>($simd, "q8_0");
        $hold::<_, Mx>($simd, "mxfp4");
    };
}

/// With AVX2, and with AVX-512 where the CPU has it.
macro_rules! for_all_sets {
    ($hold:ident) => {
        let level = Level::new();
        for_all_formats!($hold, level.as_avx2().expect("these tests need a CPU with AVX2"));
        if let Some(avx512) = level.as_avx512() {
            for_all_formats!($hold, avx512);
        }
    };
}

/// Eight blocks with these maxima, each in the last place but one.
fn blocks<E: Chunk>(maxima: [f32; 8]) -> Vec<u8> {
    let mut values = vec![0.0_f32; 8 * E::BLOCK];
    for (block, max) in values.chunks_exact_mut(E::BLOCK).zip(maxima) {
        block[E::BLOCK - 2] = max;
    }
    bytemuck::cast_slice(&values).to_vec()
}

/// Looks at every magnitude from the block's maximum to an eighth of it, and at every 61st below, with both signs: gives how
/// many are guessed, and sure and wrong.
#[inline(always)]
fn guesses<S: Lanes, E: Chunk>(simd: S, absmax: f32) -> (usize, usize) {
    let mut scales = vec![0; 8 * E::BLOCK / 64 * E::SCALE_BYTES];
    let values = blocks::<E>([absmax; 8]);
    let maxima = maxima::<S, E, f32>(simd, &values);
    let factors = E::scales::<S, f32>(simd, &maxima, &values, &mut scales).expect("ordinary maxima");
    let (rough, exact): ([f32; 8], [f32; 8]) = (factors.rough.into(), factors.exact.into());
    let ignored = if E::LAYOUT == Layout::EvenHigh { 0xf0 } else { 0 };
    let lanes: u32x16<S> = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15].simd_into(simd);

    let (mut n_guessed, mut n_wrong) = (0, 0);
    let (mut bits, end) = (absmax.to_bits() + 1, absmax.to_bits() - (3 << 23));
    while bits > 1 << 23 {
        let step = if bits > end { 1 } else { 61 };
        bits -= (16 * step).min(bits);
        let magnitudes = (lanes * step + bits).min(absmax.to_bits());
        let x: [f32x16<S>; 2] = [magnitudes.bitcast(), (magnitudes | (1 << 31)).bitcast()];
        let (codes, distances) = E::guess(simd, x, rough[0]);
        if simd.are_all_from(distances, DOUBTFUL) {
            let expected = simd.low_bytes([E::exact(simd, x[0], exact[0]), E::exact(simd, x[1], exact[0])]);
            n_guessed += 32;
            n_wrong += ((codes ^ expected) & !ignored).simd_gt(0).to_bitmask().count_ones() as usize;
        }
    }
    (n_guessed, n_wrong)
}

/// Maxima with extreme and random mantissas, of a few sizes.
fn hold_guesses<S: Lanes, E: Chunk>(simd: S, name: &str) {
    let mut random = SplitMix::new(31);
    let mantissas = [0, 1, 0x7f_ffff, 0x60_0000, 0x7e_0000]
        .into_iter()
        .chain(std::iter::repeat_with(|| u32::try_from(random.below(1 << 23)).expect("23 bits")));
    let maxima: Vec<f32> = mantissas
        .zip([127, 120, 127 + 16, 127 - 99, 130].into_iter().cycle())
        .take(6)
        .map(|(mantissa, exponent)| f32::from_bits((exponent << 23) | mantissa))
        .collect();
    let done: Vec<(usize, usize)> = std::thread::scope(|scope| {
        let parts: Vec<_> = maxima
            .chunks(3)
            .map(|part| {
                scope.spawn(move || {
                    simd.vectorize(
                        #[inline(always)]
                        || part.iter().map(|&absmax| guesses::<S, E>(simd, absmax)).collect::<Vec<_>>(),
                    )
                })
            })
            .collect();
        parts.into_iter().flat_map(|part| part.join().expect("no panic")).collect()
    });
    for (absmax, (n_guessed, n_wrong)) in maxima.iter().zip(done) {
        assert_eq!(n_wrong, 0, "{name} with a maximum of {absmax:e}");
        assert!(n_guessed > 40_000_000, "{name} with a maximum of {absmax:e} guesses only {n_guessed}");
    }
}

#[test]
fn no_sure_guess_differs_from_the_exact_code() {
    for_all_sets!(hold_guesses);
}

/// How many elements are done as chunks.
fn done<S: Lanes, E: Chunk>(simd: S, weights: &[f32]) -> usize {
    let n = weights.len();
    let mut codes = vec![0; if E::LAYOUT == Layout::Bytes { n } else { n / 2 }];
    let mut scales = vec![0; n / 64 * E::SCALE_BYTES];
    simd.vectorize(
        #[inline(always)]
        || chunks::<S, E>(simd, weights.into(), &mut codes, &mut scales),
    )
}

fn hold_chunks<S: Lanes, E: Chunk>(simd: S, name: &str) {
    let (n, mut random) = (8 * E::BLOCK, SplitMix::new(32));
    #[expect(clippy::cast_precision_loss, reason = "any values will do")]
    let mut weights: Vec<f32> = (0..4 * n + 128).map(|_| random.below(1 << 24) as f32 / 1e8 - 0.08).collect();
    assert_eq!(done::<S, E>(simd, &weights), 4 * n, "{name}");
    weights[n..2 * n].fill(0.0);
    weights[n + 32] = -0.0;
    assert_eq!(done::<S, E>(simd, &weights), 4 * n, "{name} with a chunk of zeros");
    for unusual in [f32::NAN, f32::NEG_INFINITY, 1e35] {
        weights[3 * n + 7] = unusual;
        assert_eq!(done::<S, E>(simd, &weights), 3 * n, "{name} with {unusual}");
    }
    weights[2 * n..2 * n + E::BLOCK].fill(1e-35);
    assert_eq!(done::<S, E>(simd, &weights), 2 * n, "{name} with a small block");
}

#[test]
fn chunks_end_before_what_is_not_ordinary() {
    for_all_sets!(hold_chunks);
}
