//! A tensor from host memory through the device and back, beside the stages that it can't do without.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context as _, Result};
use wgquant::gpu::{Direction, Kernel};
use wgquant::{Gpu, Packed, Weights, quantize};

use crate::data;

/// Seconds, the fastest of the rounds.
pub struct EndToEnd {
    pub whole: f64,
    pub upload: f64,
    pub download: f64,
}

/// Times the whole, the upload of the same bytes in, and the download of the same bytes out, in turns.
pub fn time(gpu: &Gpu, kernel: Kernel, n_elems: usize, n_rounds: usize) -> Result<EndToEnd> {
    let weights = data::weights(n_elems);
    let packed = quantize(kernel.format, Weights::from(&weights[..]))?;
    let inputs = data::inputs(kernel, n_elems)?;
    let blocks = n_elems / kernel.format.info().block;
    let n_out: usize = kernel.output_block_bytes().iter().map(|bytes| bytes * blocks).sum();
    let pipes = Pipes::new(gpu, inputs.iter().map(Vec::len).max().unwrap_or(0).max(n_out));
    let mut host = vec![1; n_out];
    let mut best = EndToEnd { whole: f64::INFINITY, upload: f64::INFINITY, download: f64::INFINITY };
    for round in 0..=n_rounds {
        let start = Instant::now();
        whole(gpu, kernel, &inputs[0], &packed)?;
        let whole = start.elapsed().as_secs_f64();
        let start = Instant::now();
        for input in &inputs {
            pipes.upload(gpu, input)?;
        }
        let upload = start.elapsed().as_secs_f64();
        let start = Instant::now();
        pipes.download(gpu, &mut host)?;
        let download = start.elapsed().as_secs_f64();
        if round > 0 {
            best.whole = best.whole.min(whole);
            best.upload = best.upload.min(upload);
            best.download = best.download.min(download);
        }
    }
    Ok(best)
}

fn whole(gpu: &Gpu, kernel: Kernel, weights: &[u8], packed: &Packed) -> Result<()> {
    match kernel.direction {
        Direction::Quantize => {
            let weights = Weights::from_le_bytes(kernel.dtype, weights)?;
            black_box(pollster::block_on(gpu.quantize(kernel.format, weights))?);
        }
        Direction::Dequantize => {
            black_box(pollster::block_on(gpu.dequantize(packed, kernel.dtype))?);
        }
    }
    Ok(())
}

/// Bytes of a piece, as the driver has them.
const PIECE: usize = 32 << 20;

/// Buffers to upload to and download from.
struct Pipes {
    device: wgpu::Buffer,
    readback: wgpu::Buffer,
}

impl Pipes {
    fn new(gpu: &Gpu, n_bytes: usize) -> Self {
        let size = n_bytes.min(PIECE) as u64;
        let buffer = |label, usage| {
            gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        use wgpu::BufferUsages as Usage;
        Self {
            device: buffer("device", Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC),
            readback: buffer("readback", Usage::MAP_READ | Usage::COPY_DST),
        }
    }

    fn upload(&self, gpu: &Gpu, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(PIECE) {
            gpu.queue().write_buffer(&self.device, 0, piece);
            wait(gpu, gpu.queue().submit([]))?;
        }
        Ok(())
    }

    fn download(&self, gpu: &Gpu, out: &mut [u8]) -> Result<()> {
        for piece in out.chunks_mut(PIECE) {
            let n = piece.len() as u64;
            let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(&self.device, 0, &self.readback, 0, n);
            encoder.map_buffer_on_submit(&self.readback, wgpu::MapMode::Read, ..n, |_| ());
            wait(gpu, gpu.queue().submit([encoder.finish()]))?;
            piece.copy_from_slice(&self.readback.get_mapped_range(..n).context("mapping a readback")?);
            self.readback.unmap();
        }
        Ok(())
    }
}

fn wait(gpu: &Gpu, submission: wgpu::SubmissionIndex) -> Result<()> {
    let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
    gpu.device().poll(wait).context("waiting for a copy")?;
    Ok(())
}
