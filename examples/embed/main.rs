//! Sentence embeddings by all-MiniLM-L6-v2, wholly on the GPU, from weights that are packed there while they are loaded.
//!
//! `cargo run --release --example embed -- [--adapter NAME] [--format NAME]… [SENTENCE]…`
//!
//! With `--table`, it compares the formats on the 200 sentences of `sentences.txt`. The model's files come with
//! `cargo xtask test`; another folder can be named with `--model`.
//!
//! - `text.rs`: sentences as token numbers, in batches
//! - `weights.rs`: what is in the file becomes packed matrices in device memory
//! - `matrix.rs`: rows of a matrix, and products with it
//! - `model.rs`: the layers
//! - `kernels.rs`: small kernels that only this example needs, each a `.wgsl` file

mod kernels;
mod matrix;
mod model;
mod text;
mod weights;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;
use wgquant::{Format, Gpu};

use crate::kernels::Kernels;
use crate::model::Model;
use crate::text::Batch;

const TABLE_SENTENCES: &str = include_str!("sentences.txt");

/// Sentence embeddings on the GPU, in f32 and from packed weights.
#[derive(Debug, Parser)]
struct Args {
    /// Part of the adapter's name, with `vulkan:` or `gl:` before it; by default the best hardware GPU.
    #[arg(long)]
    adapter: Option<String>,
    /// Formats to run beside f32; by default all.
    #[arg(long)]
    format: Vec<Format>,
    /// Runs f32 alone.
    #[arg(long, conflicts_with = "format")]
    f32_only: bool,
    /// The model's folder.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.fixtures/all-minilm-l6-v2"))]
    model: PathBuf,
    /// Compares the formats on 200 sentences.
    #[arg(long, conflicts_with_all = ["json", "sentences"])]
    table: bool,
    /// Prints one JSON document with all numbers.
    #[arg(long)]
    json: bool,
    #[arg(default_values = ["A cat sits on the mat.", "The kitten is lying on a rug.", "Interest rates rose in June."])]
    sentences: Vec<String>,
}

/// What a run of the model gave.
struct Run {
    name: &'static str,
    load_seconds: f64,
    seconds: f64,
    device_bytes: u64,
    vectors: Vec<Vec<f32>>,
    /// Cosine of each vector with the f32 model's.
    cosines: Vec<f64>,
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    if args.table {
        args.sentences = TABLE_SENTENCES.lines().map(str::to_owned).collect();
    }
    pollster::block_on(run(&args))
}

async fn run(args: &Args) -> Result<()> {
    let gpu = match &args.adapter {
        Some(name) => Gpu::open(name).await?,
        None => Gpu::open_best().await?.context("there is no hardware GPU: name an adapter with --adapter")?,
    };
    let kernels = Kernels::new(gpu.device());
    let batches = text::batches(&text::tokenizer(&args.model)?, &args.sentences)?;
    let formats: &[Format] = match (args.f32_only, args.format.as_slice()) {
        (true, _) => &[],
        (false, []) => Format::ALL,
        (false, formats) => formats,
    };
    if !args.json {
        println!("on {}", gpu.description());
    }
    if args.table {
        println!("\n| weights | device memory | mean cosine | worst cosine |\n| --- | --- | --- | --- |");
    }
    let mut runs: Vec<Run> = Vec::new();
    for format in std::iter::once(None).chain(formats.iter().copied().map(Some)) {
        let exact = runs.first().map(|run| run.vectors.as_slice());
        let run = run_model(&gpu, &kernels, args, format, &batches, exact).await?;
        match (args.json, args.table) {
            (true, _) => {}
            (false, true) => print_row(&run),
            (false, false) => print_run(&run, &args.sentences),
        }
        runs.push(run);
    }
    if args.json {
        println!("{}", json(&gpu, &runs));
    }
    Ok(())
}

/// Loads the model in a format, and embeds all sentences.
async fn run_model(
    gpu: &Gpu,
    kernels: &Kernels,
    args: &Args,
    format: Option<Format>,
    batches: &[Batch],
    exact: Option<&[Vec<f32>]>,
) -> Result<Run> {
    let start = Instant::now();
    let model = Model::load(gpu, &args.model, format).await?;
    let load_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut vectors = Vec::new();
    for batch in batches {
        vectors.extend(model.embed(gpu, kernels, batch).await?);
    }
    let seconds = start.elapsed().as_secs_f64();
    let cosines = vectors.iter().zip(exact.unwrap_or(&vectors)).map(|(x, y)| cosine(x, y)).collect();
    let name = format.map_or("f32", |format| format.info().name);
    Ok(Run { name, load_seconds, seconds, device_bytes: model.n_bytes(), vectors, cosines })
}

/// The cosine of the angle between two vectors.
fn cosine(x: &[f32], y: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    dot(x, y) / (dot(x, x) * dot(y, y)).sqrt()
}

fn print_run(run: &Run, sentences: &[String]) {
    let Run { name, load_seconds, seconds, vectors, cosines, .. } = run;
    println!("\n{name}: loaded in {load_seconds:.2} s, {} of device memory, ran {seconds:.2} s", megabytes(run));
    for ((sentence, vector), cosine) in sentences.iter().zip(vectors).zip(cosines) {
        let numbers: Vec<String> = vector.iter().take(4).map(|x| format!("{x:7.4}")).collect();
        let short: String = sentence.chars().take(40).collect();
        println!("  {short:<40}  {} …  cosine with f32 {cosine:.5}", numbers.join(" "));
    }
}

fn print_row(run: &Run) {
    let mean = run.cosines.iter().sum::<f64>() / run.cosines.len() as f64;
    let worst = run.cosines.iter().copied().fold(f64::INFINITY, f64::min);
    println!("| `{}` | {} | {mean:.5} | {worst:.5} |", run.name, megabytes(run));
    eprintln!("{}: loaded in {:.2} s, ran {:.2} s", run.name, run.load_seconds, run.seconds);
}

fn megabytes(run: &Run) -> String {
    format!("{:.1} MB", run.device_bytes as f64 / 1e6)
}

fn json(gpu: &Gpu, runs: &[Run]) -> serde_json::Value {
    let run = |run: &Run| {
        serde_json::json!({
            "format": run.name,
            "load_seconds": run.load_seconds,
            "seconds": run.seconds,
            "device_bytes": run.device_bytes,
            "vectors": run.vectors,
            "cosines": run.cosines,
        })
    };
    serde_json::json!({ "adapter": gpu.description(), "runs": runs.iter().map(run).collect::<Vec<_>>() })
}
