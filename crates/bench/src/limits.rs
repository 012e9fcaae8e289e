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
pub(crate) const WRITE_ONE: &str = "limit: write f32, 1 thread";

/// Bytes that a thread takes at a time.
const CHUNK: usize = 1 << 18;

/// Memory that is written to, shared by all rows: how its pages lie makes more of a difference than what writes them.
pub(crate) type Out = Rc<RefCell<Vec<u8>>>;

pub(crate) fn add<'a>(runner: &mut Runner<'a>, weights: &'a [f32], out: &Out) {
    let (level, n_elems) = (Level::new(), weights.len());
    for (read_name, write_name, pool) in [(READ, WRITE, cpu::pool(0)), (READ_ONE, WRITE_ONE, cpu::pool(1))] {
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
