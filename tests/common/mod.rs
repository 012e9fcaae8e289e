//! What the GPU tests share: which adapters they run on.
#![allow(dead_code, reason = "each test file uses a part")]

use wgquant::Gpu;
use wgquant::gpu::Adapter;

/// Names of the adapters to test, as `--device` takes them: what `WGQUANT_TEST_ADAPTERS` promises (a list with commas),
/// or else all that there are. None is a failure, never a pass.
pub fn adapter_names() -> Vec<String> {
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
pub fn open(name: &str) -> Gpu {
    let gpu = pollster::block_on(Gpu::open(name)).unwrap_or_else(|error| panic!("{error}: run `cargo xtask test`"));
    eprintln!("on {}", gpu.description());
    gpu
}
