//! Matrix-vector products from packed codes, beside the same kernel on plain f32 and f16 weights, and a kernel that only
//! reads the packed bytes: in turns, on one adapter.

use std::time::Instant;

use anyhow::{Context as _, Result};
use wgpu::util::DeviceExt as _;
use wgquant::gpu::{ProductKernel, ProductParams, ProductShape, Shape};
use wgquant::{Dtype, Format, Gpu, quantize};

use crate::args::Variant;

/// Rows and columns.
const SIZES: [[u32; 2]; 2] = [[4096, 4096], [4096, 14336]];

/// Products in one submission, so that its cost counts little.
const AT_A_TIME: u32 = 4;

struct Subject {
    name: String,
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    n_workgroups: u32,
    seconds: Vec<f64>,
    cpu_seconds: Vec<f64>,
}

/// Prints a table for each size.
pub fn run(gpu: &Gpu, formats: &[Format], activations: Dtype, n_rounds: usize) -> Result<()> {
    for [n_rows, n_cols] in SIZES {
        println!("\n{}: {n_rows} × {n_cols}, one vector of {activations}, best of {n_rounds} in turns\n", gpu.description());
        println!("| weights | ms | of f32 | of f16 | of reading the bytes | by CPU time: of f32 | of f16 | of reading |");
        println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
        let mut subjects = subjects(gpu, formats, activations, n_rows, n_cols)?;
        for round in 0..=n_rounds {
            for subject in &mut subjects {
                let cpu = cpu_time::ProcessTime::now();
                let seconds = time(gpu, subject)?;
                if round > 0 {
                    subject.seconds.push(seconds);
                    subject.cpu_seconds.push(cpu.elapsed().as_secs_f64());
                }
            }
        }
        print(&subjects);
    }
    Ok(())
}

fn print(subjects: &[Subject]) {
    let best = |s: &Subject| s.seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let cpu = |s: &Subject| s.cpu_seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let least = |start: &str, of: &dyn Fn(&Subject) -> f64| {
        subjects.iter().filter(|s| s.name.starts_with(start)).map(of).fold(f64::INFINITY, f64::min)
    };
    for subject in subjects {
        let format = subject.name.split(' ').next().unwrap_or_default();
        let reading = format!("{format} only read");
        println!(
            "| {} | {:.3} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            subject.name,
            best(subject) * 1e3 / f64::from(AT_A_TIME),
            best(subject) / least("f32", &best),
            best(subject) / least("f16", &best),
            best(subject) / least(&reading, &best),
            cpu(subject) / least("f32", &cpu),
            cpu(subject) / least("f16", &cpu),
            cpu(subject) / least(&reading, &cpu),
        );
    }
}

fn time(gpu: &Gpu, subject: &Subject) -> Result<f64> {
    let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    for _ in 0..AT_A_TIME {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&subject.pipeline);
        pass.set_bind_group(0, &subject.bind_group, &[]);
        pass.dispatch_workgroups(subject.n_workgroups, 1, 1);
    }
    let commands = encoder.finish();
    let start = Instant::now();
    let submission = gpu.queue().submit([commands]);
    let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
    gpu.device().poll(wait).context("waiting for a kernel")?;
    Ok(start.elapsed().as_secs_f64())
}

fn subjects(gpu: &Gpu, formats: &[Format], activations: Dtype, n_rows: u32, n_cols: u32) -> Result<Vec<Subject>> {
    let n = n_rows as usize * n_cols as usize;
    let mut state = 1_u32;
    let weights: Vec<f32> = (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect();
    let halves: Vec<half::f16> = weights.iter().map(|&w| half::f16::from_f32(w)).collect();
    let new = |bytes: &[u8]| {
        gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytes,
            usage: wgpu::BufferUsages::STORAGE,
        })
    };
    let x = match activations {
        Dtype::F32 => new(bytemuck::cast_slice(&weights[..n_cols as usize])),
        _ => new(bytemuck::cast_slice(&halves[..n_cols as usize])),
    };
    let y = new(&vec![0; n_rows as usize * 4]);
    let shape = if gpu.shape() == Shape::Serial { ProductShape::Serial } else { ProductShape::Rows };
    let kernel = |format| ProductKernel { format, shape, activations, whole: true, n_vectors: 1 };
    let rows = if shape == ProductShape::Serial { 64 } else { 4 };
    let mut subjects = Vec::new();
    let mut add = |name: &str, source: &str, entry_point: &str, codes: &wgpu::Buffer, scales: &wgpu::Buffer, rows: u32| {
        let (pipeline, bind_group) = pipeline(gpu, source, entry_point, [codes, scales, &x, scales, &y], n_rows, n_cols);
        let (seconds, cpu_seconds) = (Vec::new(), Vec::new());
        let n_workgroups = n_rows.div_ceil(rows);
        subjects.push(Subject { name: name.to_owned(), pipeline, bind_group, n_workgroups, seconds, cpu_seconds });
    };
    let plain = |text: &str| {
        let parts = vec![("product/weights_whole.wgsl".to_owned(), text.to_owned())];
        let source = Variant { name: String::new(), parts }.apply(&kernel(Format::Sym4).source())?;
        source.context("the product has such a part")
    };
    let words = new(&[0; 16]);
    let (as_f32, as_f16) = (new(bytemuck::cast_slice(&weights)), new(bytemuck::cast_slice(&halves)));
    let entry = kernel(Format::Sym4).entry_point();
    add("f32", &plain(include_str!("../shaders/weights_f32.wgsl"))?, entry, &as_f32, &words, rows);
    add("f16", &plain(include_str!("../shaders/weights_f16.wgsl"))?, entry, &as_f16, &words, rows);
    for &format in formats {
        let packed = pollster::block_on(gpu.upload(&quantize(format, &weights)?))?;
        let (codes, scales) = (&packed.codes().buffer, &packed.scales().buffer);
        add(format.name(), &kernel(format).source(), entry, codes, scales, rows);
        let sizes =
            format!("const BITS: u32 = {}u;\nconst BLOCK: u32 = {}u;\n", format.info().bits, format.info().block);
        let by_row = sizes.clone() + include_str!("../shaders/read_packed.wgsl");
        add(&format!("{format} only read"), &by_row, "main", codes, scales, 64);
        let wide = sizes + include_str!("../shaders/read_packed_wide.wgsl");
        add(&format!("{format} only read, neighbouring addresses"), &wide, "main", codes, scales, 1);
    }
    Ok(subjects)
}

fn pipeline(
    gpu: &Gpu,
    source: &str,
    entry_point: &str,
    buffers: [&wgpu::Buffer; 5],
    n_rows: u32,
    n_cols: u32,
) -> (wgpu::ComputePipeline, wgpu::BindGroup) {
    let device = gpu.device();
    let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    let storage = |binding| entry(binding, wgpu::BufferBindingType::Storage { read_only: binding < 5 });
    let entries =
        [entry(0, wgpu::BufferBindingType::Uniform), storage(1), storage(2), storage(3), storage(4), storage(5)];
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
    let params = ProductParams { n_rows, n_cols, n_vectors: 1, y_stride: n_rows, ..ProductParams::default() };
    let uniform = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: bytemuck::bytes_of(&params),
        usage: wgpu::BufferUsages::UNIFORM,
    });
    let entries: Vec<_> = (0..)
        .zip([&uniform].into_iter().chain(buffers))
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    let bind_group =
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some(entry_point),
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: false,
            ..wgpu::PipelineCompilationOptions::default()
        },
        cache: None,
    });
    (pipeline, bind_group)
}
