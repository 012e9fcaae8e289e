//! Quantizes weights that are already in a GPU buffer; the packed tensor stays on the device until it is asked for.
//!
//! `cargo run --release --example quantize_on_device -- [ADAPTER]`, by default the best hardware GPU.

use wgpu::util::DeviceExt as _;
use wgquant::{Dtype, Error, Format, Gpu};

fn main() -> Result<(), Error> {
    pollster::block_on(run())
}

async fn run() -> Result<(), Error> {
    let gpu = open().await?;
    println!("on {}", gpu.description());

    // An application's weights, in a buffer of its own.
    let weights: Vec<f32> =
        (0..1_000_000_u32).map(|i| ((i.wrapping_mul(2_654_435_761) >> 8) as f32) / 8e6 - 1.0).collect();
    let buffer = gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("weights"),
        contents: bytemuck::cast_slice(&weights),
        usage: wgpu::BufferUsages::STORAGE,
    });

    // Recorded beside whatever else the application records; nothing runs before it submits.
    let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let packed = gpu.record_quantize(&mut encoder, Format::Sym4, Dtype::F32, weights.len() as u64, &buffer).await?;
    gpu.queue().submit([encoder.finish()]);

    // Here the answer is brought back, to show that it is the CPU reference's, byte for byte.
    let on_host = gpu.download(&packed).await?;
    println!("{} bytes became {}", size_of_val(weights.as_slice()), on_host.size_in_bytes());
    println!("digest {}", blake3::Hash::from(on_host.digest()));
    println!("equal to the CPU reference: {}", on_host == wgquant::quantize(Format::Sym4, &weights)?);
    Ok(())
}

async fn open() -> Result<Gpu, Error> {
    match std::env::args().nth(1) {
        Some(name) => Gpu::open(&name).await,
        None => Gpu::open_best().await?.ok_or_else(|| Error::Refused("no hardware GPU: name an adapter".to_owned())),
    }
}
