//! Where the work is done: on a GPU, or on the CPU path. Both take a tensor in pieces and give the same bytes.

use crate::cpu;
use crate::dtype::{Dtype, Weights};
use crate::error::Result;
use crate::format::Format;
use crate::gpu::Gpu;
use crate::packed::PackedChunk;

/// Elements that the CPU path takes at a time.
const CPU_CHUNK_ELEMS: u64 = 1 << 20;

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

    /// Who did it, for reports and messages: `CPU`, or the adapter's name, backend and driver.
    #[must_use]
    pub fn description(&self) -> String {
        match self {
            Self::Cpu => "CPU".to_owned(),
            Self::Gpu(gpu) => gpu.description(),
        }
    }

    /// Quantizes a tensor of `n_elems` weights in pieces. `read` fills a buffer with the elements from a flat index on;
    /// `write` takes the packed pieces in order. Memory does not depend on `n_elems`.
    ///
    /// # Errors
    /// [`Error::NonFinite`](crate::Error::NonFinite) with the first index of a NaN or an infinity, the GPU's errors, and
    /// whatever `read` and `write` return. Pieces that were handed out before an error are not to be used.
    pub async fn quantize_stream(
        &self,
        format: Format,
        dtype: Dtype,
        n_elems: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
        mut write: impl FnMut(PackedChunk<'_>) -> Result<()>,
    ) -> Result<()> {
        format.info().check_len(n_elems)?;
        match self {
            Self::Gpu(gpu) => gpu.quantize_stream(format, dtype, n_elems, &mut read, &mut write).await,
            Self::Cpu => {
                let info = format.info();
                let (mut input, mut codes, mut scales) = (Vec::new(), Vec::new(), Vec::new());
                for (first_elem, n) in cpu_chunks(n_elems) {
                    input.resize(n * dtype.n_bytes(), 0);
                    read(first_elem, &mut input)?;
                    refill(&mut codes, info.codes_bytes(n as u64));
                    refill(&mut scales, info.scales_bytes(n as u64));
                    let weights = Weights::from_le_bytes(dtype, &input)?;
                    cpu::quantize_into(format, weights, first_elem, &mut codes, &mut scales)?;
                    write(PackedChunk { first_elem, codes: &codes, scales: &scales })?;
                }
                Ok(())
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
        mut read: impl FnMut(u64, &mut [u8], &mut [u8]) -> Result<()>,
        mut write: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        format.info().check_len(n_elems)?;
        match self {
            Self::Gpu(gpu) => gpu.dequantize_stream(format, dtype, n_elems, &mut read, &mut write).await,
            Self::Cpu => {
                let info = format.info();
                let (mut codes, mut scales, mut out) = (Vec::new(), Vec::new(), Vec::new());
                for (first_elem, n) in cpu_chunks(n_elems) {
                    refill(&mut codes, info.codes_bytes(n as u64));
                    refill(&mut scales, info.scales_bytes(n as u64));
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

/// First element and number of elements of each piece.
fn cpu_chunks(n_elems: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..n_elems.div_ceil(CPU_CHUNK_ELEMS)).map(move |chunk| {
        let first = chunk * CPU_CHUNK_ELEMS;
        (first, (n_elems - first).min(CPU_CHUNK_ELEMS) as usize)
    })
}

/// Makes `buffer` `n_bytes` zeros.
fn refill(buffer: &mut Vec<u8>, n_bytes: u64) {
    buffer.clear();
    buffer.resize(usize::try_from(n_bytes).unwrap_or(usize::MAX), 0);
}
