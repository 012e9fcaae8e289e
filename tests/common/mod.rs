//! What the GPU tests share: which adapters they run on.
#![allow(dead_code, reason = "each test file uses a part")]

use wgquant::gpu::Adapter;
use wgquant::{Dtype, Format, Gpu, selftest};

/// Names of the adapters to test, as `--device` takes them: what `WGQUANT_TEST_ADAPTERS` promises (a list with commas),
/// or else all that there are. None is a failure, never a pass.
pub(crate) fn adapter_names() -> Vec<String> {
    let names: Vec<String> = match std::env::var("WGQUANT_TEST_ADAPTERS") {
        Ok(names) => names.split(',').map(str::to_owned).collect(),
        Err(_) => {
            let adapters = pollster::block_on(wgquant::gpu::adapters());
            let mut names: Vec<_> =
                adapters.iter().map(|Adapter { backend, name, .. }| format!("{backend}:{name}")).collect();
            names.dedup();
            names
        }
    };
    assert!(!names.is_empty(), "there is no GPU adapter, not even a software one: run `cargo xtask test`");
    names
}

/// An adapter by name; its description is printed first.
pub(crate) fn open(name: &str) -> Gpu {
    let gpu = pollster::block_on(Gpu::open(name)).unwrap_or_else(|error| panic!("{error}: run `cargo xtask test`"));
    eprintln!("on {}", gpu.description());
    gpu
}

/// A driver on a device of our own with changed limits, as an application would have it.
pub(crate) fn open_with(name: &str, change: impl FnOnce(&mut wgpu::Limits)) -> Gpu {
    let (device, queue) = app_device(name, |adapter| {
        let mut required_limits = adapter.limits();
        change(&mut required_limits);
        wgpu::DeviceDescriptor { required_limits, ..wgpu::DeviceDescriptor::default() }
    });
    Gpu::from_device(device, queue).expect("limits that suffice")
}

/// A device that an application makes for itself.
pub(crate) fn app_device(
    name: &str,
    descriptor: impl FnOnce(&wgpu::Adapter) -> wgpu::DeviceDescriptor<'static>,
) -> (wgpu::Device, wgpu::Queue) {
    let (backend, name) = name.split_once(':').expect("a name with its backend");
    let backends = if backend == "gl" { wgpu::Backends::GL } else { wgpu::Backends::PRIMARY };
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapters = pollster::block_on(instance.enumerate_adapters(backends));
    let adapter = adapters.iter().find(|a| a.get_info().name.contains(name)).expect("an adapter of that name");
    pollster::block_on(adapter.request_device(&descriptor(adapter))).expect("a device")
}

/// Weights of three blocks and a short one, in `dtype`.
pub(crate) fn case(format: Format, dtype: Dtype) -> selftest::Case {
    let block = format.info().block;
    let cases = selftest::cases(format, dtype);
    let n = if format.info().whole_blocks { 67 * block } else { 5 * block + 7 };
    let wanted = format!("ordinary, {n} elements");
    cases.into_iter().find(|case| case.name == wanted).expect("a case of that name")
}
