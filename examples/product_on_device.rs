//! The shortest path for an app: its own device, one tensor in, a packed buffer out, one matrix-vector product.
//!
//! `cargo run --release --example product_on_device -- [vulkan|gl|metal|dx12]`

use wgpu::util::DeviceExt as _;
use wgquant::gpu::Product;
use wgquant::{Dtype, Format, Gpu};

const ROWS: u32 = 512;
const COLS: u32 = 384;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(run())
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    // The app's device, with whatever limits and features it has.
    let backend =
        std::env::args().nth(1).and_then(|name| wgpu::Backends::from_comma_list(name.split(':').next()?).into());
    let mut instance = wgpu::InstanceDescriptor::new_without_display_handle();
    instance.backends = backend.unwrap_or(wgpu::Backends::PRIMARY);
    let adapter = wgpu::Instance::new(instance).request_adapter(&wgpu::RequestAdapterOptions::default()).await?;
    let (device, queue) = adapter.request_device(&wgpu::DeviceDescriptor::default()).await?;

    // The app's buffers.
    let buffer = |values: &[f32]| {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(values),
            usage,
        })
    };
    let weights: Vec<f32> = (0..ROWS * COLS).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8e6 - 1.0).collect();
    let (w, x, y) = (buffer(&weights), buffer(&[1.0; COLS as usize]), buffer(&[0.0; ROWS as usize]));

    // Quantize and multiply, in the app's own commands: it submits when it likes.
    let gpu = Gpu::from_device(device.clone(), queue.clone())?;
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let packed = gpu.record_quantize(&mut encoder, Format::Nf4, Dtype::F32, weights.len() as u64, &w).await?;
    let product = Product {
        weights: &packed,
        n_rows: ROWS,
        n_cols: COLS,
        x: (&x).into(),
        n_vectors: 1,
        activations: Dtype::F32,
        bias: None,
        y: (&y).into(),
    };
    gpu.record_product(&mut encoder, &product).await?;
    queue.submit([encoder.finish()]);

    let y: Vec<f32> = bytemuck::pod_collect_to_vec(&gpu.read_buffer(&y).await?);
    println!("{} bytes of weights became {} on {}", w.size(), packed.device_bytes(), gpu.description());
    println!("y[0] = {}, of f32 weights {}", y[0], weights[..COLS as usize].iter().sum::<f32>());
    Ok(())
}
