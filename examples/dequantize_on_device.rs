//! The round trip with both ends on the GPU: weights are quantized, dequantized and compared there, and only the answer,
//! the largest error, is read back.
//!
//! `cargo run --release --example dequantize_on_device -- [ADAPTER]`, by default the best hardware GPU.

use wgpu::util::DeviceExt as _;
use wgquant::{Dtype, Error, Format, Gpu};

/// The largest |x − y|; the bits of floats that are not negative order like the floats.
const LARGEST_ERROR: &str = "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> largest: atomic<u32>;

@compute @workgroup_size(256)
fn largest_error(@builtin(global_invocation_id) gid: vec3<u32>) {
    if gid.x < arrayLength(&x) {
        atomicMax(&largest, bitcast<u32>(abs(x[gid.x] - y[gid.x])));
    }
}";

fn main() -> Result<(), Error> {
    pollster::block_on(run())
}

async fn run() -> Result<(), Error> {
    let gpu = match std::env::args().nth(1) {
        Some(name) => Gpu::open(&name).await?,
        None => Gpu::open_best().await?.ok_or_else(|| Error::Refused("no hardware GPU: name an adapter".to_owned()))?,
    };
    println!("on {}", gpu.description());
    let device = gpu.device();

    let weights: Vec<f32> =
        (0..1 << 20).map(|i: u32| ((i.wrapping_mul(2_654_435_761) >> 8) as f32) / 8e6 - 1.0).collect();
    let x = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("weights"),
        contents: bytemuck::cast_slice(&weights),
        usage: wgpu::BufferUsages::STORAGE,
    });
    let buffer = |label, size| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        })
    };
    let (y, largest) = (buffer("weights again", x.size()), buffer("largest error", 4));

    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("largest error"),
        source: wgpu::ShaderSource::Wgsl(LARGEST_ERROR.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("largest error"),
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[(0, &x), (1, &y), (2, &largest)]
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() }),
    });

    // One submission: quantize, dequantize, compare.
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let packed = gpu.record_quantize(&mut encoder, Format::Sym8, Dtype::F32, weights.len() as u64, &x).await?;
    gpu.record_dequantize(&mut encoder, &packed, Dtype::F32, &y).await?;
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(u32::try_from(weights.len().div_ceil(256)).unwrap_or(u32::MAX), 1, 1);
    }
    gpu.queue().submit([encoder.finish()]);

    let answer: Vec<f32> = bytemuck::pod_collect_to_vec(&gpu.read_buffer(&largest).await?);
    println!("largest error of {} weights in sym8: {}", weights.len(), answer[0]);
    Ok(())
}
