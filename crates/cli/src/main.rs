//! `wgquant`: compresses the weights of a checkpoint, and proves that what came out is right.

mod args;
mod commands;
mod console;
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
    let console = Console { json: args.json, quiet: args.quiet };
    let done = match &args.command {
        Command::Demo(args) => commands::demo::run(console, args),
        Command::Adapters => commands::tables::adapters(console),
        Command::Formats => commands::tables::formats(console),
        Command::Quantize(args) => commands::quantize::run(console, args),
        Command::Dequantize(args) => commands::dequantize::run(console, args),
        Command::Inspect(args) => commands::inspect::run(console, args),
        Command::Verify(args) => commands::verify::run(console, args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The library's errors tell their causes themselves.
            let text = error.downcast_ref().map_or_else(|| format!("{error:#}"), wgquant::Error::to_string);
            console::print_error(&text);
            ExitCode::from(FAILED)
        }
    }
}
