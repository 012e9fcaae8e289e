//! One file a command.

pub(crate) mod demo;
pub(crate) mod dequantize;
pub(crate) mod inspect;
pub(crate) mod quantize;
pub(crate) mod tables;
pub(crate) mod verify;

use wgquant::{Engine, Result};

use crate::args::DeviceArg;
use crate::console::Console;

/// Opens what `--device` names, and says so where `auto` found no GPU.
fn open_engine(console: Console, device: &DeviceArg) -> Result<Engine> {
    let engine = pollster::block_on(Engine::open(&device.device))?;
    if device.device == "auto" && matches!(engine, Engine::Cpu) {
        console.note("no hardware GPU was found, so the CPU does the work (wgquant adapters lists what there is)");
    }
    Ok(engine)
}
