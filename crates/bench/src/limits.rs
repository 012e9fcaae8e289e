//! What memory can do: all threads reading as fast as they can, and writing.

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;

use fearless_simd::{Level, dispatch, prelude::*, u8x64, u32x16};
use rayon::prelude::*;

use crate::cpu;
use crate::runner::Runner;

pub(crate) const READ: &str = "limit: read f32";
pub(crate) const WRITE: &str = "limit: write f32";
pub(crate) const FILL: &str = "limit: memset";
pub(crate) const READ_ONE: &str = "limit: read f32, 1 thread";
pub(crate) const PAST_CACHES: &str = "limit: write f32 past the caches";
pub(crate) const PAST_CACHES_ONE: &str = "limit: write f32 past the caches, 1 thread";
pub(crate) const WRITE_ONE: &str = "limit: write f32, 1 thread";

/// Ways for all threads to write: of each repetition the fastest counts.
pub(crate) const WRITING: &[&str] = &[WRITE, FILL, PAST_CACHES];

/// Bytes that a thread takes at a time.
const CHUNK: usize = 1 << 18;

/// Memory that is written to, shared by all rows: how its pages lie makes more of a difference than what writes them.
pub(crate) type Out = Rc<RefCell<Vec<u8>>>;

pub(crate) fn add<'a>(runner: &mut Runner<'a>, weights: &'a [f32], out: &Out) {
    let (level, n_elems) = (Level::new(), weights.len());
    for (read_name, write_name, past_name, pool) in
        [(READ, WRITE, PAST_CACHES, cpu::pool(0)), (READ_ONE, WRITE_ONE, PAST_CACHES_ONE, cpu::pool(1))]
    {
        #[cfg(target_arch = "x86_64")]
        {
            let (target, pool) = (out.clone(), pool.clone());
            runner.add(past_name, n_elems, move || {
                let out = &mut *target.borrow_mut();
                pool.install(|| out.par_chunks_mut(CHUNK).for_each(write_past_caches));
                Ok(())
            });
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = past_name;
        let (target, write_pool) = (out.clone(), pool.clone());
        runner.add(read_name, n_elems, move || {
            let chunks = bytemuck::cast_slice(weights).par_chunks(CHUNK);
            let sum: u32 = pool.install(|| chunks.map(|bytes| dispatch!(level, simd => read(simd, bytes))).sum());
            black_box(sum);
            Ok(())
        });
        runner.add(write_name, n_elems, move || {
            let out = &mut *target.borrow_mut();
            write_pool.install(|| out.par_chunks_mut(CHUNK).for_each(|out| dispatch!(level, simd => write(simd, out))));
            Ok(())
        });
    }
    let target = out.clone();
    runner.add(FILL, n_elems, move || {
        target.borrow_mut().par_chunks_mut(CHUNK).for_each(|out| out.fill(7));
        Ok(())
    });
}

/// The sum of all words, in four registers.
#[inline(always)]
fn read<S: Simd>(simd: S, bytes: &[u8]) -> u32 {
    let mut sums = [u32x16::splat(simd, 0); 4];
    for bytes in bytes.chunks_exact(256) {
        sums[0] += u8x64::from_slice(simd, &bytes[..64]).bitcast::<u32x16<S>>();
        sums[1] += u8x64::from_slice(simd, &bytes[64..128]).bitcast::<u32x16<S>>();
        sums[2] += u8x64::from_slice(simd, &bytes[128..192]).bitcast::<u32x16<S>>();
        sums[3] += u8x64::from_slice(simd, &bytes[192..]).bitcast::<u32x16<S>>();
    }
    ((sums[0] + sums[1]) + (sums[2] + sums[3])).reduce_sum()
}

#[inline(always)]
fn write<S: Simd>(simd: S, out: &mut [u8]) {
    let value = u8x64::splat(simd, 7);
    for out in out.chunks_exact_mut(64) {
        value.store_slice(out);
    }
}

/// By stores that don't read a line before they write it.
#[cfg(target_arch = "x86_64")]
fn write_past_caches(out: &mut [u8]) {
    use std::arch::x86_64::{__m128i, _mm_set1_epi8, _mm_sfence, _mm_stream_si128};
    // SAFETY: any bytes make a vector, and SSE2 is part of x86-64. The middle part is as aligned as its type is; the fence is
    // before anyone else sees it.
    unsafe {
        let (before, out, after) = out.align_to_mut::<__m128i>();
        before.fill(7);
        for out in out.chunks_exact_mut(4) {
            for out in out {
                _mm_stream_si128(out, _mm_set1_epi8(7));
            }
        }
        after.fill(7);
        _mm_sfence();
    }
}
