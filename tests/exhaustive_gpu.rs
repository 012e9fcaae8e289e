//! The shaders' own functions over every finite binary32, against the reference.

mod common;

use wgquant::gpu::{Direction, Kernel, Params, Shape};
use wgquant::quant::{quant4bit, quant8bit};
use wgquant::{Dtype, Format, Gpu};

/// Bits of the smallest infinity: every magnitude below is finite.
const INFINITY: u32 = 0x7f80_0000;

/// Bit patterns a dispatch.
const STEP: u32 = 1 << 23;

/// A test entry point behind a kernel's text: for the block maximum A = `params.n_blocks` + index, the scale, and A's own
/// code. It uses the kernel's functions and bindings.
const ENTRY_POINT: &str = "
@compute @workgroup_size(256)
fn every_scale(@builtin(global_invocation_id) gid: vec3<u32>) {
    let absmax = params.n_blocks + gid.x;
    let scale = scale_of(absmax);
    scales[gid.x] = scale;
    codes[gid.x] = finish_word(encode(coder(absmax, scale), absmax));
}";

/// Runs the entry point for every `A < limit` and compares its scale and code with `reference(A)`. Gives how many differ,
/// and the first.
fn differing_maxima(
    gpu: &Gpu,
    format: Format,
    source: &str,
    limit: u32,
    reference: impl Fn(f32) -> (f32, u32) + Sync,
) -> (usize, Option<u32>) {
    let device = gpu.device();
    let label = format!("every scale of {format}");
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(&label),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(&label),
        layout: None,
        module: &module,
        entry_point: Some("every_scale"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let buffer = |size: u64, usage| {
        device.create_buffer(&wgpu::BufferDescriptor { label: Some(&label), size, usage, mapped_at_creation: false })
    };
    let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let (codes, scales) = (buffer(u64::from(STEP) * 4, storage), buffer(u64::from(STEP) * 4, storage));
    let params = buffer(16, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
    let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(&label),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[(0, &params), (2, &codes), (3, &scales)]
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() }),
    });

    let (mut n_differing, mut first) = (0, None);
    for start in (0..limit).step_by(STEP as usize) {
        let uniform = Params { n_elems: 0, n_blocks: start, _pad0: 0, _pad1: 0 };
        gpu.queue().write_buffer(&params, 0, bytemuck::bytes_of(&uniform));
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &bind_group, &[]);
            pass.dispatch_workgroups(STEP / 256, 1, 1);
        }
        gpu.queue().submit([encoder.finish()]);
        let read = |buffer| pollster::block_on(gpu.read_buffer(buffer)).expect("readable");
        let (codes, scales) = (read(&codes), read(&scales));
        let (codes, scales): (&[u32], &[u32]) = (bytemuck::cast_slice(&codes), bytemuck::cast_slice(&scales));
        let differs = |a: u32| {
            let (scale, code) = reference(f32::from_bits(a));
            (scales[(a - start) as usize], codes[(a - start) as usize]) != (scale.to_bits(), code)
        };
        let end = start.saturating_add(STEP).min(limit);
        let middle = start + (end - start) / 2;
        let found: Vec<(usize, Option<u32>)> = std::thread::scope(|scope| {
            let halves = [start..middle, middle..end].map(|range| {
                scope.spawn(|| {
                    let mut differing = range.filter(|&a| differs(a));
                    let first = differing.next();
                    (usize::from(first.is_some()) + differing.count(), first)
                })
            });
            halves.into_iter().map(|half| half.join().expect("no panic")).collect()
        });
        n_differing += found.iter().map(|(n, _)| n).sum::<usize>();
        first = first.or_else(|| found.iter().find_map(|&(_, first)| first));
    }
    (n_differing, first)
}

fn source(format: Format) -> String {
    let kernel = Kernel { format, direction: Direction::Quantize, shape: Shape::Block, dtype: Dtype::F32 };
    kernel.source() + ENTRY_POINT
}

fn sym4(a: f32) -> (f32, u32) {
    let scale = quant4bit::scale(a);
    (scale, quant4bit::nibble(quant4bit::code(a, scale)).into())
}

fn sym8(a: f32) -> (f32, u32) {
    let scale = quant8bit::scale(a);
    (scale, quant8bit::code(a, scale).cast_unsigned().into())
}

#[test]
fn every_finite_maximum_gives_the_reference_scale_and_code_in_sym4() {
    let gpu = common::open(&common::adapter_names()[0]);
    let (n, first) = differing_maxima(&gpu, Format::Sym4, &source(Format::Sym4), INFINITY, sym4);
    assert_eq!(n, 0, "first at A = {first:#010x?}");
}

#[test]
fn every_finite_maximum_gives_the_reference_scale_and_code_in_sym8() {
    let gpu = common::open(&common::adapter_names()[0]);
    let (n, first) = differing_maxima(&gpu, Format::Sym8, &source(Format::Sym8), INFINITY, sym8);
    assert_eq!(n, 0, "first at A = {first:#010x?}");
}

/// One rounding constant changed in the text must be found.
#[test]
fn a_wrong_constant_is_found() {
    let gpu = common::open(&common::adapter_names()[0]);
    let broken = source(Format::Sym4).replace("+ (K - 1u)) / K", "+ (K - 2u)) / K");
    assert_ne!(broken, source(Format::Sym4));
    let (n, first) = differing_maxima(&gpu, Format::Sym4, &broken, 0x0100_0000 + STEP, sym4);
    assert!(n > 1_000_000, "only {n} found, first {first:#010x?}");
}
