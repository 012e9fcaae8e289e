//! Where the work is done: on a GPU, or on the CPU path. Both take a tensor in pieces and give the same bytes.

use crate::cpu;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::gpu::Gpu;
use crate::packed::PackedChunk;
use crate::threads;

/// Elements that the CPU path takes at a time.
const CPU_CHUNK_ELEMS: u64 = 1 << 20;

/// The least that [`Engine::with_memory`] takes.
pub const MIN_MEMORY_BYTES: u64 = 64 << 20;

/// Buffers of a chunk's size that a GPU's stream has at most, on host and device: two chunks in flight, of which each has
/// its input in staging memory and in the kernel's buffer, and outputs of at most as many bytes; and what the host reads into.
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
                gpu.quantize_stream(format, dtype, n_elems, &mut read, &mut write).await
            }
            Self::Cpu => {
                let info = format.info();
                let quantize = |(first_elem, n): (u64, usize), mut chunk: CpuChunk| {
                    chunk.first_elem = first_elem;
                    chunk.codes.resize(info.codes_at(n), 0);
                    chunk.scales.resize(info.scales_at(n), 0);
                    cpu::read_and_quantize(format, dtype, (first_elem, n), &read, &mut chunk.codes, &mut chunk.scales)?;
                    Ok(chunk)
                };
                let mut write = |CpuChunk { first_elem, codes, scales }: &CpuChunk| {
                    write(PackedChunk { first_elem: *first_elem, codes, scales })
                };
                // Each chunk is written while the next one is quantized.
                let mut chunks = cpu_chunks(n_elems);
                let Some(first) = chunks.next() else { return Ok(()) };
                let (mut done, mut idle) = (quantize(first, CpuChunk::default())?, CpuChunk::default());
                for next in chunks {
                    let (next, written) = threads::beside(|| quantize(next, idle), || write(&done));
                    written?;
                    idle = std::mem::replace(&mut done, next?);
                }
                write(&done)
            }
        }
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
    (0..n_elems.div_ceil(CPU_CHUNK_ELEMS)).map(move |chunk| {
        let first = chunk * CPU_CHUNK_ELEMS;
        (first, (n_elems - first).min(CPU_CHUNK_ELEMS) as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
