//! One file a command.

pub(crate) mod compare;
pub(crate) mod demo;
pub(crate) mod dequantize;
pub(crate) mod inspect;
mod pages;
pub(crate) mod quantize;
pub(crate) mod tables;
pub(crate) mod tasks;
pub(crate) mod verify;

use wgquant::{Engine, Result};

use crate::args::DeviceArg;
use crate::console::Console;
use crate::progress::Reporter;

/// The most memory that this process had resident at a time, where the system says so.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok().map(|kib: u64| kib << 10)
}

/// Opens what `--device` names. Where `auto` found no GPU, the reporter says so when work begins: an error before that
/// stands alone.
fn open_engines(console: Console, device: &DeviceArg) -> Result<(Vec<Engine>, Reporter)> {
    open_engines_beside(console, device, || Ok(())).map(|(engines, reporter, ())| (engines, reporter))
}

/// [`open_engines`] on another thread while this one reads what is to be worked on: a driver takes a while to open, and so do
/// the headers of many files. An error in the input comes before one of the device.
fn open_engines_beside<T>(
    console: Console,
    device: &DeviceArg,
    read: impl FnOnce() -> Result<T>,
) -> Result<(Vec<Engine>, Reporter, T)> {
    let open = || pollster::block_on(Engine::open_all(&device.device));
    let (input, engines) = std::thread::scope(|scope| {
        let opening = std::thread::Builder::new().name("wgquant-open".to_owned()).spawn_scoped(scope, open);
        let input = read();
        let engines = match opening {
            Ok(opening) => opening.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            // No thread can be started.
            Err(_) => open(),
        };
        (input, engines)
    });
    let (input, engines) = (input?, engines?);
    let engines = match device.memory {
        Some(n_bytes) => Engine::share_memory(engines, n_bytes)?,
        None => engines,
    };
    let on_cpu_for_want_of_gpu = device.device == "auto" && matches!(engines[..], [Engine::Cpu]);
    let note = on_cpu_for_want_of_gpu
        .then_some("no hardware GPU was found, so the CPU does the work (wgquant adapters lists what there is)");
    Ok((engines, Reporter::new(console, note), input))
}
