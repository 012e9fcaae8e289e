//! The small kernels of which only this example has need: pipelines, and how they are recorded.

use wgpu::util::DeviceExt as _;

/// Invocations of a workgroup, in every kernel here.
const WORKGROUP: u32 = 64;

/// Each is a `.wgsl` file beside this one, which says what it does and what it binds.
#[derive(Debug)]
pub(crate) struct Kernels {
    pub(crate) gather: Kernel,
    pub(crate) add_norm: Kernel,
    pub(crate) attention_weights: Kernel,
    pub(crate) attention_mix: Kernel,
    pub(crate) gelu: Kernel,
    pub(crate) pool: Kernel,
    pub(crate) linear: Kernel,
}

impl Kernels {
    pub(crate) fn new(device: &wgpu::Device) -> Self {
        Self {
            gather: Kernel::new(device, "gather", include_str!("gather.wgsl")),
            add_norm: Kernel::new(device, "add_norm", include_str!("add_norm.wgsl")),
            attention_weights: Kernel::new(device, "attention_weights", include_str!("attention_weights.wgsl")),
            attention_mix: Kernel::new(device, "attention_mix", include_str!("attention_mix.wgsl")),
            gelu: Kernel::new(device, "gelu", include_str!("gelu.wgsl")),
            pool: Kernel::new(device, "pool", include_str!("pool.wgsl")),
            linear: Kernel::new(device, "linear", include_str!("linear.wgsl")),
        }
    }
}

/// A pipeline, and the device that it is for.
#[derive(Debug)]
pub(crate) struct Kernel {
    device: wgpu::Device,
    pipeline: wgpu::ComputePipeline,
}

impl Kernel {
    fn new(device: &wgpu::Device, name: &str, source: &str) -> Self {
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        Self { device: device.clone(), pipeline }
    }

    /// Records `n_invocations` of it. `params` are the uniform's words, and `buffers` are bound after it, in order.
    pub(crate) fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        params: [u32; 4],
        buffers: &[&wgpu::Buffer],
        n_invocations: u32,
    ) {
        let params = self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some("params"),
            contents: bytemuck::bytes_of(&params),
            usage: wgpu::BufferUsages::UNIFORM,
        });
        let entries: Vec<_> = std::iter::once(&params)
            .chain(buffers.iter().copied())
            .zip(0..)
            .map(|(buffer, binding)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let bind_group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(n_invocations.div_ceil(WORKGROUP), 1, 1);
    }
}
