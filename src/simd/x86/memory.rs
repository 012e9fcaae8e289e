//! Memory beyond the caches: loads are asked for ahead, and stores may go past them.

#![expect(unsafe_code, reason = "both take a pointer")]

use std::arch::x86_64::{
    _MM_HINT_T0, _mm_prefetch, _mm_sfence, _mm_stream_ps, _mm256_castps256_ps128, _mm256_extractf128_ps,
};
use std::marker::PhantomData;

use fearless_simd::{Avx2, f32x8, kernel, prelude::*, u8x32};

type F32x8 = f32x8<Avx2>;

/// Stores eight values in memory that is borrowed for `'a`.
pub(in crate::simd) trait Store<'a> {
    fn store(&self, values: F32x8, out: &'a mut [u8; 32]);
}

/// As ever.
pub(in crate::simd) struct Cached;

impl<'a> Store<'a> for Cached {
    #[inline(always)]
    fn store(&self, values: F32x8, out: &'a mut [u8; 32]) {
        values.bitcast::<u8x32<Avx2>>().store_slice(out);
    }
}

/// Past the caches: a line that is written as a whole isn't read before.
///
/// The processor may show such stores to other threads later than what is stored after them, up to a fence, which comes when this is
/// dropped. Up to then nobody can look: what was stored is borrowed for `'a`, and that outlives this.
pub(in crate::simd) struct PastCaches<'a>(PhantomData<&'a mut [u8]>);

impl PastCaches<'_> {
    pub(in crate::simd) fn new() -> Self {
        Self(PhantomData)
    }
}

impl Drop for PastCaches<'_> {
    fn drop(&mut self) {
        // SAFETY: it is part of SSE, which x86-64 has.
        unsafe { _mm_sfence() };
    }
}

impl<'a> Store<'a> for PastCaches<'a> {
    #[inline(always)]
    fn store(&self, values: F32x8, out: &'a mut [u8; 32]) {
        if out.as_ptr().addr().is_multiple_of(16) {
            stream(values.token(), values, out);
        } else {
            Cached.store(values, out);
        }
    }
}

kernel!(
    /// `out` has to begin at a multiple of 16 bytes.
    #[inline(always)]
    fn stream(avx2: Avx2, values: F32x8, out: &mut [u8; 32]) {
        let (low, high) = (_mm256_castps256_ps128(values.into()), _mm256_extractf128_ps::<1>(values.into()));
        let at = out.as_mut_ptr().cast::<f32>();
        // SAFETY: both halves of `out` are written, and nothing else. The only caller has looked where they begin.
        unsafe {
            _mm_stream_ps(at, low);
            _mm_stream_ps(at.add(4), high);
        }
    }
);

/// How many bytes ahead weights are asked for. With half or twice as many most formats are slower.
pub(super) const AHEAD: usize = 4096;

/// How many bytes ahead a single line is asked for, so that where its page lies is known by the time that others are.
pub(super) const PAGES_AHEAD: usize = 4 * 4096;

/// Asks for the line of memory that these bytes begin in.
#[inline(always)]
pub(super) fn prefetch(bytes: &[u8]) {
    // SAFETY: it is part of SSE, and a hint, which reads nothing that the program could see.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().cast()) };
}

#[inline(always)]
pub(super) fn prefetch_after(bytes: &[u8]) {
    // SAFETY: it is part of SSE, and a hint, which reads nothing that the program could see.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(AHEAD).cast()) };
}
