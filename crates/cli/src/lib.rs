//! The command line of wgquant, as a program and for what else offers it: [`run`].
// Bad input must reach the user as a sentence.
#![warn(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod args;
mod commands;
mod console;
mod html;
mod interrupt;
mod options;
mod progress;
mod table;

use std::ffi::OsString;

use args::{Args, Command};
use clap::Parser;
use console::Console;

/// It was done.
const DONE: u8 = 0;
/// It failed.
const FAILED: u8 = 1;
/// The command line is wrong, whatever the machine and the files.
const USAGE: u8 = 2;

/// Runs a command line, whose first word is the program's name. Gives the exit code: 0 done and verified, 1 it failed, 2
/// usage, 128 and the signal's number where one ended it; what there is to say is on standard output and standard error.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        // Help and version go to standard output; who closed that has no need of an error.
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return DONE;
        }
        Err(error) => {
            console::print_error(&console::usage_sentence(&error));
            return USAGE;
        }
    };
    let console = Console { json: args.json, quiet: args.quiet, progress_interval: args.progress_interval };
    let done = match &args.command {
        Command::Demo(args) => commands::demo::run(console, args),
        Command::Adapters => commands::tables::adapters(console),
        Command::Formats => commands::tables::formats(console),
        Command::Quantize(args) => commands::quantize::run(console, args),
        Command::Finish(args) => commands::tasks::finish(console, args),
        Command::Dequantize(args) => commands::dequantize::run(console, args),
        Command::Inspect(args) => commands::inspect::run(console, args),
        Command::Verify(args) => commands::verify::run(console, args),
        Command::Compare(args) => commands::compare::run(console, args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => wgquant_server::run((**args).clone()).map_err(anyhow::Error::msg),
    };
    match done {
        Ok(()) => DONE,
        Err(error) => {
            // The library's errors tell their causes themselves.
            let text = error.downcast_ref().map_or_else(|| format!("{error:#}"), wgquant::Error::to_string);
            console::print_error(&text);
            let stopped = matches!(error.downcast_ref().map(wgquant::Error::root), Some(wgquant::Error::Stopped));
            // As a shell gives it for what a signal has ended.
            let signal = interrupt::signal().filter(|_| stopped);
            signal.map_or(FAILED, |signal| 128 + signal)
        }
    }
}
