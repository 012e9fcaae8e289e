//! Where the work is done: on a GPU, or on the CPU path. Both take a tensor in pieces and give the same bytes.

use crate::cpu;
use crate::dtype::{Dtype, Weights};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::gpu::{Elements, Gpu, Work};
use crate::packed::{Packed, PackedChunk, room, zeroed_parts};
use crate::threads;

/// Elements that the CPU path takes at a time.
const CPU_CHUNK_ELEMS: usize = 1 << 20;

/// Elements of a tensor in memory between two looks at whether to go on: so many that cutting costs nothing.
const CHECK_ELEMS: usize = 1 << 25;

/// The least that [`Engine::with_memory`] takes.
pub const MIN_MEMORY_BYTES: u64 = 64 << 20;

/// Buffers of a chunk's size that a GPU's stream has at most, on host and device: two chunks in flight, of which each has
/// its inputs in staging memory and in the kernel's buffers, and so its outputs, of at most as many bytes each.
const BUFFERS_IN_FLIGHT: u64 = 12;

/// What quantizes and dequantizes.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub enum Engine {
    /// The CPU path.
    Cpu,
    /// A GPU.
    Gpu(Gpu),
}

impl Engine {
    /// The engine that a user names: `cpu`; `auto` for the best hardware GPU and, where there is none, the CPU path;
    /// else an adapter as [`Gpu::open`] takes it.
    ///
    /// # Errors
    /// As [`Gpu::open`] and [`Gpu::open_best`].
    pub async fn open(device: &str) -> Result<Self> {
        match device {
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(Gpu::open_best().await?.map_or(Self::Cpu, Self::Gpu)),
            name => Gpu::open(name).await.map(Self::Gpu),
        }
    }

    /// The engines that a user names, with commas between them, each as [`Self::open`] takes it; a comma within parentheses
    /// belongs to a name.
    ///
    /// # Errors
    /// [`Error::Refused`] for an empty or a repeated name, and for `auto` among others; and as [`Self::open`].
    pub async fn open_all(devices: &str) -> Result<Vec<Self>> {
        let names = Self::names(devices)?;
        let mut engines = Vec::with_capacity(names.len());
        for name in names {
            engines.push(Self::open(name).await?);
        }
        Ok(engines)
    }

    /// The names in such a list, each as [`Self::open`] takes it.
    ///
    /// # Errors
    /// [`Error::Refused`] as [`Self::open_all`].
    pub fn names(devices: &str) -> Result<Vec<&str>> {
        device_names(devices)
    }

    /// [`Self::with_memory`] for engines that work at the same time: each gets an equal part of `n_bytes`.
    ///
    /// # Errors
    /// [`Error::Refused`] for less than [`MIN_MEMORY_BYTES`] each.
    pub fn share_memory(engines: Vec<Self>, n_bytes: u64) -> Result<Vec<Self>> {
        let n_engines = engines.len().max(1) as u64;
        let least = MIN_MEMORY_BYTES * n_engines;
        if n_engines > 1 && n_bytes < least {
            return Err(Error::Refused(format!(
                "{n_bytes} bytes of memory are too few for {n_engines} devices: at least {} MiB are needed",
                least >> 20
            )));
        }
        engines.into_iter().map(|engine| engine.with_memory(n_bytes / n_engines)).collect()
    }

    /// Who did it, of several engines: their descriptions with ` + ` between them.
    #[must_use]
    pub fn description_of(engines: &[Self]) -> String {
        engines.iter().map(Self::description).collect::<Vec<_>>().join(" + ")
    }

    /// Keeps what is in flight at a time within `n_bytes` on host and device together: more of a tensor goes through in
    /// more pieces. No byte of the result depends on it.
    ///
    /// # Errors
    /// [`Error::Refused`] for less than [`MIN_MEMORY_BYTES`].
    pub fn with_memory(self, n_bytes: u64) -> Result<Self> {
        if n_bytes < MIN_MEMORY_BYTES {
            let text =
                format!("{n_bytes} bytes of memory are too few: at least {} MiB are needed", MIN_MEMORY_BYTES >> 20);
            return Err(Error::Refused(text));
        }
        Ok(match self {
            // What it takes at a time is a few MiB whatever is asked for.
            Self::Cpu => Self::Cpu,
            Self::Gpu(gpu) => {
                let chunk = (n_bytes / BUFFERS_IN_FLIGHT).min(gpu.max_chunk_bytes());
                Self::Gpu(gpu.with_max_chunk_bytes(chunk))
            }
        })
    }

    /// Another engine on the same device, for one job that shall take less memory: as [`Self::with_memory`], and never more
    /// than this one takes.
    ///
    /// # Errors
    /// As [`Self::with_memory`].
    pub fn share_with_memory(&self, n_bytes: u64) -> Result<Self> {
        match self {
            Self::Cpu => Self::Cpu.with_memory(n_bytes),
            Self::Gpu(gpu) => Self::Gpu(gpu.share()).with_memory(n_bytes),
        }
    }

    /// Who did it, for reports and messages: `CPU`, or the adapter's name, backend and driver.
    #[must_use]
    pub fn description(&self) -> String {
        match self {
            Self::Cpu => "CPU".to_owned(),
            Self::Gpu(gpu) => gpu.description(),
        }
    }

    /// Builds what weights of these formats and types need on a GPU, several kernels at a time. An error shows again where the
    /// work needs the kernel.
    pub(crate) async fn prepare_to_quantize(&self, kinds: &[(Format, Dtype)]) {
        if let Self::Gpu(gpu) = self {
            let work: Vec<_> = kinds.iter().map(|&(format, dtype)| Work::Quantize { format, dtype }).collect();
            let _ = gpu.prepare(&work).await;
        }
    }

    /// Quantizes a tensor in memory, as [`quantize()`](crate::quantize()) and [`Gpu::quantize`] do. `check` is called between
    /// pieces of some millions of elements, and an error that it returns ends the call.
    ///
    /// # Errors
    /// As [`quantize()`](crate::quantize()), the GPU's errors, and what `check` returns.
    pub async fn quantize<'a>(
        &self,
        format: Format,
        weights: impl Into<Weights<'a>>,
        mut check: impl FnMut() -> Result<()>,
    ) -> Result<Packed> {
        let weights = weights.into();
        let (info, n_elems) = (format.info(), weights.len());
        if let Self::Gpu(gpu) = self {
            let (dtype, n_elems) = (weights.dtype(), n_elems as u64);
            info.check_len(n_elems)?;
            let (mut codes, mut scales) = (room(info.codes_bytes(n_elems))?, room(info.scales_bytes(n_elems))?);
            let mut write = |chunk: PackedChunk<'_>| {
                codes.extend_from_slice(chunk.codes);
                scales.extend_from_slice(chunk.scales);
                check()
            };
            gpu.quantize_stream(format, dtype, n_elems, Elements::Memory(weights.bytes()), &mut write).await?;
            return Packed::from_stream(format, n_elems, codes, scales);
        }
        let (mut codes, mut scales) = zeroed_parts(info, n_elems)?;
        for first in (0..n_elems).step_by(CHECK_ELEMS) {
            check()?;
            let end = n_elems.min(first + CHECK_ELEMS);
            let codes = &mut codes[info.codes_at(first)..info.codes_at(end)];
            let scales = &mut scales[info.scales_at(first)..info.scales_at(end)];
            cpu::quantize_into(format, weights.slice(first..end), first as u64, codes, scales)?;
        }
        Packed::from_stream(format, n_elems as u64, codes, scales)
    }

    /// Dequantizes a tensor in memory into `out`, little-endian elements of `dtype`, as
    /// [`dequantize()`](crate::dequantize()) does. `check` is called as [`Self::quantize`] does.
    ///
    /// # Errors
    /// As [`dequantize()`](crate::dequantize()), the GPU's errors, what `check` returns, and [`Error::Refused`] for an `out`
    /// of another length.
    pub async fn dequantize(
        &self,
        packed: &Packed,
        dtype: Dtype,
        out: &mut [u8],
        mut check: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let (format, width, n_bytes) = (packed.format(), dtype.n_bytes(), out.len() as u64);
        let wanted = packed.n_elems().saturating_mul(width as u64);
        if n_bytes != wanted {
            return Err(Error::Refused(format!("the values take {wanted} bytes, and there is room for {n_bytes}")));
        }
        if let Self::Gpu(_) = self {
            let write = |first: u64, values: &[u8]| {
                let at = usize::try_from(first).unwrap_or(usize::MAX) * width;
                out[at..at + values.len()].copy_from_slice(values);
                check()
            };
            return self.dequantize_from_memory(packed, dtype, write).await;
        }
        let (info, scales, codes) = (format.info(), packed.stream_scales(), packed.codes());
        for (piece, out) in out.chunks_mut(CHECK_ELEMS * width).enumerate() {
            check()?;
            let first = piece * CHECK_ELEMS;
            let (codes, scales) = (&codes[info.codes_at(first)..], &scales[info.scales_at(first)..]);
            cpu::dequantize_into(format, codes, scales, first as u64, dtype, out)?;
        }
        Ok(())
    }

    /// Quantizes a tensor of `n_elems` weights in pieces. `read` fills a buffer with the elements from a flat index on, on
    /// any thread, several at a time; `write` takes the packed pieces in order. Memory does not depend on `n_elems`.
    ///
    /// # Errors
    /// [`Error::NonFinite`](crate::Error::NonFinite) with the first index of a NaN or an infinity, the GPU's errors, and
    /// whatever `read` and `write` return. Pieces that were handed out before an error are not to be used.
    pub async fn quantize_stream(
        &self,
        format: Format,
        dtype: Dtype,
        n_elems: u64,
        read: impl Fn(u64, &mut [u8]) -> Result<()> + Sync,
        mut write: impl FnMut(PackedChunk<'_>) -> Result<()>,
    ) -> Result<()> {
        format.info().check_len(n_elems)?;
        match self {
            Self::Gpu(gpu) => {
                let mut read = |first_elem: u64, out: &mut [u8]| read(first_elem, out);
                gpu.quantize_stream(format, dtype, n_elems, Elements::Read(&mut read), &mut write).await
            }
            Self::Cpu => {
                self.quantize_stream_with(format, dtype, n_elems, read, |_, _| Ok(()), |chunk, _| write(chunk)).await
            }
        }
    }

    /// [`Self::quantize_stream`] with `each`, which is called for parts of every piece before `write` is, on the thread that has
    /// made a part: there it is in the cache, and so are its weights, unless they went to a GPU. What it gives for a piece's parts
    /// comes with the piece, in order.
    ///
    /// # Errors
    /// As [`Self::quantize_stream`], and whatever `each` returns.
    pub(crate) async fn quantize_stream_with<R: Send>(
        &self,
        format: Format,
        dtype: Dtype,
        n_elems: u64,
        read: impl Fn(u64, &mut [u8]) -> Result<()> + Sync,
        each: impl Fn(PackedChunk<'_>, Option<Weights<'_>>) -> Result<R> + Sync,
        mut write: impl FnMut(PackedChunk<'_>, Vec<R>) -> Result<()>,
    ) -> Result<()> {
        let info = format.info();
        info.check_len(n_elems)?;
        let Self::Gpu(gpu) = self else {
            let quantize = |(first_elem, n): (u64, usize), mut chunk: CpuChunk| {
                chunk.first_elem = first_elem;
                chunk.codes.resize(info.codes_at(n), 0);
                chunk.scales.resize(info.scales_at(n), 0);
                let CpuChunk { codes, scales, .. } = &mut chunk;
                let each = |chunk: PackedChunk<'_>, weights: Weights<'_>| each(chunk, Some(weights));
                let results = cpu::read_and_quantize(format, dtype, (first_elem, n), &read, each, codes, scales)?;
                Ok((chunk, results))
            };
            let mut write = |CpuChunk { first_elem, codes, scales }: &CpuChunk, results| {
                write(PackedChunk { first_elem: *first_elem, codes, scales }, results)
            };
            // Each chunk is written while the next one is quantized.
            let mut chunks = cpu_chunks(n_elems);
            let Some(first) = chunks.next() else { return Ok(()) };
            let ((mut done, mut results), mut idle) = (quantize(first, CpuChunk::default())?, CpuChunk::default());
            for next in chunks {
                let (next, written) = threads::beside(|| quantize(next, idle), || write(&done, results));
                written?;
                let quantized;
                (quantized, results) = next?;
                idle = std::mem::replace(&mut done, quantized);
            }
            return write(&done, results);
        };
        let n_blocks = CPU_CHUNK_ELEMS / info.block;
        let mut read = |first_elem: u64, out: &mut [u8]| read(first_elem, out);
        let mut write = |chunk: PackedChunk<'_>| {
            // In pieces as the CPU path makes them, so that what `each` gives takes no more memory.
            let codes = chunk.codes.chunks(n_blocks * info.block_codes_bytes());
            let pieces = codes.zip(chunk.scales.chunks(n_blocks * info.scale.n_bytes()));
            for (first_elem, (codes, scales)) in (chunk.first_elem..).step_by(n_blocks * info.block).zip(pieces) {
                let piece = PackedChunk { first_elem, codes, scales };
                write(piece, vec![each(piece, None)?])?;
            }
            Ok(())
        };
        gpu.quantize_stream(format, dtype, n_elems, Elements::Read(&mut read), &mut write).await
    }

    /// Quantizes a tensor of `n_elems` weights in pieces, of which `read` hands out as for [`Self::quantize_stream`], into
    /// memory: only what is packed is held. `done` is told how many elements are packed so far, and ends it with an error.
    ///
    /// # Errors
    /// As [`Self::quantize_stream`], and whatever `done` returns.
    pub async fn quantize_to_memory(
        &self,
        format: Format,
        dtype: Dtype,
        n_elems: u64,
        read: impl Fn(u64, &mut [u8]) -> Result<()> + Sync,
        mut done: impl FnMut(u64) -> Result<()>,
    ) -> Result<Packed> {
        let info = format.info();
        let (mut codes, mut scales) = (room(info.codes_bytes(n_elems))?, room(info.scales_bytes(n_elems))?);
        self.quantize_stream(format, dtype, n_elems, read, |chunk| {
            codes.extend_from_slice(chunk.codes);
            scales.extend_from_slice(chunk.scales);
            // Two codes a byte at most, so this may be one too many at the end.
            done(n_elems.min(codes.len() as u64 * 8 / info.bits as u64))
        })
        .await?;
        Packed::from_stream(format, n_elems, codes, scales)
    }

    /// Dequantizes a packed tensor in pieces, which `write` takes as for [`Self::dequantize_stream`].
    ///
    /// # Errors
    /// As [`Self::dequantize_stream`].
    pub async fn dequantize_from_memory(
        &self,
        packed: &Packed,
        dtype: Dtype,
        write: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let read = packed.stream_reader();
        self.dequantize_stream(packed.format(), dtype, packed.n_elems(), read, write).await
    }

    /// Dequantizes a tensor of `n_elems` weights in pieces into little-endian elements of `dtype`. `read` fills the codes
    /// and the scales of the elements from a flat index on (a multiple of the block); `write` takes the pieces in order,
    /// with the flat index of their first element. Memory does not depend on `n_elems`.
    ///
    /// # Errors
    /// As [`dequantize`](crate::dequantize), the GPU's errors, and whatever `read` and `write` return.
    pub async fn dequantize_stream(
        &self,
        format: Format,
        dtype: Dtype,
        n_elems: u64,
        mut read: impl FnMut(u64, &mut [u8], &mut [u8]) -> Result<()> + Send,
        mut write: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        format.info().check_len(n_elems)?;
        match self {
            Self::Gpu(gpu) => gpu.dequantize_stream(format, dtype, n_elems, &mut read, &mut write).await,
            Self::Cpu => {
                let info = format.info();
                let (mut codes, mut scales, mut out) = (Vec::new(), Vec::new(), Vec::new());
                for (first_elem, n) in cpu_chunks(n_elems) {
                    codes.resize(info.codes_at(n), 0);
                    scales.resize(info.scales_at(n), 0);
                    read(first_elem, &mut codes, &mut scales)?;
                    out.resize(n * dtype.n_bytes(), 0);
                    cpu::dequantize_into(format, &codes, &scales, first_elem, dtype, &mut out)?;
                    write(first_elem, &out)?;
                }
                Ok(())
            }
        }
    }
}

/// A packed piece of the CPU path.
#[derive(Debug, Default)]
struct CpuChunk {
    first_elem: u64,
    codes: Vec<u8>,
    scales: Vec<u8>,
}

impl AsRef<[Self]> for Engine {
    fn as_ref(&self) -> &[Self] {
        std::slice::from_ref(self)
    }
}

/// The names in a list with commas; commas within parentheses belong to adapters' names.
fn device_names(devices: &str) -> Result<Vec<&str>> {
    let mut depth = 0_i32;
    let names: Vec<_> = devices
        .split(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            c == ',' && depth <= 0
        })
        .map(str::trim)
        .collect();
    let refused = |text: String| Err(Error::Refused(text));
    for (ix, name) in names.iter().enumerate() {
        let is_same = |other: &&str| other.eq_ignore_ascii_case(name);
        if name.is_empty() {
            return refused(format!(
                "the list of devices {devices:?} has an empty name in it: name one between commas"
            ));
        }
        if names[..ix].iter().any(is_same) {
            return refused(format!(
                "the device {name:?} is named twice: name each once, as a device works on one part"
            ));
        }
        if is_same(&"auto") && names.len() > 1 {
            return refused("the device auto stands alone: name the devices, or auto and no other".to_owned());
        }
    }
    Ok(names)
}

/// First element and number of elements of each piece.
fn cpu_chunks(n_elems: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..n_elems).step_by(CPU_CHUNK_ELEMS).map(move |first| {
        let n = usize::try_from(n_elems - first).unwrap_or(CPU_CHUNK_ELEMS);
        (first, n.min(CPU_CHUNK_ELEMS))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In memory, the CPU path cuts where it looks whether to go on; the bytes and the errors are those of one piece.
    #[test]
    fn pieces_leave_no_trace() -> Result<()> {
        let n_elems = 2 * CHECK_ELEMS + 100;
        let values = (0..2003_u16).map(|value| f32::from(value) - 1001.0);
        let mut weights: Vec<f32> = values.cycle().take(n_elems).collect();
        for format in [Format::Nf4Dq, Format::Sym8] {
            let mut n_checks = 0;
            let mut count = || {
                n_checks += 1;
                Ok(())
            };
            let packed = pollster::block_on(Engine::Cpu.quantize(format, &weights[..], &mut count))?;
            assert_eq!(packed, crate::quantize(format, &weights[..])?);
            let mut values = vec![0; n_elems * 4];
            pollster::block_on(Engine::Cpu.dequantize(&packed, Dtype::F32, &mut values, &mut count))?;
            assert!(values == crate::dequantize(&packed, Dtype::F32)?);
            assert_eq!(n_checks, 6);
            let stop = || if n_elems > 0 { Err(Error::GivenUp) } else { Ok(()) };
            let stopped = pollster::block_on(Engine::Cpu.quantize(format, &weights[..], stop));
            assert!(matches!(stopped, Err(Error::GivenUp)));
            let stopped = pollster::block_on(Engine::Cpu.dequantize(&packed, Dtype::F32, &mut values, stop));
            assert!(matches!(stopped, Err(Error::GivenUp)));
            let short = pollster::block_on(Engine::Cpu.dequantize(&packed, Dtype::F32, &mut values[1..], || Ok(())));
            assert!(matches!(short, Err(Error::Refused(_))));
        }
        weights[2 * CHECK_ELEMS + 3] = f32::NAN;
        let found = pollster::block_on(Engine::Cpu.quantize(Format::Nf4, &weights[..], || Ok(())));
        assert!(matches!(found, Err(Error::NonFinite { index, .. }) if index == 2 * CHECK_ELEMS as u64 + 3));
        Ok(())
    }

    #[test]
    fn names_of_devices() {
        let names = |list| device_names(list).map_err(|error| error.to_string());
        assert_eq!(names("cpu"), Ok(vec!["cpu"]));
        assert_eq!(names("vulkan:llvmpipe, gl:llvmpipe,cpu"), Ok(vec!["vulkan:llvmpipe", "gl:llvmpipe", "cpu"]));
        assert_eq!(names("llvmpipe (LLVM 15.0.6, 256 bits),cpu"), Ok(vec!["llvmpipe (LLVM 15.0.6, 256 bits)", "cpu"]));
        for (list, wanted) in [
            ("", "has an empty name in it"),
            ("cpu,", "has an empty name in it"),
            ("cpu, ,H100", "has an empty name in it"),
            ("H100,cpu,h100", "\"h100\" is named twice"),
            ("auto,cpu", "auto stands alone"),
        ] {
            let refused = names(list).expect_err(list);
            assert!(refused.contains(wanted), "{list:?}: {refused}");
        }
    }

    #[test]
    fn memory_is_shared() {
        let two = || vec![Engine::Cpu, Engine::Cpu];
        assert_eq!(Engine::share_memory(two(), 2 * MIN_MEMORY_BYTES).map(|engines| engines.len()).ok(), Some(2));
        let refused = Engine::share_memory(two(), 2 * MIN_MEMORY_BYTES - 1).map(|_| ()).expect_err("too few");
        assert!(refused.to_string().contains("too few for 2 devices: at least 128 MiB are needed"), "{refused}");
        assert!(Engine::share_memory(vec![Engine::Cpu], MIN_MEMORY_BYTES).is_ok());
    }
}
