//! Kernels on one device: run in turns, so that whatever else the machine does meets all of them alike.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use wgpu::util::DeviceExt as _;
use wgquant::Gpu;
use wgquant::gpu::{Kernel, Params};

/// A kernel to time: all of a run have the bindings of one [`Kernel`].
pub struct Subject {
    pub name: String,
    pub source: String,
    pub entry_point: String,
    pub n_workgroups: u32,
    /// Whether its output must be that of the first subject.
    pub exact: bool,
}

/// Seconds of each repetition.
pub struct Timing {
    pub name: String,
    pub seconds: Vec<f64>,
    /// Of this process, on all cores: on a software adapter the kernel's work, whoever else uses the machine.
    pub cpu_seconds: Vec<f64>,
    pub compile_seconds: f64,
    pub differs: bool,
}

impl Timing {
    pub fn best(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub fn median(&self) -> f64 {
        median(&self.seconds)
    }

    pub fn cpu(&self) -> f64 {
        median(&self.cpu_seconds)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Times all subjects over the same buffers, `n_rounds` times each, in turns.
pub fn time_all(
    gpu: &Gpu,
    kernel: Kernel,
    params: Params,
    inputs: &[Vec<u8>],
    subjects: &[Subject],
    n_rounds: usize,
) -> Result<Vec<Timing>> {
    let device = gpu.device();
    let storage = wgpu::BufferUsages::STORAGE;
    let uniform = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("params"),
        contents: bytemuck::bytes_of(&params),
        usage: wgpu::BufferUsages::UNIFORM,
    });
    let inputs: Vec<_> = inputs
        .iter()
        .map(|contents| {
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: Some("input"),
                contents,
                usage: storage,
            })
        })
        .collect();
    let new = |size| {
        let usage = storage | wgpu::BufferUsages::COPY_SRC;
        device.create_buffer(&wgpu::BufferDescriptor { label: Some("output"), size, usage, mapped_at_creation: false })
    };
    let outputs: Vec<_> =
        kernel.output_block_bytes().iter().map(|n| new(*n as u64 * u64::from(params.n_blocks))).collect();
    let status = new(wgquant::gpu::STATUS_BYTES);

    let entry = |binding: usize, ty| wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    let n_in = inputs.len();
    let entries: Vec<_> = (0..5)
        .map(|binding| match binding {
            0 => entry(0, wgpu::BufferBindingType::Uniform),
            b => entry(b, wgpu::BufferBindingType::Storage { read_only: b <= n_in }),
        })
        .collect();
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
    let buffers = [&uniform].into_iter().chain(&inputs).chain(&outputs).chain([&status]);
    let entries: Vec<_> = (0..)
        .zip(buffers)
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    let bind_group =
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });

    let clock = Clock::new(gpu);
    let mut pipelines = Vec::new();
    let mut timings = Vec::new();
    for subject in subjects {
        let start = Instant::now();
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&subject.name),
            source: wgpu::ShaderSource::Wgsl(subject.source.as_str().into()),
        });
        pipelines.push(device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&subject.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(&subject.entry_point),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..wgpu::PipelineCompilationOptions::default()
            },
            cache: None,
        }));
        timings.push(Timing {
            name: subject.name.clone(),
            seconds: Vec::new(),
            cpu_seconds: Vec::new(),
            compile_seconds: start.elapsed().as_secs_f64(),
            differs: false,
        });
    }

    let mut expected: Option<Vec<Vec<u8>>> = None;
    // Round 0 warms up (drivers compile late), and compares.
    for round in 0..=n_rounds {
        for ((subject, pipeline), timing) in subjects.iter().zip(&pipelines).zip(&mut timings) {
            let start = Instant::now();
            let cpu = cpu_time::ProcessTime::now();
            let seconds = clock.time(gpu, pipeline, &bind_group, subject.n_workgroups)?;
            if round > 0 {
                timing.seconds.push(seconds);
                timing.cpu_seconds.push(cpu.elapsed().as_secs_f64());
                continue;
            }
            timing.compile_seconds += start.elapsed().as_secs_f64();
            if subject.exact {
                let read = |buffer| pollster::block_on(gpu.read_buffer(buffer));
                let actual = outputs.iter().map(read).collect::<wgquant::Result<Vec<_>>>()?;
                timing.differs = *expected.get_or_insert_with(|| actual.clone()) != actual;
            }
        }
    }
    Ok(timings)
}

/// Timestamps of the device where it has them, and else the time from submission to completion.
struct Clock {
    queries: Option<(wgpu::QuerySet, wgpu::Buffer)>,
}

impl Clock {
    fn new(gpu: &Gpu) -> Self {
        let device = gpu.device();
        let queries = device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| {
            let set = device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            });
            let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
            let buffer = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: 16,
                usage,
                mapped_at_creation: false,
            });
            (set, buffer)
        });
        Self { queries }
    }

    fn time(
        &self,
        gpu: &Gpu,
        pipeline: &wgpu::ComputePipeline,
        bind_group: &wgpu::BindGroup,
        n_workgroups: u32,
    ) -> Result<f64> {
        let max = gpu.device().limits().max_compute_workgroups_per_dimension;
        let x = n_workgroups.min(max);
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let timestamp_writes = self.queries.as_ref().map(|(query_set, _)| wgpu::ComputePassTimestampWrites {
                query_set,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            });
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, bind_group, &[]);
            pass.dispatch_workgroups(x, n_workgroups.div_ceil(x), 1);
        }
        if let Some((set, buffer)) = &self.queries {
            encoder.resolve_query_set(set, 0..2, buffer, 0);
        }
        let commands = encoder.finish();
        let start = Instant::now();
        let submission = gpu.queue().submit([commands]);
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        gpu.device().poll(wait).context("waiting for a kernel")?;
        let wall = start.elapsed().as_secs_f64();
        let Some((_, buffer)) = &self.queries else { return Ok(wall) };
        let ticks: [u64; 2] = bytemuck::pod_read_unaligned(&pollster::block_on(gpu.read_buffer(buffer))?);
        ensure!(ticks[1] > ticks[0], "the device's timestamps don't grow");
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        Ok((ticks[1] - ticks[0]) as f64 * f64::from(gpu.queue().get_timestamp_period()) * 1e-9)
    }
}
