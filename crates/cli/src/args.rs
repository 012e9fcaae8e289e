//! What can be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Parser, Subcommand};
use wgquant::checkpoint::{Override, Task};
use wgquant::verify::Verify;
use wgquant::{Container, Dtype, Format};

/// Compresses neural-network weights to 4 or 8 bits on any GPU, or the CPU, and proves that what came out is right.
#[derive(Debug, Parser)]
#[command(
    name = "wgquant",
    version,
    after_help = "Exit codes: 0 done and verified; 1 it failed; 2 usage; 130 Ctrl-C, 143 SIGTERM."
)]
pub(crate) struct Args {
    /// Print one JSON document on standard output, and nothing else there
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print nothing but errors and, with --json, the document
    #[arg(long, global = true)]
    pub(crate) quiet: bool,
    /// Seconds between lines of progress, where standard error is no terminal
    #[arg(long, global = true, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    pub(crate) progress_interval: Duration,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the words and keys of `compare` mean.
const COMPARE_HELP: &str = "\
A format is on the frontier if no other is as small and as exact, and better in one of these, over all tensors. A tensor
that a format does not fit stays as it is, and counts with its own bytes and no error.

--json: {seconds, elements, bytes_in,
  formats: [{format, bits_per_weight, bytes_out, max_abs_error, mse, sqnr_db, unfit_tensors, frontier}],
  tensors: [{name, shape, dtype, bytes_in,
    formats: [{format, bytes_out, max_abs_error, mse, sqnr_db, worst_block, unfit}]}]}
bytes_out is codes and scales, without headers and digests; unfit says why a format does not fit, and the figures beside it
are null; sqnr_db is null too where there is no error at all.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compress a small checkpoint that it makes, verify it, and show what came out
    Demo(DemoArgs),
    /// Show the GPUs that are here, their limits and what they can do
    Adapters,
    /// Show the formats: bits per weight, block, scale, containers
    Formats,
    /// Compress a checkpoint
    Quantize(QuantizeArgs),
    /// Make the output of the parts that `quantize --shard-task` has made: give it the same arguments, without --shard-task
    Finish(QuantizeArgs),
    /// Turn a compressed checkpoint back into a plain one
    Dequantize(DequantizeArgs),
    /// Show what is in a file: tensors, formats, shapes, sizes, digests
    Inspect(InspectArgs),
    /// Recompute a compressed checkpoint from its original, and compare every byte
    Verify(VerifyArgs),
    /// Show the error and the size that each format would give, and write no weights
    #[command(after_help = COMPARE_HELP)]
    Compare(CompareArgs),
    /// Serve all this over HTTP, until SIGINT or SIGTERM
    #[cfg(feature = "serve")]
    Serve(Box<wgquant_server::Args>),
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeviceArg {
    /// `auto` for the best GPU or else the CPU, `cpu`, or part of an adapter's name (see `wgquant adapters`), with
    /// `vulkan:` or `gl:` before it where needed; several with commas between them (`vulkan:4090,cpu`) share the tensors
    #[arg(long, value_name = "auto|cpu|NAME,…", default_value = "auto")]
    pub(crate) device: String,
    /// Let what is in flight take at most so much memory, on host and device together (512MiB, …): it goes through in more
    /// pieces, with the same result
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory: Option<u64>,
}

/// Where the result goes.
#[derive(Debug, clap::Args)]
pub(crate) struct OutputArgs {
    /// The file to write, or the folder where the container is one; it appears only when it is complete
    #[arg(short, long, value_name = "OUTPUT")]
    pub(crate) output: PathBuf,
    /// Replace the output if it exists, and give up what an interrupted run left unfinished
    #[arg(long)]
    pub(crate) force: bool,
    /// Flush the output to the disk before it gets its name
    #[arg(long)]
    pub(crate) sync: bool,
}

/// Where a report goes that is all that a command writes.
#[derive(Debug, clap::Args)]
pub(crate) struct PageArgs {
    /// Write a report too: one HTML page that needs no other file and no network
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// Replace the report if it exists
    #[arg(long, requires = "report")]
    pub(crate) force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArg,
}

#[derive(Debug, clap::Args)]
pub(crate) struct QuantizeArgs {
    /// A .safetensors or .gguf file, or a folder with model.safetensors or with shards and their index
    pub(crate) input: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Go on with what an interrupted run of the same command left unfinished beside the output; where there is nothing,
    /// start afresh
    #[arg(long)]
    pub(crate) resume: bool,
    /// Cut the output into files of at most so many bytes of tensors (5GB, 500MiB, …), with an index [default: one file,
    /// or 5GB where the input is in shards]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) shard_size: Option<u64>,
    /// The format (see `wgquant formats`)
    #[arg(long, required_unless_present = "config")]
    pub(crate) format: Option<Format>,
    /// The layout of the output: `native`, `mxfp4` are one file, `bnb`, `compressed-tensors` a model's folder
    /// [default: native]
    #[arg(long)]
    pub(crate) container: Option<Container>,
    /// Give what matches a format of its own, or `keep` it as it is; can be given several times, and of several that match
    /// the last counts
    #[arg(long = "override", value_name = "GLOB=FORMAT|keep")]
    pub(crate) overrides: Vec<Override>,
    /// Take options from a TOML file, by the names they have here (`format = "nf4"`, `[[override]]` with `pattern` and
    /// `format`); the command line wins, and adds to lists
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) config: Option<PathBuf>,
    /// Show what would be done, and the sizes, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Quantize only tensors whose name matches, whatever their shape, if the container holds such; can be given several
    /// times
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
    /// Leave tensors alone whose name matches; can be given several times
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Leave smaller tensors alone [default: 4096, or any size with --include]
    #[arg(long, value_name = "N")]
    pub(crate) min_elements: Option<u64>,
    /// Copy tensors through whose rows are no multiple of the format's block, instead of refusing them
    #[arg(long)]
    pub(crate) copy_unfit: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArg,
    /// Make only the I-th of N parts, 1/N to N/N: some of the output's files, always the same. Run all N with the same
    /// arguments, in any order and at the same time, on machines that share the input and the output's folder; then
    /// `wgquant finish`. One that was killed is run again
    #[arg(long, value_name = "I/N", value_parser = parse_task, conflicts_with_all = ["resume", "dry_run", "report"])]
    pub(crate) shard_task: Option<Task>,
    /// How much of the result to recompute on the CPU and compare [default: sample]
    #[arg(long, value_name = "none|sample|full")]
    pub(crate) verify: Option<Verify>,
    /// Write a report too: one HTML page with the error of each tensor and the values of the worst, which are read again
    /// for it. It needs no other file and no network; --force replaces it as well
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DequantizeArgs {
    /// What `wgquant quantize` wrote, or a 4-bit bitsandbytes, a compressed-tensors or a GGUF model; what comes out is one
    /// plain .safetensors file, also from a folder
    pub(crate) input: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Type of the weights [default: the one that each had, or f32 where the file does not say]
    #[arg(long, value_name = "f32|f16|bf16")]
    pub(crate) dtype: Option<Dtype>,
    #[command(flatten)]
    pub(crate) device: DeviceArg,
}

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// A .safetensors or .gguf file or a model's folder, compressed or not
    pub(crate) file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// The .safetensors or .gguf file or the folder that was compressed
    pub(crate) original: PathBuf,
    /// What `wgquant quantize` made of it
    pub(crate) quantized: PathBuf,
    #[command(flatten)]
    pub(crate) page: PageArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CompareArgs {
    /// A .safetensors or .gguf file, or a folder with model.safetensors or with shards and their index
    pub(crate) original: PathBuf,
    /// The formats, with commas between them [default: all]
    #[arg(long, value_name = "FORMAT,…", value_delimiter = ',')]
    pub(crate) formats: Vec<Format>,
    /// Compare only tensors whose name matches, whatever their shape; can be given several times
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
    /// Leave tensors out whose name matches; can be given several times
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Leave smaller tensors out [default: 4096, or any size with --include]
    #[arg(long, value_name = "N")]
    pub(crate) min_elements: Option<u64>,
    #[command(flatten)]
    pub(crate) page: PageArgs,
}

/// A task and how many there are: 3/8.
fn parse_task(text: &str) -> Result<Task, String> {
    let numbers = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
    let (number, of) = numbers.ok_or("a task is a number and how many there are, as in 3/8")?;
    Task::new(number, of).map_err(|error| error.to_string())
}

/// A number of bytes: 500000, 5GB (powers of 1,000), 512MiB (powers of 1,024).
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    match text.parse::<ByteSize>() {
        Ok(size) if size.as_u64() > 0 => Ok(size.as_u64()),
        _ => Err("a size is a number above 0 with a unit, as in 512MiB or 5GB".to_owned()),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "an interval is a number of seconds, as in 0.5 or 60".to_owned())
}
