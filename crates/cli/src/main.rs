//! `wgquant`: compresses the weights of a checkpoint, and proves that what came out is right.

mod args;
mod commands;
mod console;
mod html;
mod interrupt;
mod options;
mod progress;
mod report;
mod table;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use console::Console;

/// It failed.
const FAILED: u8 = 1;
/// The command line is wrong, whatever the machine and the files.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    hush_wayland();
    let args = match Args::try_parse() {
        Ok(args) => args,
        // Help and version go to standard output; who closed that has no need of an error.
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            console::print_error(&console::usage_sentence(&error));
            return ExitCode::from(USAGE);
        }
    };
    let console = Console { json: args.json, quiet: args.quiet, progress_interval: args.progress_interval };
    let done = match &args.command {
        Command::Demo(args) => commands::demo::run(console, args),
        Command::Adapters => commands::tables::adapters(console),
        Command::Formats => commands::tables::formats(console),
        Command::Quantize(args) => commands::quantize::run(console, args),
        Command::Dequantize(args) => commands::dequantize::run(console, args),
        Command::Inspect(args) => commands::inspect::run(console, args),
        Command::Verify(args) => commands::verify::run(console, args),
        Command::Compare(args) => commands::compare::run(console, args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The library's errors tell their causes themselves.
            let text = error.downcast_ref().map_or_else(|| format!("{error:#}"), wgquant::Error::to_string);
            console::print_error(&text);
            let stopped = matches!(error.downcast_ref().map(wgquant::Error::root), Some(wgquant::Error::Stopped));
            // As a shell gives it for what a signal has ended.
            let signal = interrupt::signal().filter(|_| stopped);
            ExitCode::from(signal.map_or(FAILED, |signal| 128 + signal))
        }
    }
}

/// Keeps standard error to this program's own sentences. Mesa's Vulkan layer asks for a Wayland display, and where
/// `XDG_RUNTIME_DIR` is unset, as in containers and on servers, libwayland prints an error about that itself. A folder
/// that is not there has no display either, and libwayland says nothing.
fn hush_wayland() {
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: this is the first thing that main does, so no other thread reads or writes the environment.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", "/nonexistent") };
    }
}
