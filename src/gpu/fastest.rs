//! Which shape of a kernel is the fastest on an adapter: measured, where a caller asks for it.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};
use std::time::Instant;

use super::kernels::{Direction, Kernel, Params, STATUS_BYTES, Shape};
use super::pipelines::{AnyKernel, Work};
use super::stream::{bind, dispatch};
use super::{Gpu, has_tile_limits, lock, plan};
use crate::error::Result;

/// Elements that are worked on in each dispatch, at most, and dispatches in each measurement.
const N_ELEMS: u64 = 1 << 20;
const N_DISPATCHES: usize = 4;
/// How often each shape is measured; the fastest counts.
const N_ROUNDS: usize = 3;

/// An adapter, whether the device has the limits for [`Shape::Tile`], and the kernel.
type Key = (String, bool, AnyKernel);

/// What was found in this process.
static FOUND: LazyLock<Mutex<HashMap<Key, Shape>>> = LazyLock::new(Mutex::default);

impl Gpu {
    /// Uses kernels of the shape that is the fastest for `work`, by a measurement that takes some milliseconds once the
    /// kernels of every shape are built. It is made once in a process for each adapter, format, direction and type; others
    /// than that `work` then use the same shape. [`Work::Product`] has no such shapes and changes nothing.
    ///
    /// Without it, software adapters use [`Shape::Serial`] and all others [`Shape::Tile`]. A measurement pays where much is
    /// to be quantized on a kind of adapter that isn't known. The bytes are the same.
    ///
    /// # Errors
    /// The GPU's errors.
    pub async fn with_fastest_shape(self, work: Work) -> Result<Self> {
        let (format, direction, dtype) = match work {
            Work::Quantize { format, dtype } => (format, Direction::Quantize, dtype),
            Work::Dequantize { format, dtype } => (format, Direction::Dequantize, dtype),
            Work::Product { .. } => return Ok(self),
        };
        let kernel = |shape| self.kernel(format, direction, shape, dtype);
        let tile = has_tile_limits(&self.device.limits());
        let key = (self.description(), tile, AnyKernel::from(kernel(Shape::Block)));
        let known = lock(&FOUND).get(&key).copied();
        if let Some(shape) = known {
            return Ok(self.with_shape(shape));
        }
        let mut best = (f64::INFINITY, self.shape());
        for shape in Shape::ALL {
            if shape != Shape::Tile || tile {
                let seconds = self.seconds(kernel(shape)).await?;
                if seconds < best.0 {
                    best = (seconds, shape);
                }
            }
        }
        lock(&FOUND).insert(key, best.1);
        Ok(self.with_shape(best.1))
    }

    /// How long the kernel takes over zeros.
    async fn seconds(&self, kernel: Kernel) -> Result<f64> {
        let pipeline = self.pipeline(kernel).await?;
        let (block, sizes) = (kernel.format.info().block, [kernel.input_block_bytes(), kernel.output_block_bytes()]);
        let largest = sizes.iter().flatten().copied().max().unwrap_or(1);
        let n = plan::blocks_per_chunk(self.plan_limits(), block, largest).min(N_ELEMS / block as u64);
        let n_blocks = u32::try_from(n).unwrap_or(u32::MAX);
        let what = format!("{n_blocks} blocks of {}", kernel.label());
        let (bind_group, status) = self
            .scoped(&what, || {
                use wgpu::BufferUsages as Usage;
                let buffer = |size: u64, usage| {
                    let label = Some("measurement");
                    self.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
                };
                let params = buffer(size_of::<Params>() as u64, Usage::UNIFORM | Usage::COPY_DST);
                let n_elems = n_blocks * u32::try_from(block).unwrap_or(1);
                let values = Params { n_elems, n_blocks, ..Params::default() };
                self.queue.write_buffer(&params, 0, bytemuck::bytes_of(&values));
                let data: Vec<_> =
                    sizes.iter().flatten().map(|bytes| buffer(n * *bytes as u64, Usage::STORAGE)).collect();
                let status = buffer(STATUS_BYTES, Usage::STORAGE | Usage::COPY_SRC);
                let all = [&params].into_iter().chain(&data).chain([&status]);
                (bind(&self.device, &pipeline, all.map(|buffer| buffer.as_entire_binding())), status)
            })
            .await?;
        let max_groups = self.device.limits().max_compute_workgroups_per_dimension;
        let mut best = f64::INFINITY;
        // The first warms up: drivers compile late.
        for round in 0..=N_ROUNDS {
            let start = Instant::now();
            self.scoped(&kernel.label(), || {
                let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                for _ in 0..if round == 0 { 1 } else { N_DISPATCHES } {
                    dispatch(&mut encoder, kernel, &pipeline, &bind_group, n_blocks, max_groups);
                }
                self.queue.submit([encoder.finish()]);
            })
            .await?;
            self.read_buffer(&status).await?;
            if round > 0 {
                best = best.min(start.elapsed().as_secs_f64());
            }
        }
        Ok(best)
    }
}
