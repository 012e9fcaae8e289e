//! Packed tensors in device memory, and their way to and from host memory.

use std::sync::Arc;

use super::kernels::STATUS_BYTES;
use super::place::BufferAt;
use super::stream::{narrow_scales, widen_scales};
use super::{Gpu, lock};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::packed::Packed;
use crate::quant::nested::Nested;

/// Scales that are widened at a time.
const SCALES_AT_A_TIME: usize = 1 << 16;

/// A packed tensor in device memory. Its parts lie in buffers of its own ([`Gpu::empty_packed`]) or of the caller's
/// ([`Self::in_buffers`]). Cloning it copies no device memory.
///
/// | part | bytes | what it holds |
/// | --- | --- | --- |
/// | codes | blocks × block · bits / 8 | packed codes in the format's own planar order, whole blocks; 0 past the last weight |
/// | scales | blocks × 4 | one little-endian word a block: an `f32`, or an `f16` or an E8M0 byte in its low bits |
/// | status | 8 | two words, 0 where all is well |
///
/// A word for every scale costs nothing with `f32` scales, and 0.5 bits a weight more than files need with `f16` (`q4_0`: 5
/// bits a weight, not 4.5), 0.75 with E8M0 (`mxfp4`: 5, not 4.25). Formats with nested scales have the `f32` scales here: those
/// before they are quantized in turn, if the tensor was quantized on the device, and those that come out of it if it was
/// uploaded. They take 4.5 bits a weight, as their base formats do.
#[derive(Debug, Clone)]
pub struct DevicePacked {
    pub(super) format: Format,
    pub(super) n_elems: u64,
    pub(super) codes: BufferAt,
    pub(super) scales: BufferAt,
    pub(super) status: BufferAt,
    /// Nested scales as they were uploaded, so that they come back as they were.
    pub(super) nested: Option<Arc<Nested>>,
}

impl DevicePacked {
    /// A packed tensor in buffers of the caller's, each at any multiple of 4 bytes. What is there counts as it is. All need
    /// `STORAGE` usage, to be written to also `COPY_DST`, to be downloaded also `COPY_SRC`. The status must lie in another
    /// buffer than codes and scales; many tensors may share one for theirs.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::PartialBlock`], [`Error::Refused`] if a place doesn't fit.
    pub fn in_buffers(
        format: Format,
        n_elems: u64,
        codes: impl Into<BufferAt>,
        scales: impl Into<BufferAt>,
        status: impl Into<BufferAt>,
    ) -> Result<Self> {
        format.info().check_len(n_elems)?;
        let packed =
            Self { format, n_elems, codes: codes.into(), scales: scales.into(), status: status.into(), nested: None };
        let usage = wgpu::BufferUsages::STORAGE;
        packed.codes.check("packed codes", Self::codes_bytes(format, n_elems), usage)?;
        packed.scales.check("packed scales", Self::scales_bytes(format, n_elems), usage)?;
        packed.status.check("a status", STATUS_BYTES, usage)?;
        Ok(packed)
    }

    /// Bytes of the codes of `n_elems` weights on a device: whole blocks.
    #[must_use]
    pub fn codes_bytes(format: Format, n_elems: u64) -> u64 {
        let info = format.info();
        info.n_blocks(n_elems) * info.block_codes_bytes() as u64
    }

    /// Bytes of the scales of `n_elems` weights on a device: a word each.
    #[must_use]
    pub fn scales_bytes(format: Format, n_elems: u64) -> u64 {
        format.info().n_blocks(n_elems) * 4
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// How many weights it holds.
    #[must_use]
    pub fn n_elems(&self) -> u64 {
        self.n_elems
    }

    /// Where the codes are.
    #[must_use]
    pub fn codes(&self) -> &BufferAt {
        &self.codes
    }

    /// Where the scales are.
    #[must_use]
    pub fn scales(&self) -> &BufferAt {
        &self.scales
    }

    /// Where the status is: two words, 0 where all is well. The first is not 0 if a weight was NaN or infinite or a scale beyond
    /// its type when this was quantized (**codes and scales are then invalid**), or if a code that was dequantized is one that
    /// no writer makes; the second if a dequantized value was beyond the output type. Quantizing starts it anew,
    /// dequantizing adds to it.
    #[must_use]
    pub fn status(&self) -> &BufferAt {
        &self.status
    }

    /// Bytes in device memory, all parts together.
    #[must_use]
    pub fn device_bytes(&self) -> u64 {
        Self::codes_bytes(self.format, self.n_elems) + Self::scales_bytes(self.format, self.n_elems) + STATUS_BYTES
    }

    /// Frees its buffers in device memory at once, whoever holds them still. Otherwise that comes with the last handle's end, in
    /// a browser whenever its garbage collector runs.
    pub fn destroy(&self) {
        for place in [&self.codes, &self.scales, &self.status] {
            place.buffer.destroy();
        }
    }
}

impl Gpu {
    /// A packed tensor of zeros in new buffers, to quantize into.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::PartialBlock`], or the GPU's errors.
    pub async fn empty_packed(&self, format: Format, n_elems: u64) -> Result<DevicePacked> {
        format.info().check_len(n_elems)?;
        let what = format!("{n_elems} weights packed as {format}");
        self.scoped(&what, || {
            let buffer = |label, size| {
                use wgpu::BufferUsages as Usage;
                let usage = Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST;
                let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
                BufferAt { buffer: self.device.create_buffer(&descriptor), offset: 0 }
            };
            DevicePacked {
                format,
                n_elems,
                codes: buffer("packed codes", DevicePacked::codes_bytes(format, n_elems)),
                scales: buffer("packed scales", DevicePacked::scales_bytes(format, n_elems)),
                status: buffer("packed status", STATUS_BYTES),
                nested: None,
            }
        })
        .await
    }

    /// Brings a packed tensor to the device. It is there for whatever is submitted to the queue afterwards; nothing is
    /// submitted or waited for.
    ///
    /// # Errors
    /// [`Error::Refused`] if a scale is one that no writer makes; the GPU's errors.
    pub async fn upload(&self, packed: &Packed) -> Result<DevicePacked> {
        let mut on_device = self.empty_packed(packed.format(), packed.n_elems()).await?;
        self.upload_into(packed, &mut on_device).await?;
        Ok(on_device)
    }

    /// As [`Self::upload`], into a tensor of the same format and length that is there already. Its buffers need `COPY_DST`
    /// usage.
    ///
    /// # Errors
    /// As [`Self::upload`], and [`Error::Refused`] if it is another format or length.
    pub async fn upload_into(&self, packed: &Packed, on_device: &mut DevicePacked) -> Result<()> {
        let (format, info) = (packed.format(), packed.format().info());
        if (format, packed.n_elems()) != (on_device.format, on_device.n_elems) {
            return Err(Error::Refused(format!(
                "{} weights packed as {format} don't fit a tensor of {} in {}",
                packed.n_elems(),
                on_device.n_elems,
                on_device.format
            )));
        }
        for (what, place) in [("codes", &on_device.codes), ("scales", &on_device.scales), ("status", &on_device.status)]
        {
            place.check(what, 0, wgpu::BufferUsages::COPY_DST)?;
        }
        let (all_scales, width) = (packed.stream_scales(), info.scale.n_bytes());
        let is_bad = |scale| (info.codec.dequantize_block)(&[], scale, &mut []).is_err();
        if let Some(block) = all_scales.chunks_exact(width).position(is_bad) {
            return Err(Error::Refused(format!(
                "the scale of block {block} is one that {format} never writes: the data is damaged"
            )));
        }
        self.scoped("uploading a packed tensor", || {
            let write = |place: &BufferAt, at: u64, bytes: &[u8]| {
                self.queue.write_buffer(&place.buffer, place.offset + at, bytes);
            };
            // Up to the last word; that one, and what is left of the last block, are filled with zeros.
            let codes = packed.codes();
            let whole = codes.len() / 4 * 4;
            write(&on_device.codes, 0, &codes[..whole]);
            let mut tail = codes[whole..].to_vec();
            let left = DevicePacked::codes_bytes(format, packed.n_elems()) - whole as u64;
            tail.resize(usize::try_from(left).unwrap_or(0), 0);
            write(&on_device.codes, whole as u64, &tail);
            let mut words = Vec::new();
            for (i, scales) in all_scales.chunks(SCALES_AT_A_TIME * width).enumerate() {
                words.resize(scales.len() / width * 4, 0);
                widen_scales(scales, width, &mut words);
                write(&on_device.scales, (i * SCALES_AT_A_TIME * 4) as u64, &words);
            }
            write(&on_device.status, 0, &[0; 8]);
        })
        .await?;
        on_device.nested = packed.nested().map(Arc::new);
        Ok(())
    }

    /// Brings a packed tensor to host memory: as it was uploaded, or as the CPU path would have quantized it. This submits
    /// and waits.
    ///
    /// # Errors
    /// [`Error::Refused`] if the tensor's status says that it is invalid or a buffer lacks `COPY_SRC` usage, or the GPU's
    /// errors.
    pub async fn download(&self, packed: &DevicePacked) -> Result<Packed> {
        let (format, info, n_elems) = (packed.format, packed.format.info(), packed.n_elems);
        let status: Vec<u32> = bytemuck::pod_collect_to_vec(&self.read_at(&packed.status, STATUS_BYTES).await?);
        if status.iter().any(|&word| word != 0) {
            return Err(Error::Refused(
                "the packed tensor is invalid: a weight was not finite, a scale beyond its type, or a code damaged"
                    .to_owned(),
            ));
        }
        let mut codes = self.read_at(&packed.codes, DevicePacked::codes_bytes(format, n_elems)).await?;
        codes.truncate(usize::try_from(info.codes_bytes(n_elems)).unwrap_or(usize::MAX));
        if let Some(nested) = &packed.nested {
            let absmax = bytemuck::pod_collect_to_vec(&nested.absmax);
            return Packed::from_nested_parts(format, n_elems, codes, nested.codes.clone(), absmax, nested.offset);
        }
        let mut scales = Vec::new();
        let words = self.read_at(&packed.scales, DevicePacked::scales_bytes(format, n_elems)).await?;
        narrow_scales(&words, info.scale.n_bytes(), &mut scales);
        Packed::from_stream(format, n_elems, codes, scales)
    }

    /// Reads a whole buffer (with `COPY_SRC` usage and a size that is a multiple of 4) back to host memory. This submits
    /// and waits.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    pub async fn read_buffer(&self, buffer: &wgpu::Buffer) -> Result<Vec<u8>> {
        self.read_at(&buffer.into(), buffer.size()).await
    }

    /// Reads `n_bytes`, a multiple of 4, from a place in a buffer with `COPY_SRC` usage. This submits and waits.
    ///
    /// # Errors
    /// [`Error::Refused`] if the buffer doesn't allow it, or the GPU's errors.
    pub async fn read_at(&self, place: &BufferAt, n_bytes: u64) -> Result<Vec<u8>> {
        place.check("what is read back", n_bytes, wgpu::BufferUsages::COPY_SRC)?;
        let (staging, submission, mapped) = self
            .scoped("reading a buffer back", || {
                let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("readback"),
                    size: n_bytes,
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                encoder.copy_buffer_to_buffer(&place.buffer, place.offset, &staging, 0, n_bytes);
                let (sender, mapped) = futures_channel::oneshot::channel();
                encoder.map_buffer_on_submit(&staging, wgpu::MapMode::Read, .., move |result| {
                    // A receiver that is gone has given up.
                    let _ = sender.send(result);
                });
                let submission = self.queue.submit([encoder.finish()]);
                (staging, submission, mapped)
            })
            .await?;
        self.wait(submission, vec![mapped]).await?;
        let view = staging.get_mapped_range(..).map_err(|error| self.lost_error(&error.to_string()))?;
        let bytes = view.to_vec();
        drop(view);
        // Not left to a browser's garbage collector.
        staging.destroy();
        Ok(bytes)
    }

    /// Frees the buffers that are kept for the next call.
    pub fn release_buffers(&self) {
        lock(&self.idle_slots).clear();
    }
}
