//! Between buffers that stay on the device: nothing is submitted, mapped or waited for here.

use super::kernels::{Direction, Kernel, Params, STATUS_BYTES};
use super::plan::{self, Chunk};
use super::stream::{bind, dispatch, narrow_scales};
use super::{Gpu, lock};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::packed::Packed;

/// A packed tensor in device memory.
#[derive(Debug, Clone)]
pub struct DevicePacked {
    /// The format.
    pub format: Format,
    /// How many weights it holds.
    pub n_elems: u64,
    /// Packed codes, whole blocks; what lies past the last element is 0.
    pub codes: wgpu::Buffer,
    /// One scale a block, each in a little-endian word of its own; of a nested format, the `f32` scale before it is
    /// quantized, which [`Gpu::download`] does.
    pub scales: wgpu::Buffer,
    /// Two words, 0 where all is well. The first is not 0 if a weight was NaN or infinite (the codes and scales are then
    /// worthless) or a code is one that no writer makes; the second if a dequantized value was beyond the output type.
    pub status: wgpu::Buffer,
}

impl Gpu {
    /// Records the quantization of `n_elems` weights from the start of `weights` into new buffers. `weights` needs
    /// `STORAGE` usage and a size that is a multiple of 16 bytes.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Refused`] if the buffer doesn't fit, or the GPU's errors. Whether all weights were
    /// finite stands in [`DevicePacked::status`] when the commands have run.
    pub async fn record_quantize(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        format: Format,
        dtype: Dtype,
        weights: &wgpu::Buffer,
        n_elems: u64,
    ) -> Result<DevicePacked> {
        if n_elems == 0 {
            return Err(Error::Empty);
        }
        self.check_values(dtype, weights, n_elems)?;
        let info = format.info();
        let packed = self
            .scoped("a packed tensor", || {
                let n_blocks = info.n_blocks(n_elems);
                let buffer = |label, size| {
                    self.device.create_buffer(&wgpu::BufferDescriptor {
                        label: Some(label),
                        size,
                        usage: wgpu::BufferUsages::STORAGE
                            | wgpu::BufferUsages::COPY_SRC
                            | wgpu::BufferUsages::COPY_DST,
                        mapped_at_creation: false,
                    })
                };
                DevicePacked {
                    format,
                    n_elems,
                    codes: buffer("packed codes", n_blocks * info.block_codes_bytes() as u64),
                    scales: buffer("packed scales", n_blocks * 4),
                    status: buffer("packed status", STATUS_BYTES),
                }
            })
            .await?;
        let kernel = Kernel { format, direction: Direction::Quantize, shape: self.shape, dtype };
        self.record(encoder, kernel, &packed, &[weights, &packed.codes, &packed.scales]).await?;
        Ok(packed)
    }

    /// Records the dequantization of `packed` into the start of `values`, which needs `STORAGE` usage and room for whole
    /// blocks of `dtype`: what lies past the last element is written as the value of code 0.
    ///
    /// # Errors
    /// [`Error::Refused`] if the buffer doesn't fit, or the GPU's errors. Whether all codes were valid and all values in
    /// range stands in [`DevicePacked::status`] when the commands have run.
    pub async fn record_dequantize(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        packed: &DevicePacked,
        dtype: Dtype,
        values: &wgpu::Buffer,
    ) -> Result<()> {
        let block = packed.format.info().block as u64;
        self.check_values(dtype, values, packed.n_elems.next_multiple_of(block))?;
        let kernel = Kernel { format: packed.format, direction: Direction::Dequantize, shape: self.shape, dtype };
        self.record(encoder, kernel, packed, &[&packed.codes, &packed.scales, values]).await
    }

    /// Brings a packed tensor to host memory. This submits and waits.
    ///
    /// # Errors
    /// [`Error::Refused`] if the tensor's status says that it is worthless, or the GPU's errors.
    pub async fn download(&self, packed: &DevicePacked) -> Result<Packed> {
        let info = packed.format.info();
        let status: Vec<u32> = bytemuck::pod_collect_to_vec(&self.read_buffer(&packed.status).await?);
        if status.iter().any(|&word| word != 0) {
            return Err(Error::Refused(
                "the packed tensor is worthless: a weight was not finite or a code was damaged".to_owned(),
            ));
        }
        let mut codes = self.read_buffer(&packed.codes).await?;
        codes.truncate(usize::try_from(info.codes_bytes(packed.n_elems)).unwrap_or(usize::MAX));
        let mut scales = Vec::new();
        narrow_scales(&self.read_buffer(&packed.scales).await?, info.scale.n_bytes(), &mut scales);
        Packed::from_stream(packed.format, packed.n_elems, codes, scales)
    }

    /// Reads a whole buffer (with `COPY_SRC` usage and a size that is a multiple of 4) back to host memory. This submits
    /// and waits.
    ///
    /// # Errors
    /// The GPU's errors.
    pub async fn read_buffer(&self, buffer: &wgpu::Buffer) -> Result<Vec<u8>> {
        let (staging, submission, mapped) = self
            .scoped("reading a buffer back", || {
                let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("readback"),
                    size: buffer.size(),
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
                let (sender, mapped) = futures_channel::oneshot::channel();
                encoder.map_buffer_on_submit(&staging, wgpu::MapMode::Read, .., move |result| {
                    // A receiver that is gone has given up.
                    let _ = sender.send(result);
                });
                let submission = self.queue.submit([encoder.finish()]);
                (staging, submission, mapped)
            })
            .await?;
        self.wait(submission, mapped).await?;
        let view = staging.get_mapped_range(..).map_err(|error| self.lost_error(&error.to_string()))?;
        Ok(view.to_vec())
    }

    /// Refuses a buffer of values that the kernels could not use whole.
    fn check_values(&self, dtype: Dtype, values: &wgpu::Buffer, n_elems: u64) -> Result<()> {
        let needed = n_elems * dtype.n_bytes() as u64;
        if values.size() < needed || !values.size().is_multiple_of(16) {
            return Err(Error::Refused(format!(
                "a buffer of {} bytes can't hold {n_elems} {dtype} elements: it takes {} bytes, a multiple of 16",
                values.size(),
                needed.next_multiple_of(16)
            )));
        }
        Ok(())
    }

    /// Records `kernel` over all blocks of `packed`, in as many dispatches as the device's limits ask for.
    async fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        kernel: Kernel,
        packed: &DevicePacked,
        buffers: &[&wgpu::Buffer],
    ) -> Result<()> {
        let pipeline = self.pipeline(kernel).await?;
        let block = packed.format.info().block;
        let block_bytes: Vec<u64> =
            kernel.input_block_bytes().into_iter().chain(kernel.output_block_bytes()).map(|n| n as u64).collect();
        let limits = plan::PlanLimits { max_chunk_bytes: u64::MAX, ..self.plan_limits() };
        let largest = block_bytes.iter().max().copied().unwrap_or(1);
        // More than one chunk only where a binding holds many, so its size is a multiple of ALIGNED_BLOCKS.
        let chunk_blocks = plan::blocks_per_chunk(limits, block, usize::try_from(largest).unwrap_or(usize::MAX));
        let max_groups = self.device.limits().max_compute_workgroups_per_dimension;
        encoder.clear_buffer(&packed.status, 0, None);
        self.scoped(&kernel.label(), || {
            for chunk in plan::chunks(packed.n_elems, block, chunk_blocks) {
                let params = self.params_buffer(chunk);
                let parts = buffers.iter().zip(&block_bytes).map(|(buffer, bytes)| {
                    let offset = chunk.first_elem / block as u64 * bytes;
                    let size = (u64::from(chunk.n_blocks) * bytes).min(buffer.size() - offset);
                    wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer,
                        offset,
                        size: wgpu::BufferSize::new(size),
                    })
                });
                let resources =
                    [params.as_entire_binding()].into_iter().chain(parts).chain([packed.status.as_entire_binding()]);
                let bind_group = bind(&self.device, &pipeline, resources);
                dispatch(encoder, kernel, &pipeline, &bind_group, chunk.n_blocks, max_groups);
            }
        })
        .await
    }

    fn params_buffer(&self, chunk: Chunk) -> wgpu::Buffer {
        use wgpu::util::DeviceExt as _;
        let params = Params { n_elems: chunk.n_elems, n_blocks: chunk.n_blocks, _pad0: 0, _pad1: 0 };
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some("params"),
            contents: bytemuck::bytes_of(&params),
            usage: wgpu::BufferUsages::UNIFORM,
        })
    }

    /// Frees the buffers that are kept for the next call.
    pub fn release_buffers(&self) {
        lock(&self.idle_slots).clear();
    }
}
