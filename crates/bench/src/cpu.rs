//! The CPU path: each format in both directions, on one thread and on all.

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;
use rayon::{ThreadPool, ThreadPoolBuilder};
use wgquant::{Dtype, Format, Weights};

use crate::limits::{self, Out};
use crate::runner::Runner;

/// The name of a measurement.
pub(crate) fn name(format: Format, direction: &str, threads: &str) -> String {
    format!("cpu: {direction} {format}, {threads}")
}

pub(crate) const QUANTIZE: &str = "quantize f32";
/// The same few weights over and over, by each thread for itself: what memory doesn't bind.
pub(crate) const QUANTIZE_CACHED: &str = "quantize f32 in cores' caches";
pub(crate) const QUANTIZE_BF16: &str = "quantize bf16";
pub(crate) const DEQUANTIZE: &str = "dequantize to f32";
pub(crate) const DEQUANTIZE_BF16: &str = "dequantize to bf16";
pub(crate) const ONE: &str = "1 thread";
pub(crate) const ALL: &str = "all threads";

/// Weights that a core's cache holds together with their codes, and that one thread does.
const IN_CACHE: usize = 1 << 15;

/// Formats with a kernel of their own: nested scales are another step on the same codes.
pub(crate) fn formats() -> impl Iterator<Item = Format> {
    Format::ALL.iter().copied().filter(|format| !format.name().ends_with("-dq"))
}

/// Threads, or as many as there are cores for 0.
pub(crate) fn pool(n_threads: usize) -> Rc<ThreadPool> {
    Rc::new(ThreadPoolBuilder::new().num_threads(n_threads).build().expect("threads"))
}

/// Memory for packed weights.
fn packed(format: Format, n_elems: usize) -> (Vec<u8>, Vec<u8>) {
    let (info, n) = (format.info(), n_elems as u64);
    (vec![1; info.codes_bytes(n) as usize], vec![1; info.scales_bytes(n) as usize])
}

pub(crate) fn add<'a>(runner: &mut Runner<'a>, weights: &'a [f32], out: &Out) {
    let n_elems = weights.len();
    let halves: Rc<[half::bf16]> = weights.iter().map(|&x| half::bf16::from_f32(x)).collect();
    let pools = [(ONE, pool(1)), (ALL, pool(0))];
    for format in formats() {
        let parts = Rc::new(RefCell::new(packed(format, n_elems)));
        for (direction, dtype) in [(QUANTIZE, Dtype::F32), (QUANTIZE_BF16, Dtype::BF16)] {
            for (threads, pool) in &pools {
                let (pool, parts, halves) = (pool.clone(), parts.clone(), halves.clone());
                let row = runner.add(name(format, direction, threads), n_elems, move || {
                    let weights = if dtype == Dtype::F32 { Weights::from(weights) } else { Weights::from(&*halves) };
                    let (codes, scales) = &mut *parts.borrow_mut();
                    pool.install(|| wgquant::quantize_to_slices(format, weights, codes, scales))?;
                    Ok(())
                });
                if (direction, *threads) == (QUANTIZE, ALL) {
                    row.beside = &[limits::READ];
                }
            }
        }
        let few = &weights[..IN_CACHE.min(n_elems)];
        for (threads, pool) in &pools {
            let (pool, n_threads) = (pool.clone(), pool.current_num_threads());
            let n_calls = n_elems.div_ceil(few.len() * n_threads);
            runner.add(name(format, QUANTIZE_CACHED, threads), n_calls * n_threads * few.len(), move || {
                let each = |_: rayon::BroadcastContext<'_>| {
                    let (mut codes, mut scales) = packed(format, few.len());
                    (0..n_calls).try_for_each(|_| wgquant::quantize_to_slices(format, few, &mut codes, &mut scales))
                };
                Ok(pool.broadcast(each).into_iter().collect::<Result<_, _>>()?)
            });
        }
        for (direction, dtype) in [(DEQUANTIZE, Dtype::F32), (DEQUANTIZE_BF16, Dtype::BF16)] {
            for (threads, pool) in &pools {
                let (pool, parts, out) = (pool.clone(), parts.clone(), out.clone());
                let row = runner.add(name(format, direction, threads), n_elems, move || {
                    let (codes, scales) = &*parts.borrow();
                    let out = &mut out.borrow_mut()[..n_elems * dtype.n_bytes()];
                    pool.install(|| wgquant::dequantize_to_slice(format, codes, scales, dtype, out))?;
                    black_box(out);
                    Ok(())
                });
                if (direction, *threads) == (DEQUANTIZE, ALL) {
                    row.beside = limits::WRITING;
                }
            }
        }
    }
}

/// Tensors of so many weights and more are to come from memory, and not from a cache that several of them fit.
const OUT_OF_CACHE: usize = 1 << 26;

/// What an element costs, for tensors from small to more than 2^32 bytes and 2^31 elements.
pub(crate) fn sizes(n_repetitions: usize) -> Result<()> {
    println!("## Cost of an element, sym4 from bf16\n");
    println!("| elements | ns, all threads | of the cost at 1 Gi | ns, 1 thread | of the cost at 1 Gi |");
    println!("| --- | --- | --- | --- | --- |");
    let values = crate::data::weights(1 << 20);
    let values: Vec<half::bf16> = values.iter().map(|&x| half::bf16::from_f32(x)).collect();
    const LARGEST: usize = 1 << 32;
    let weights: Vec<half::bf16> = values.into_iter().cycle().take(LARGEST).collect();
    let (mut codes, mut scales) = packed(Format::Sym4, LARGEST);
    let info = Format::Sym4.info();
    let one = pool(1);
    let mut references = None;
    // The reference size first, so that all others can be set against it.
    for log2 in [30, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 31, 32] {
        let n_elems = 1_usize << log2;
        // Small tensors are measured many at a time, and large ones each at another place.
        let n_calls = (1_usize << 22 >> log2).max(1);
        let mut first = 0;
        let mut run = || -> Result<f64> {
            let end = first + n_elems;
            let bytes = |bytes: &dyn Fn(u64) -> u64| bytes(first as u64) as usize..bytes(end as u64) as usize;
            let weights = &weights[first..end];
            let codes = &mut codes[bytes(&|n| info.codes_bytes(n))];
            let scales = &mut scales[bytes(&|n| info.scales_bytes(n))];
            first = if n_elems < OUT_OF_CACHE { 0 } else { end % LARGEST };
            let start = Instant::now();
            for _ in 0..n_calls {
                wgquant::quantize_to_slices(Format::Sym4, weights, codes, scales)?;
            }
            Ok(start.elapsed().as_secs_f64() / n_calls as f64 / n_elems as f64 * 1e9)
        };
        run()?;
        let mut costs = [f64::INFINITY; 2];
        for _ in 0..n_repetitions.min(if log2 > 28 { 5 } else { 25 }) {
            costs[0] = run()?.min(costs[0]);
            costs[1] = one.install(&mut run)?.min(costs[1]);
        }
        let [all, one] = costs;
        let [of_all, of_one] = *references.get_or_insert(costs);
        println!("| 2^{log2} | {all:.3} | {:.2} | {one:.3} | {:.2} |", all / of_all, one / of_one);
    }
    println!();
    Ok(())
}
