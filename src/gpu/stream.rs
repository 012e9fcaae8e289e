//! Tensors through the device in pieces: two pieces in flight, their buffers reused.

use futures_channel::oneshot;

use super::inputs::{Inputs, PIECE_BYTES};
use super::kernels::{Direction, Kernel, Params, STATUS_BYTES};
use super::plan::{self, Chunk};
use super::{Gpu, lock};
use crate::cpu;
use crate::dtype::{Dtype, Weights};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::packed::{PackedChunk, copy_from};
use crate::threads;

/// Pieces in flight: one is computed while the other is filled or read.
const N_SLOTS: usize = 2;

/// The buffers of one piece in flight.
#[derive(Debug)]
pub(super) struct Slot {
    kernel: Kernel,
    capacity_blocks: u64,
    params: wgpu::Buffer,
    pub(super) inputs: Vec<wgpu::Buffer>,
    /// Where the host writes each input, mapped unless the slot is in flight: the input itself in unified memory. A browser's
    /// are written through the queue.
    pub(super) uploads: Vec<wgpu::Buffer>,
    /// The status is the last.
    outputs: Vec<wgpu::Buffer>,
    /// Where the host reads each output: the output itself in unified memory.
    readbacks: Vec<wgpu::Buffer>,
    bind_group: wgpu::BindGroup,
}

/// A browser frees a buffer that is dropped only when its garbage collector runs.
#[cfg(target_family = "wasm")]
impl Drop for Slot {
    fn drop(&mut self) {
        for buffer in [&self.params].into_iter().chain(&self.inputs).chain(&self.outputs).chain(&self.readbacks) {
            buffer.destroy();
        }
    }
}

/// A piece that was submitted.
struct InFlight {
    chunk: Chunk,
    slot: Slot,
    submission: wgpu::SubmissionIndex,
    mapped: Vec<Mapped>,
}

/// That a buffer is mapped, once it is.
pub(super) type Mapped = oneshot::Receiver<Result<(), wgpu::BufferAsyncError>>;

/// Where weights come from.
pub(crate) enum Elements<'a> {
    /// All of them, in memory.
    Memory(&'a [u8]),
    /// Fills a buffer with the elements from a flat index on.
    Read(&'a mut (dyn FnMut(u64, &mut [u8]) -> Result<()> + Send)),
}

impl Elements<'_> {
    fn read(&mut self, first_elem: u64, width: usize, out: &mut [u8]) -> Result<()> {
        match self {
            Self::Memory(bytes) => copy_from(bytes, first_elem * width as u64, out),
            Self::Read(read) => read(first_elem, out)?,
        }
        Ok(())
    }
}

/// What is read back of a piece.
struct Piece<'a> {
    chunk: Chunk,
    outputs: Vec<&'a [u8]>,
    /// Index within the piece of the first element that the kernel objected to.
    fault: Option<u32>,
}

type Fill<'a> = &'a mut (dyn FnMut(&Chunk, &Inputs<'_>) -> Result<()> + Send);
type Drain<'a> = &'a mut dyn FnMut(&Piece<'_>) -> Result<()>;

impl Gpu {
    pub(crate) async fn quantize_stream(
        &self,
        format: Format,
        dtype: Dtype,
        n_elems: u64,
        mut elements: Elements<'_>,
        write: &mut impl FnMut(PackedChunk<'_>) -> Result<()>,
    ) -> Result<()> {
        let kernel = self.kernel(format, Direction::Quantize, self.shape, dtype);
        let info = format.info();
        let mut fault_at = None;
        let width = dtype.n_bytes();
        let (mut piece, mut scales) = (Vec::new(), Vec::new());
        self.stream(
            kernel,
            n_elems,
            &mut |chunk, inputs| {
                let n_bytes = chunk.n_elems as usize * width;
                for at in (0..n_bytes).step_by(PIECE_BYTES) {
                    let end = n_bytes.min(at + PIECE_BYTES);
                    match &mut elements {
                        Elements::Memory(bytes) => {
                            let first_byte = used_bytes(chunk.first_elem) * width;
                            inputs.write(0, at, &bytes[first_byte + at..first_byte + end])?;
                        }
                        Elements::Read(read) => {
                            piece.resize(end - at, 0);
                            read(chunk.first_elem + (at / width) as u64, &mut piece)?;
                            inputs.write(0, at, &piece)?;
                        }
                    }
                }
                Ok(())
            },
            &mut |piece| {
                let first_elem = piece.chunk.first_elem;
                if let Some(index) = piece.fault {
                    fault_at = Some(first_elem + u64::from(index));
                    return Err(Error::Empty); // replaced below, once `read` is free again
                }
                let n_codes = used_bytes(info.codes_bytes(piece.chunk.n_elems.into()));
                narrow_scales(piece.outputs[1], info.scale.n_bytes(), &mut scales);
                write(PackedChunk { first_elem, codes: &piece.outputs[0][..n_codes], scales: &scales })
            },
        )
        .await
        .map_err(|error| match fault_at {
            None => error,
            Some(index) => {
                let first = index - index % info.block as u64;
                let n = info.block.min(used_bytes(n_elems - first));
                let mut bytes = vec![0; n * width];
                let on_cpu = elements.read(first, width, &mut bytes).and_then(|()| {
                    let weights = Weights::from_le_bytes(dtype, &bytes)?;
                    cpu::quantize_into(format, weights, first, &mut vec![0; n], &mut vec![0; info.scale.n_bytes()])
                });
                self.cpu_error(kernel, index, on_cpu)
            }
        })
    }

    pub(crate) async fn dequantize_stream(
        &self,
        format: Format,
        dtype: Dtype,
        n_elems: u64,
        read: &mut (impl FnMut(u64, &mut [u8], &mut [u8]) -> Result<()> + Send),
        write: &mut impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let kernel = self.kernel(format, Direction::Dequantize, self.shape, dtype);
        let info = format.info();
        let mut fault_at = None;
        // Runs of so many blocks that they lie well in the inputs.
        let run_blocks = (PIECE_BYTES / info.block_codes_bytes()).next_multiple_of(used_bytes(plan::ALIGNED_BLOCKS));
        let (mut codes, mut scales, mut words) = (Vec::new(), Vec::new(), Vec::new());
        self.stream(
            kernel,
            n_elems,
            &mut |chunk, inputs| {
                for first_block in (0..chunk.n_blocks as usize).step_by(run_blocks) {
                    let first = first_block * info.block;
                    let n = (chunk.n_elems as usize - first).min(run_blocks * info.block);
                    codes.resize(info.codes_at(n), 0);
                    scales.resize(info.scales_at(n), 0);
                    read(chunk.first_elem + first as u64, &mut codes, &mut scales)?;
                    let bad_scale = scales
                        .chunks_exact(info.scale.n_bytes())
                        .any(|scale| (info.codec.dequantize_block)(&[], scale, &mut []).is_err());
                    if bad_scale {
                        // The reference tells the chunk's first fault, be it this scale or a code before it.
                        let n = first + n;
                        let (mut codes, mut scales) = (vec![0; info.codes_at(n)], vec![0; info.scales_at(n)]);
                        read(chunk.first_elem, &mut codes, &mut scales)?;
                        let mut out = vec![0; n * dtype.n_bytes()];
                        cpu::dequantize_into(format, &codes, &scales, chunk.first_elem, dtype, &mut out)?;
                    }
                    words.resize(n.div_ceil(info.block) * 4, 0);
                    widen_scales(&scales, info.scale.n_bytes(), &mut words);
                    inputs.write(0, info.codes_at(first), &codes)?;
                    inputs.write(1, first_block * 4, &words)?;
                }
                Ok(())
            },
            &mut |piece| {
                let first_elem = piece.chunk.first_elem;
                if let Some(index) = piece.fault {
                    fault_at = Some(first_elem + u64::from(index));
                    return Err(Error::Empty); // replaced below, once `read` is free again
                }
                write(first_elem, &piece.outputs[0][..piece.chunk.n_elems as usize * dtype.n_bytes()])
            },
        )
        .await
        .map_err(|error| match fault_at {
            None => error,
            Some(index) => {
                let first = index - index % info.block as u64;
                let n = (n_elems - first).min(info.block as u64);
                let mut codes = vec![0; used_bytes(info.codes_bytes(n))];
                let mut scale = vec![0; info.scale.n_bytes()];
                let mut out = vec![0; used_bytes(n) * dtype.n_bytes()];
                let on_cpu = read(first, &mut codes, &mut scale)
                    .and_then(|()| cpu::dequantize_into(format, &codes, &scale, first, dtype, &mut out));
                self.cpu_error(kernel, index, on_cpu)
            }
        })
    }

    /// What the reference says of the block that a kernel objected to: the kernels only tell where.
    fn cpu_error(&self, kernel: Kernel, index: u64, on_cpu: Result<()>) -> Error {
        on_cpu.err().unwrap_or_else(|| Error::Gpu {
            adapter: self.info.name.clone(),
            what: kernel.label(),
            reason: format!("the kernel objected to element {index}, which the reference accepts"),
        })
    }

    /// Puts a tensor through `kernel`. `fill` fills the inputs of a piece, `drain` takes its outputs, in order.
    async fn stream(&self, kernel: Kernel, n_elems: u64, fill: Fill<'_>, drain: Drain<'_>) -> Result<()> {
        let pipeline = self.pipeline(kernel).await?;
        let block = kernel.format.info().block;
        let (inputs, outputs) = (kernel.input_block_bytes(), kernel.output_block_bytes());
        let largest = inputs.iter().chain(&outputs).copied().max().unwrap_or(1);
        let chunk_blocks = plan::blocks_per_chunk(self.plan_limits(), block, largest);
        let capacity = chunk_blocks.min(n_elems.div_ceil(block as u64));

        let mut in_flight = std::collections::VecDeque::new();
        for chunk in plan::chunks(n_elems, block, chunk_blocks) {
            let done = if in_flight.len() == N_SLOTS { in_flight.pop_front() } else { None };
            let mut fill = |slot: &Slot| fill(&chunk, &Inputs { gpu: self, slot });
            // While the device computes the piece before, this one is filled and the one that is done is drained.
            let (slot, filled) = match done {
                Some(piece) => self.finish(piece, drain, fill).await?,
                None => {
                    let slot = self.slot(kernel, &pipeline, capacity).await?;
                    let filled = fill(&slot);
                    (slot, filled)
                }
            };
            if let Err(error) = filled {
                // A fault in a piece before this one comes first.
                for piece in in_flight {
                    self.finish(piece, drain, |_| ()).await?;
                }
                return Err(error);
            }
            in_flight.push_back(self.submit(chunk, slot, &pipeline).await?);
        }
        while let Some(piece) = in_flight.pop_front() {
            let (slot, ()) = self.finish(piece, drain, |_| ()).await?;
            lock(&self.idle_slots).push(slot);
        }
        Ok(())
    }

    /// Buffers for pieces of up to `capacity_blocks` blocks: idle ones where they fit, else new ones.
    async fn slot(&self, kernel: Kernel, pipeline: &wgpu::ComputePipeline, capacity_blocks: u64) -> Result<Slot> {
        {
            let mut idle = lock(&self.idle_slots);
            if let Some(index) =
                idle.iter().position(|slot| slot.kernel == kernel && slot.capacity_blocks >= capacity_blocks)
            {
                return Ok(idle.swap_remove(index));
            }
            // At most one size a kernel is kept, or the pool would grow with the variety of tensors.
            idle.retain(|slot| slot.kernel != kernel);
        }
        let what = format!("{capacity_blocks} blocks of {}", kernel.label());
        self.scoped(&what, || {
            let buffer = |label: &str, size: u64, usage: wgpu::BufferUsages, mapped_at_creation: bool| {
                let label = Some(format!("{} {label}", kernel.label()));
                let label = label.as_deref();
                self.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation })
            };
            use wgpu::BufferUsages as Usage;
            let size = |block_bytes: &usize| capacity_blocks * *block_bytes as u64;
            let input_bytes: Vec<_> = kernel.input_block_bytes().iter().map(size).collect();
            let output_bytes: Vec<_> = kernel.output_block_bytes().iter().map(size).chain([STATUS_BYTES]).collect();
            let all = |label: &str, sizes: &[u64], usage: Usage, mapped: bool| -> Vec<_> {
                sizes.iter().map(|&size| buffer(label, size, usage, mapped)).collect()
            };
            let params = buffer("params", size_of::<Params>() as u64, Usage::UNIFORM | Usage::COPY_DST, false);
            let (inputs, uploads, outputs, readbacks);
            if self.unified {
                inputs = all("input", &input_bytes, Usage::STORAGE | Usage::MAP_WRITE, true);
                uploads = inputs.clone();
                outputs = all("output", &output_bytes, Usage::STORAGE | Usage::COPY_DST | Usage::MAP_READ, false);
                readbacks = outputs.clone();
            } else {
                inputs = all("input", &input_bytes, Usage::STORAGE | Usage::COPY_DST, false);
                let through_queue = cfg!(target_family = "wasm");
                let staged = if through_queue { &[][..] } else { &input_bytes };
                uploads = all("upload", staged, Usage::COPY_SRC | Usage::MAP_WRITE, true);
                outputs = all("output", &output_bytes, Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST, false);
                readbacks = all("readback", &output_bytes, Usage::COPY_DST | Usage::MAP_READ, false);
            }
            let buffers: Vec<_> = [&params].into_iter().chain(&inputs).chain(&outputs).collect();
            let bind_group = bind(&self.device, pipeline, buffers.iter().map(|b| b.as_entire_binding()));
            Slot { kernel, capacity_blocks, params, inputs, uploads, outputs, readbacks, bind_group }
        })
        .await
    }

    async fn submit(&self, chunk: Chunk, slot: Slot, pipeline: &wgpu::ComputePipeline) -> Result<InFlight> {
        let kernel = slot.kernel;
        let used = |block_bytes: &usize| u64::from(chunk.n_blocks) * *block_bytes as u64;
        let (submission, mapped) = self
            .scoped(&kernel.label(), || {
                let params = Params { n_elems: chunk.n_elems, n_blocks: chunk.n_blocks, ..Params::default() };
                self.queue.write_buffer(&slot.params, 0, bytemuck::bytes_of(&params));
                let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                for upload in &slot.uploads {
                    upload.unmap();
                }
                if !self.unified {
                    for ((from, to), bytes) in slot.uploads.iter().zip(&slot.inputs).zip(&kernel.input_block_bytes()) {
                        encoder.copy_buffer_to_buffer(from, 0, to, 0, used(bytes));
                    }
                }
                if let Some(status) = slot.outputs.last() {
                    encoder.clear_buffer(status, 0, None);
                }
                let max_groups = self.device.limits().max_compute_workgroups_per_dimension;
                dispatch(&mut encoder, kernel, pipeline, &slot.bind_group, chunk.n_blocks, max_groups);
                if !self.unified {
                    let sizes = kernel.output_block_bytes();
                    let sizes = sizes.iter().map(used).chain([STATUS_BYTES]);
                    for ((from, to), size) in slot.outputs.iter().zip(&slot.readbacks).zip(sizes) {
                        encoder.copy_buffer_to_buffer(from, 0, to, 0, size);
                    }
                }
                let map = |buffer: &wgpu::Buffer, mode| {
                    let (sender, mapped) = oneshot::channel();
                    encoder.map_buffer_on_submit(buffer, mode, .., move |result| {
                        // A receiver that is gone has given up on this piece.
                        let _ = sender.send(result);
                    });
                    mapped
                };
                let mut mapped: Vec<Mapped> =
                    slot.readbacks.iter().map(|buffer| map(buffer, wgpu::MapMode::Read)).collect();
                mapped.extend(slot.uploads.iter().map(|buffer| map(buffer, wgpu::MapMode::Write)));
                (self.queue.submit([encoder.finish()]), mapped)
            })
            .await?;
        Ok(InFlight { chunk, slot, submission, mapped })
    }

    /// Waits for a piece, hands it to `drain`, with `other` on another thread meanwhile, and gives its buffers back.
    ///
    /// # Errors
    /// The device's, and that of `drain`, which comes before any of `other`.
    async fn finish<T: Send>(
        &self,
        piece: InFlight,
        drain: Drain<'_>,
        other: impl FnOnce(&Slot) -> T + Send,
    ) -> Result<(Slot, T)> {
        let InFlight { chunk, slot, submission, mapped } = piece;
        self.wait(submission, mapped).await?;
        let other = {
            let sizes = slot.kernel.output_block_bytes();
            let sizes = sizes.iter().map(|bytes| u64::from(chunk.n_blocks) * *bytes as u64).chain([STATUS_BYTES]);
            let mut views = Vec::new();
            for (readback, size) in slot.readbacks.iter().zip(sizes) {
                let view = readback.get_mapped_range(..size);
                views.push(view.map_err(|error| self.lost_error(&error.to_string()))?);
            }
            let mut outputs: Vec<&[u8]> = views.iter().map(|view| &**view).collect();
            let status: [u32; 2] = outputs.pop().map(bytemuck::pod_read_unaligned).unwrap_or_default();
            // The larger word is the smaller index.
            let fault = status.into_iter().max().filter(|&word| word != 0).map(|word| !word);
            let (other, drained) = threads::beside(|| other(&slot), || drain(&Piece { chunk, outputs, fault }));
            drained?;
            other
        };
        for readback in &slot.readbacks {
            readback.unmap();
        }
        Ok((slot, other))
    }
}

/// A bind group of these resources, at bindings 0, 1, 2, ….
pub(super) fn bind<'a>(
    device: &wgpu::Device,
    pipeline: &wgpu::ComputePipeline,
    resources: impl IntoIterator<Item = wgpu::BindingResource<'a>>,
) -> wgpu::BindGroup {
    let entries: Vec<_> =
        (0..).zip(resources).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    })
}

/// Records one dispatch over `n_blocks` blocks.
pub(super) fn dispatch(
    encoder: &mut wgpu::CommandEncoder,
    kernel: Kernel,
    pipeline: &wgpu::ComputePipeline,
    bind_group: &wgpu::BindGroup,
    n_blocks: u32,
    max_groups: u32,
) {
    let [x, y] = plan::dispatch(kernel.n_workgroups(n_blocks), max_groups);
    let label = kernel.label();
    let mut pass =
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(&label), timestamp_writes: None });
    pass.set_pipeline(pipeline);
    pass.set_bind_group(0, bind_group, &[]);
    pass.dispatch_workgroups(x, y, 1);
}

/// Bytes or elements of a piece in memory, which fit a `usize`.
fn used_bytes(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Scales from one word each to their own width.
pub(super) fn narrow_scales(words: &[u8], width: usize, out: &mut Vec<u8>) {
    out.clear();
    out.extend(words.chunks_exact(4).flat_map(|word| &word[..width]));
}

/// Scales from their own width to one word each.
pub(super) fn widen_scales(scales: &[u8], width: usize, out: &mut [u8]) {
    for (scale, word) in scales.chunks_exact(width).zip(out.chunks_exact_mut(4)) {
        word.fill(0);
        word[..width].copy_from_slice(scale);
    }
}
