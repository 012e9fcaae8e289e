//! Memory beyond the caches: loads are asked for ahead, and stores may go past them.

#![expect(unsafe_code, reason = "both take a pointer")]

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch, _mm_sfence, _mm_stream_si128};
use std::marker::PhantomData;

use fearless_simd::{prelude::*, u8x16, u8x32, u8x64};

use super::super::decode::{Cached, Store};

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
    fn store<S: Simd>(&self, bytes: u8x64<S>, out: &'a mut [u8; 64]) {
        let (low, high) = bytes.split();
        if let [first, second] = out.as_chunks_mut().0 {
            self.store_half(low, first);
            self.store_half(high, second);
        }
    }

    #[inline(always)]
    fn store_half<S: Simd>(&self, bytes: u8x32<S>, out: &'a mut [u8; 32]) {
        if !out.as_ptr().addr().is_multiple_of(16) {
            return Cached.store_half(bytes, out);
        }
        let (low, high) = bytes.split();
        if let [first, second] = out.as_chunks_mut().0 {
            stream(low, first);
            stream(high, second);
        }
    }
}

/// `out` has to begin at a multiple of 16 bytes.
#[inline(always)]
fn stream<S: Simd>(bytes: u8x16<S>, out: &mut [u8; 16]) {
    // SAFETY: it is part of SSE2, which x86-64 has, and writes `out` and nothing else. The only caller has looked where it begins.
    unsafe { _mm_stream_si128(out.as_mut_ptr().cast(), bytes.into()) };
}

/// How many bytes ahead weights and codes are asked for. With half or twice as many most formats are slower.
pub(in crate::simd) const AHEAD: usize = 4096;

/// How many bytes ahead a single line is asked for, so that where its page lies is known by the time that others are.
pub(super) const PAGES_AHEAD: usize = 4 * 4096;

/// Asks for the line of memory that has the byte at `at`, if there is one.
#[inline(always)]
pub(in crate::simd) fn prefetch(bytes: &[u8], at: usize) {
    if let Some(byte) = bytes.get(at) {
        // SAFETY: it is part of SSE, and a hint, which reads nothing that the program could see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(byte).cast()) };
    }
}
