//! Quantizing and dequantizing between buffers that stay on the device: nothing is submitted, mapped or waited for here.

use std::ops::Range;

use super::device_packed::DevicePacked;
use super::kernels::{Access, Direction, Kernel, Params, STATUS_BYTES, Shape};
use super::place::{Bound, BufferAt, WIDEST, check_together};
use super::plan;
use super::stream::{bind, dispatch};
use super::{Gpu, has_tile_limits};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::Format;

/// A part of a tensor for one dispatch.
struct Part {
    /// Flat index of its first element.
    first: u64,
    n_elems: u64,
}

impl Gpu {
    /// Records the quantization of `n_elems` weights into new buffers. `weights` may be at any multiple of 4 bytes; those at a
    /// multiple of 32, with room for whole vectors of 32 bytes, are read fastest; on hardware 16 will do. Its buffer needs
    /// `STORAGE` usage.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::PartialBlock`], [`Error::Refused`] if the weights don't fit their buffer, or the GPU's
    /// errors. Whether all weights were finite stands in [`DevicePacked::status`] when the commands have run.
    pub async fn record_quantize(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        format: Format,
        dtype: Dtype,
        n_elems: u64,
        weights: impl Into<BufferAt>,
    ) -> Result<DevicePacked> {
        let mut packed = self.empty_packed(format, n_elems).await?;
        self.record_quantize_into(encoder, dtype, weights, &mut packed).await?;
        Ok(packed)
    }

    /// As [`Self::record_quantize`], into a tensor that is there already: its format and length say what is done.
    ///
    /// # Errors
    /// As [`Self::record_quantize`], and [`Error::Refused`] if its buffers can't be written, or not together.
    pub async fn record_quantize_into(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        dtype: Dtype,
        weights: impl Into<BufferAt>,
        packed: &mut DevicePacked,
    ) -> Result<()> {
        let weights = weights.into();
        let n_bytes = packed.n_elems * dtype.n_bytes() as u64;
        weights.check(&format!("{} {dtype} weights", packed.n_elems), n_bytes, wgpu::BufferUsages::STORAGE)?;
        packed.status.check("a status", STATUS_BYTES, wgpu::BufferUsages::COPY_DST)?;
        let kernel = self.kernel_for(packed, Direction::Quantize, dtype, weights.vector_bytes(n_bytes));
        let all = Part { first: 0, n_elems: packed.n_elems };
        encoder.clear_buffer(&packed.status.buffer, packed.status.offset, Some(STATUS_BYTES));
        packed.nested = None;
        self.record(encoder, kernel, packed, &all, &weights).await
    }

    /// Records the dequantization of all of `packed` into `values`, which may be at any multiple of 4 bytes; one that is a
    /// multiple of 32 is fastest. Nothing is written past the last value. The buffer needs `STORAGE` usage.
    ///
    /// # Errors
    /// As [`Self::record_dequantize_range`].
    pub async fn record_dequantize(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        packed: &DevicePacked,
        dtype: Dtype,
        values: impl Into<BufferAt>,
    ) -> Result<()> {
        self.record_dequantize_range(encoder, packed, 0..packed.n_elems, dtype, values).await
    }

    /// As [`Self::record_dequantize`], of a run of elements: rows `r0..r1` of a matrix are the elements
    /// `r0 * n_cols..r1 * n_cols`. The run may begin and end within blocks. The first value goes to the start of `values`.
    ///
    /// # Errors
    /// [`Error::Refused`] if the run doesn't lie in the tensor or its values don't fit, or the GPU's errors. Whether all
    /// codes were valid and all values in range stands in [`DevicePacked::status`] when the commands have run.
    pub async fn record_dequantize_range(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        packed: &DevicePacked,
        elems: Range<u64>,
        dtype: Dtype,
        values: impl Into<BufferAt>,
    ) -> Result<()> {
        let mut values = values.into();
        if elems.start > elems.end || elems.end > packed.n_elems {
            return Err(Error::Refused(format!(
                "elements {}..{} are not in a tensor of {}",
                elems.start, elems.end, packed.n_elems
            )));
        }
        let (n_elems, width, block) =
            (elems.end - elems.start, dtype.n_bytes() as u64, packed.format.info().block as u64);
        values.check(&format!("{n_elems} {dtype} values"), n_elems * width, wgpu::BufferUsages::STORAGE)?;
        // Whole blocks at a good place go through the kernel that suits the adapter, what is left through the other.
        let fast = elems.start.is_multiple_of(block) && values.offset.is_multiple_of(16);
        let whole = Part { first: elems.start, n_elems: if fast { n_elems / block * block } else { 0 } };
        let rest = Part { first: elems.start + whole.n_elems, n_elems: n_elems - whole.n_elems };
        let widest = values.vector_bytes(whole.n_elems * width);
        for (part, vector_bytes) in [(whole, widest), (rest, 4)] {
            if part.n_elems > 0 {
                let kernel = self.kernel_for(packed, Direction::Dequantize, dtype, vector_bytes);
                self.record(encoder, kernel, packed, &part, &values).await?;
                values.offset += part.n_elems * width;
            }
        }
        Ok(())
    }

    /// The kernel for that work in the shape that suits the adapter and the place of the codes; weights or values lie well for
    /// vectors of so many bytes.
    fn kernel_for(&self, packed: &DevicePacked, direction: Direction, dtype: Dtype, vector_bytes: u64) -> Kernel {
        // The serial shape takes codes in vectors, the others in words.
        let shape = match self.shape {
            Shape::Serial if packed.codes.offset.is_multiple_of(16) => Shape::Serial,
            Shape::Serial if !has_tile_limits(&self.device.limits()) => Shape::Block,
            Shape::Serial => Shape::Tile,
            shape => shape,
        };
        let kernel = self.kernel(packed.format, direction, shape, dtype);
        let access = match vector_bytes {
            ..16 => Access::Words,
            ..WIDEST if kernel.access.is_by_pairs() => Access::Vectors,
            _ => kernel.access,
        };
        Kernel { access, ..kernel }
    }

    /// Records `kernel` over a part of `packed`, in as many dispatches as the device's limits ask for. The part begins with a
    /// block, or the kernel takes blocks that are cut.
    async fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        kernel: Kernel,
        packed: &DevicePacked,
        part: &Part,
        values: &BufferAt,
    ) -> Result<()> {
        let pipeline = self.pipeline(kernel).await?;
        let info = packed.format.info();
        let (block, width, codes_bytes) =
            (info.block as u64, kernel.dtype.n_bytes() as u64, info.block_codes_bytes() as u64);
        let alignment = self.alignment();
        let mut limits = plan::PlanLimits { max_chunk_bytes: u64::MAX, ..self.plan_limits() };
        // What is bound begins before what is meant, and may have a block more.
        limits.max_binding_bytes = limits.max_binding_bytes.saturating_sub(alignment + block * width);
        let chunk_blocks = plan::blocks_per_chunk(limits, info.block, info.block * kernel.dtype.n_bytes());
        let max_groups = self.device.limits().max_compute_workgroups_per_dimension;

        let label = kernel.label();
        let recorded = self.scoped(&label, || {
            for chunk in plan::chunks(part.n_elems, info.block, chunk_blocks) {
                let first = part.first + chunk.first_elem;
                let (first_block, skip) = (first / block, first % block);
                let n_blocks = (skip + u64::from(chunk.n_elems)).div_ceil(block);
                let of_values = values.bind(chunk.first_elem * width, u64::from(chunk.n_elems) * width, alignment);
                let codes = packed.codes.bind(first_block * codes_bytes, n_blocks * codes_bytes, alignment);
                let scales = packed.scales.bind(first_block * 4, n_blocks * 4, alignment);
                let status = packed.status.bind(0, STATUS_BYTES, alignment);
                let values_name = format!("{} values", kernel.dtype);
                let (values_part, codes_part, scales_part, status_part) =
                    ((&*values_name, &of_values), ("codes", &codes), ("scales", &scales), ("the status", &status));
                match kernel.direction {
                    Direction::Quantize => {
                        check_together(&[values_part], &[codes_part, scales_part, status_part], alignment)?;
                    }
                    Direction::Dequantize => {
                        check_together(&[codes_part, scales_part], &[values_part, status_part], alignment)?;
                    }
                }
                let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX); // a chunk's sizes are small
                let params = self.uniform(&Params {
                    n_elems: chunk.n_elems,
                    n_blocks: small(n_blocks),
                    values_at: of_values.at(4),
                    codes_at: codes.at(4),
                    scales_at: scales.at(4),
                    status_at: status.at(4),
                    skip: small(skip),
                    _pad: 0,
                });
                let parts: [&Bound<'_>; 4] = match kernel.direction {
                    Direction::Quantize => [&of_values, &codes, &scales, &status],
                    Direction::Dequantize => [&codes, &scales, &of_values, &status],
                };
                let resources = [params.as_entire_binding()].into_iter().chain(parts.map(Bound::resource));
                let bind_group = bind(&self.device, &pipeline, resources);
                dispatch(encoder, kernel, &pipeline, &bind_group, small(n_blocks), max_groups);
            }
            Ok(())
        });
        recorded.await?
    }

    /// What offsets of bindings are multiples of.
    pub(super) fn alignment(&self) -> u64 {
        u64::from(self.device.limits().min_storage_buffer_offset_alignment)
    }

    /// A uniform with these bytes.
    pub(super) fn uniform(&self, params: &impl bytemuck::NoUninit) -> wgpu::Buffer {
        use wgpu::util::DeviceExt as _;
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some("params"),
            contents: bytemuck::bytes_of(params),
            usage: wgpu::BufferUsages::UNIFORM,
        })
    }
}
