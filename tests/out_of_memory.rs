//! A device that can't allocate: alone in its process, because it takes the process's memory away.

mod common;

use std::process::Command;

use wgquant::{Engine, Error, Format};

/// With no address space left, a software device's allocation fails as a real device's does; the driver gives an error.
#[test]
fn a_failed_allocation_is_an_error() {
    // A software adapter's memory is the process's own. Where there is only hardware, the error is the same variant, but
    // this way to provoke it does not reach the device's memory.
    let name = common::adapter_names().into_iter().find(|name| name.starts_with("vulkan:llvmpipe"));
    let name = name.unwrap_or_else(|| panic!("this test needs Mesa's software Vulkan adapter: run `cargo xtask test`"));
    let gpu = common::open(&name).with_max_chunk_bytes(128 << 20);
    // The kernel is compiled before memory is taken away.
    pollster::block_on(gpu.quantize(Format::Sym8, &vec![1.0_f32; 64])).expect("finite");
    let engine = Engine::Gpu(gpu);

    // Given back before another program is started, which takes some.
    let reserve = vec![1_u8; 16 << 20];
    let status = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = status.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number");
    let limit = pages * 4096 + (64 << 20);
    let pid = std::process::id().to_string();
    let done = Command::new("prlimit").args(["--pid", &pid, &format!("--as={limit}:")]).status().expect("prlimit");
    assert!(done.success());
    let outcome = pollster::block_on(engine.quantize_stream(
        Format::Sym8,
        wgquant::Dtype::F32,
        1 << 30,
        |_, _| Err(Error::Refused("the buffers were allocated after all".to_owned())),
        |_| Ok(()),
    ));
    drop((reserve, engine));
    assert!(Command::new("prlimit").args(["--pid", &pid, "--as=unlimited:"]).status().expect("prlimit").success());
    let error = outcome.expect_err("no memory");
    assert!(matches!(error, Error::OutOfDeviceMemory { .. }), "{error}");
    assert!(error.to_string().contains("sym8 quantize_serial F32"), "{error}");
}
