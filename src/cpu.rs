//! Whole tensors and pieces of them on the CPU: in SIMD registers, on all cores. The bytes and the errors are the
//! [reference](crate::reference)'s.

use fearless_simd::Level;

use crate::dtype::{Dtype, Weights};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::packed::{Packed, PackedChunk, zeroed, zeroed_parts};
use crate::reference;
use crate::simd::{GROUP, Stores};
use crate::threads;

/// Elements that a thread takes at a time at most: they fit a core's cache.
pub(crate) const PART: usize = 1 << 16;

/// Elements that are worth another thread, which takes as long to wake.
const WORTH_A_THREAD: usize = 1 << 15;

/// Bytes of output that the caches won't hold until something reads them.
const MORE_THAN_CACHES: usize = 64 << 20;

/// Parts are whole multiples of it but for the last: whole blocks and groups.
const PART_UNIT: usize = 1 << 12;

/// Elements of each part of so many: as many parts as all threads do together, so that none is left waiting for another's last
/// one.
fn part_len(n_elems: usize) -> usize {
    // Asking how many threads there are starts them.
    if n_elems < 2 * WORTH_A_THREAD {
        return PART;
    }
    let n_parts = n_elems.div_ceil(PART).next_multiple_of(threads::count()).min(n_elems / WORTH_A_THREAD);
    n_elems.div_ceil(n_parts).next_multiple_of(PART_UNIT).min(PART)
}

/// Quantizes a tensor on the CPU, on all its cores or on the rayon pool that it is called in. Blocks are consecutive
/// elements of the flat row-major array; the last may be short. 16-bit weights widen to `f32` exactly.
///
/// # Errors
/// [`Error::Empty`], [`Error::PartialBlock`], [`Error::NonFinite`] with the first index of a NaN or an infinity, or
/// [`Error::ScaleOverflow`].
///
/// ```
/// let packed = wgquant::quantize(wgquant::Format::Sym4, &[0.5_f32, -0.25, 0.1][..])?;
/// assert_eq!(packed.codes(), [0x7d, 0x10]);
/// # Ok::<(), wgquant::Error>(())
/// ```
pub fn quantize<'a>(format: Format, weights: impl Into<Weights<'a>>) -> Result<Packed> {
    let weights = weights.into();
    let (mut codes, mut scales) = zeroed_parts(format.info(), weights.len())?;
    quantize_into(format, weights, 0, &mut codes, &mut scales)?;
    Packed::from_stream(format, weights.len() as u64, codes, scales)
}

/// Dequantizes a tensor on the CPU, as [`quantize`] does, into little-endian elements of `dtype`. Each value is the exact
/// product of code value and scale, rounded once, to nearest even.
///
/// # Errors
/// [`Error::InvalidCode`] or [`Error::InvalidScale`] for bytes that no writer makes, [`Error::Overflow`] for a value beyond
/// `dtype`'s range.
pub fn dequantize(packed: &Packed, dtype: Dtype) -> Result<Vec<u8>> {
    let mut out = zeroed(packed.n_elems().saturating_mul(dtype.n_bytes() as u64))?;
    dequantize_into(packed.format(), packed.codes(), &packed.stream_scales(), 0, dtype, &mut out)?;
    Ok(out)
}

/// [`dequantize`] into `f32` values.
///
/// # Errors
/// As [`dequantize`].
pub fn dequantize_f32(packed: &Packed) -> Result<Vec<f32>> {
    let n_elems = packed.n_elems();
    let mut out = vec![0.0; usize::try_from(n_elems).unwrap_or(usize::MAX)];
    let bytes = bytemuck::cast_slice_mut(&mut out);
    dequantize_into(packed.format(), packed.codes(), &packed.stream_scales(), 0, Dtype::F32, bytes)?;
    Ok(out)
}

/// [`quantize`] into memory that is there already, whatever it holds: codes of `ceil(n · bits / 8)` bytes, and one
/// little-endian scale a block (of nested formats the `f32` scale before it is quantized).
///
/// # Errors
/// As [`quantize`], and [`Error::PackedSize`] for slices of other lengths.
pub fn quantize_to_slices<'a>(
    format: Format,
    weights: impl Into<Weights<'a>>,
    codes: &mut [u8],
    scales: &mut [u8],
) -> Result<()> {
    let weights = weights.into();
    check_parts(format, weights.len() as u64, codes, scales)?;
    quantize_into(format, weights, 0, codes, scales)
}

/// [`dequantize`] into memory that is there already, of a whole number of `dtype`'s elements. Codes and scales are as
/// [`quantize_to_slices`] gives them.
///
/// # Errors
/// As [`dequantize`], and [`Error::PackedSize`] for codes and scales of other lengths than `out` calls for.
pub fn dequantize_to_slice(format: Format, codes: &[u8], scales: &[u8], dtype: Dtype, out: &mut [u8]) -> Result<()> {
    let n_elems = Weights::from_le_bytes(dtype, out)?.len();
    check_parts(format, n_elems as u64, codes, scales)?;
    dequantize_into(format, codes, scales, 0, dtype, out)
}

fn check_parts(format: Format, n_elems: u64, codes: &[u8], scales: &[u8]) -> Result<()> {
    let info = format.info();
    info.check_len(n_elems)?;
    for (what, expected, actual) in
        [("codes", info.codes_bytes(n_elems), codes.len()), ("scales", info.scales_bytes(n_elems), scales.len())]
    {
        if expected != actual as u64 {
            return Err(Error::PackedSize { what, format: info.name, n_elems, expected, actual: actual as u64 });
        }
    }
    Ok(())
}

/// Quantizes whole blocks (only the tensor's last may be short) into codes and scales of fitting length, whatever they
/// hold. `first_elem` is the flat index of the first weight, for messages.
///
/// # Errors
/// That of the first element or block which has one.
pub(crate) fn quantize_into(
    format: Format,
    weights: Weights<'_>,
    first_elem: u64,
    codes: &mut [u8],
    scales: &mut [u8],
) -> Result<()> {
    let (level, part) = (Level::new(), part_len(weights.len()));
    in_parts(format, part, codes, scales, |start, codes, scales| {
        let weights = weights.slice(start..weights.len().min(start + part));
        quantize_part(level, format, weights, first_elem + start as u64, codes, scales)
    })?;
    Ok(())
}

thread_local! {
    /// Weights that a thread has read and not quantized yet.
    static INPUT: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// [`quantize_into`] for `n_elems` weights that `read` gives, from a flat index on: each thread reads what it quantizes, so
/// that reading overlaps with work, and weights are in its cache. There it calls `then` for what it has quantized, and the weights
/// that it has read; what that gives comes back, in order.
///
/// # Errors
/// As [`quantize_into`], and what `read` and `then` return.
pub(crate) fn read_and_quantize<R: Send>(
    format: Format,
    dtype: Dtype,
    (first_elem, n_elems): (u64, usize),
    read: impl Fn(u64, &mut [u8]) -> Result<()> + Sync,
    then: impl Fn(PackedChunk<'_>, Weights<'_>) -> Result<R> + Sync,
    codes: &mut [u8],
    scales: &mut [u8],
) -> Result<Vec<R>> {
    let (level, part) = (Level::new(), part_len(n_elems));
    in_parts(format, part, codes, scales, |start, codes, scales| {
        let first_elem = first_elem + start as u64;
        // Taken out, because `read` may itself work in the pool, and this thread then do another part meanwhile.
        let mut input = INPUT.take();
        input.resize((n_elems - start).min(part) * dtype.n_bytes(), 0);
        read(first_elem, &mut input)?;
        let weights = Weights::from_le_bytes(dtype, &input)?;
        quantize_part(level, format, weights, first_elem, codes, scales)?;
        let result = then(PackedChunk { first_elem, codes, scales }, weights)?;
        INPUT.set(input);
        Ok(result)
    })
}

/// Runs `work` on the codes and scales of each part of so many elements, on all cores, with the index of its first element.
fn in_parts<R: Send>(
    format: Format,
    part: usize,
    codes: &mut [u8],
    scales: &mut [u8],
    work: impl Fn(usize, &mut [u8], &mut [u8]) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let info = format.info();
    if codes.len() <= info.codes_at(part) {
        // A small tensor takes no longer than lists of its one part.
        return Ok(vec![work(0, codes, scales)?]);
    }
    let (codes, scales) = (codes.chunks_mut(info.codes_at(part)), scales.chunks_mut(info.scales_at(part)));
    let parts = codes.zip(scales).enumerate().collect();
    let done =
        threads::map(parts, |(ix, (codes, scales)): (usize, (&mut [u8], &mut [u8]))| work(ix * part, codes, scales));
    done.into_iter().collect()
}

/// [`quantize_into`] on one thread, with the instructions of `level`.
pub(crate) fn quantize_part(
    level: Level,
    format: Format,
    weights: Weights<'_>,
    first_elem: u64,
    codes: &mut [u8],
    scales: &mut [u8],
) -> Result<()> {
    let info = format.info();
    let Some(twin) = info.twin else {
        codes.fill(0);
        return reference::quantize_into(format, weights, first_elem, codes, scales);
    };
    let mut start = 0;
    while start < weights.len() {
        let rest = weights.slice(start..weights.len());
        start += (twin.quantize)(level, rest, &mut codes[info.codes_at(start)..], &mut scales[info.scales_at(start)..]);
        // The twin stopped before this one.
        let end = weights.len().min(start + GROUP);
        let codes = &mut codes[info.codes_at(start)..info.codes_at(end)];
        let scales = &mut scales[info.scales_at(start)..info.scales_at(end)];
        codes.fill(0); // as the reference wants it
        reference::quantize_into(format, weights.slice(start..end), first_elem + start as u64, codes, scales)?;
        start = end;
    }
    Ok(())
}

/// Dequantizes whole blocks (only the tensor's last may be short) into `out`, little-endian elements of `dtype`.
///
/// # Errors
/// That of the first element or block which has one.
pub(crate) fn dequantize_into(
    format: Format,
    codes: &[u8],
    scales: &[u8],
    first_elem: u64,
    dtype: Dtype,
    out: &mut [u8],
) -> Result<()> {
    let (info, level) = (format.info(), Level::new());
    let part = part_len(out.len() / dtype.n_bytes());
    let stores = if out.len() < MORE_THAN_CACHES { Stores::Cached } else { Stores::PastCaches };
    let work = |(ix, out): (usize, &mut [u8])| {
        let start = ix * part;
        let (codes, scales) = (&codes[info.codes_at(start)..], &scales[info.scales_at(start)..]);
        dequantize_part(level, format, (codes, scales), first_elem + start as u64, dtype, stores, out)
    };
    if out.len() <= part * dtype.n_bytes() {
        return work((0, out));
    }
    threads::first_error(out.chunks_mut(part * dtype.n_bytes()).enumerate().collect(), work)
}

/// [`dequantize_into`] on one thread, with the instructions of `level`.
pub(crate) fn dequantize_part(
    level: Level,
    format: Format,
    (codes, scales): (&[u8], &[u8]),
    first_elem: u64,
    dtype: Dtype,
    stores: Stores,
    out: &mut [u8],
) -> Result<()> {
    let info = format.info();
    let Some(twin) = info.twin else {
        return reference::dequantize_into(format, codes, scales, first_elem, dtype, out);
    };
    let (width, mut start) = (dtype.n_bytes(), 0);
    let n_elems = out.len() / width;
    while start < n_elems {
        let (codes_left, scales_left) = (&codes[info.codes_at(start)..], &scales[info.scales_at(start)..]);
        start += (twin.dequantize)(level, codes_left, scales_left, dtype, stores, &mut out[start * width..]);
        // The twin stopped before this one.
        let end = n_elems.min(start + GROUP);
        let (codes, scales) = (&codes[info.codes_at(start)..], &scales[info.scales_at(start)..]);
        let out = &mut out[start * width..end * width];
        reference::dequantize_into(format, codes, scales, first_elem + start as u64, dtype, out)?;
        start = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
