//! Times every kernel on every adapter, beside a copy kernel of the same traffic and a float twin, in turns within one run.
//!
//! ```sh
//! cargo xtask bench gpu --adapter vulkan:llvmpipe --format sym4 --direction quantize --dtype f32
//! cargo xtask bench gpu product --adapter vulkan                          # matrix-vector products from packed codes
//! cargo xtask bench gpu --variant mine:formats/nf4.wgsl=/tmp/nf4.wgsl     # beside the kernel with that part replaced
//! ```

mod args;
mod count;
mod data;
mod end_to_end;
mod measure;
mod product;

use anyhow::{Context as _, Result};
use args::{Args, Variant};
use measure::{Subject, Timing};
use wgquant::gpu::{Direction, Kernel, Params, Shape};
use wgquant::{Dtype, Gpu};

/// Float twins of kernels: an integer part, and what stands in its place.
const FLOAT_TWINS: &[(Direction, &str, &str)] = &[
    (Direction::Quantize, "formats/quant4bit.wgsl", include_str!("../shaders/float_sym4.wgsl")),
    (Direction::Quantize, "formats/quant8bit.wgsl", include_str!("../shaders/float_sym8.wgsl")),
    (Direction::Quantize, "formats/nf4.wgsl", include_str!("../shaders/float_nf4.wgsl")),
    (Direction::Quantize, "formats/q8_0.wgsl", include_str!("../shaders/float_q8_0.wgsl")),
    (Direction::Dequantize, "shared/symmetric.wgsl", include_str!("../shaders/float_symmetric.wgsl")),
    (Direction::Dequantize, "shared/codebook.wgsl", include_str!("../shaders/float_codebook.wgsl")),
    (Direction::Dequantize, "formats/q8_0.wgsl", include_str!("../shaders/float_q8_0.wgsl")),
];

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some("count") {
        return count_all();
    }
    let products = std::env::args().nth(1).as_deref() == Some("product");
    let args = Args::parse(if products { 2 } else { 1 })?;
    if products {
        for gpu in pollster::block_on(open(&args))? {
            product::run(&gpu, &args.product_formats(), args.activations(), args.n_rounds)?;
        }
        return Ok(());
    }
    for gpu in pollster::block_on(open(&args))? {
        println!("\n{}: {} elements, best of {} in turns\n", gpu.description(), args.n_elems, args.n_rounds);
        println!("| kernel | G elements/s | of the copy kernel | median | by CPU time | compile |");
        println!("| --- | ---: | ---: | ---: | ---: | ---: |");
        let kernels: Vec<_> = Kernel::all().filter(|kernel| args.wants(*kernel, &gpu)).collect();
        let mut seconds = Vec::new();
        args.write_adapter(&gpu)?;
        for &kernel in &kernels {
            seconds.push(one(&gpu, kernel, &args).with_context(|| kernel.label())?);
        }
        println!("\nFrom host memory to host memory, a piece of 32 MiB after the other:\n");
        println!("| kernel | whole, ms | upload | kernel | download | slowest of the three / whole |");
        println!("| --- | ---: | ---: | ---: | ---: | ---: |");
        for (&kernel, seconds) in kernels.iter().zip(seconds).filter(|(kernel, _)| args::is_used(**kernel, &gpu)) {
            whole(&gpu, kernel, seconds, &args).with_context(|| kernel.label())?;
        }
    }
    Ok(())
}

/// Prints how much integer arithmetic each `tile` kernel does for an element.
fn count_all() -> Result<()> {
    println!("| kernel | operations an element | of every invocation | once a block |");
    println!("| --- | ---: | ---: | ---: |");
    let nested = wgquant::format::ScaleType::Nested;
    for kernel in Kernel::all().filter(|k| k.shape == Shape::Tile && k.format.info().scale != nested) {
        let count = count::count(kernel)?;
        let n = count.per_element(kernel.format.info().block);
        println!("| {} | {n:.1} | {} | {} |", kernel.label(), count.each, count.block);
    }
    Ok(())
}

/// Times the way from host memory through a kernel, which takes so many seconds by itself, to host memory.
fn whole(gpu: &Gpu, kernel: Kernel, seconds: f64, args: &Args) -> Result<()> {
    let n_elems = args.n_elems / kernel.format.info().block * kernel.format.info().block;
    let times = end_to_end::time(gpu, kernel, n_elems, args.n_rounds)?;
    let ratio = seconds.max(times.upload).max(times.download) / times.whole;
    let [whole, upload, of_kernel, download] = [times.whole, times.upload, seconds, times.download].map(|s| s * 1e3);
    println!("| {} | {whole:.1} | {upload:.1} | {of_kernel:.1} | {download:.1} | {ratio:.2} |", kernel.label());
    args.write_ratio(gpu, kernel, "slowest stage to end to end", ratio)
}

/// Times a kernel, its variants and its float twin beside the faster of two copy kernels. Gives the kernel's fastest time.
fn one(gpu: &Gpu, kernel: Kernel, args: &Args) -> Result<f64> {
    let block = kernel.format.info().block;
    let n_blocks = u32::try_from(args.n_elems / block)?;
    let n_elems = n_blocks * u32::try_from(block)?;
    let mut subjects = Vec::new();
    for &shape in &args.shapes(gpu.shape()) {
        // Other shapes have no pairs.
        let kernel = if shape == kernel.shape {
            kernel
        } else {
            gpu.kernel(kernel.format, kernel.direction, shape, kernel.dtype)
        };
        let subject = |name: String, source, exact| Subject {
            name,
            source,
            entry_point: kernel.entry_point().to_owned(),
            n_workgroups: kernel.n_workgroups(n_blocks),
            exact,
        };
        subjects.push(subject(kernel.label(), kernel.source(), true));
        for variant in &args.variants {
            if let Some(source) = variant.apply(&kernel.source())? {
                subjects.push(subject(format!("{} {}", kernel.label(), variant.name), source, true));
            }
        }
        // Values of 16 bits have no twin: those are rounded by integers whatever the product is.
        let has_twin = kernel.direction == Direction::Quantize || kernel.dtype == Dtype::F32;
        for (_, part, text) in FLOAT_TWINS.iter().filter(|twin| has_twin && twin.0 == kernel.direction) {
            // What the integer part of a quantizer compares with is left out where the format has it.
            let levels =
                (kernel.direction == Direction::Quantize).then(|| ("shared/levels.wgsl".to_owned(), String::new()));
            let without = Variant { name: String::new(), parts: levels.into_iter().collect() };
            let twin = Variant { name: String::new(), parts: vec![((*part).to_owned(), (*text).to_owned())] };
            let source = without.apply(&kernel.source())?.unwrap_or_else(|| kernel.source());
            if let Some(source) = twin.apply(&source)? {
                subjects.push(subject(kernel.label() + IN_FLOATS, source, false));
            }
        }
    }
    subjects.extend(copies(kernel, n_blocks));
    let params = Params { n_elems, n_blocks, ..Params::default() };
    let inputs = data::inputs(kernel, n_elems as usize)?;
    let timings = measure::time_all(gpu, kernel, params, &inputs, &subjects, args.n_rounds)?;
    let is_copy = |timing: &&Timing| timing.name.starts_with("copy, ");
    let copy = |of: fn(&Timing) -> f64| timings.iter().filter(is_copy).map(of).fold(f64::INFINITY, f64::min);
    for timing in &timings {
        println!(
            "| {}{} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} s |",
            timing.name,
            if timing.differs { " OTHER BYTES" } else { "" },
            f64::from(n_elems) / timing.best() * 1e-9,
            copy(Timing::best) / timing.best(),
            copy(Timing::median) / timing.median(),
            copy(Timing::cpu) / timing.cpu(),
            timing.compile_seconds,
        );
    }
    // On a software adapter whatever else the machine does weighs most, so that there CPU time is compared.
    let software = gpu.device().adapter_info().device_type == wgpu::DeviceType::Cpu;
    let of: fn(&Timing) -> f64 = if software { Timing::cpu } else { Timing::best };
    args.write_ratio(gpu, kernel, "of a copy kernel", copy(of) / of(&timings[0]))?;
    if let Some(twin) = timings.iter().find(|timing| timing.name.ends_with(IN_FLOATS)) {
        args.write_ratio(gpu, kernel, "of a copy kernel, in floats", copy(of) / of(twin))?;
    }
    if let Some(copy) = timings.iter().find(|timing| timing.name == IN_PAIRS) {
        args.write_ratio(gpu, kernel, "of a copy kernel in pairs of words", copy.cpu() / timings[0].cpu())?;
    }
    Ok(timings[0].best())
}

/// What the table calls a float twin, after the kernel's own name.
const IN_FLOATS: &str = " in floats";

/// What the table calls the copy kernel by 64-bit integers.
const IN_PAIRS: &str = "copy by 64-bit integers, a block an invocation";

/// Kernels that only move the bytes: one block an invocation, neighbours on neighbouring addresses and, where `kernel` goes by
/// 64-bit integers, the first of them like that.
fn copies(kernel: Kernel, n_blocks: u32) -> Vec<Subject> {
    let (by_block, wide) = match kernel.direction {
        Direction::Quantize => {
            (include_str!("../shaders/copy_quantize.wgsl"), include_str!("../shaders/copy_quantize_wide.wgsl"))
        }
        Direction::Dequantize => {
            (include_str!("../shaders/copy_dequantize.wgsl"), include_str!("../shaders/copy_dequantize_wide.wgsl"))
        }
    };
    let by_words = include_str!("../shaders/copy_by_words.wgsl");
    let mut texts =
        vec![("copy, a block an invocation", by_words, by_block), ("copy, neighbouring addresses", "", wide)];
    if kernel.access.is_by_pairs() {
        texts.push((IN_PAIRS, include_str!("../shaders/copy_by_pairs.wgsl"), by_block));
    }
    let (input, output) = (kernel.input_block_bytes()[0] / 16, kernel.output_block_bytes()[0] / 16);
    let sizes = format!("const IN_VECS: u32 = {input}u;\nconst OUT_VECS: u32 = {output}u;\n");
    let subject = |(name, vectors, text): (&str, &str, &str)| Subject {
        name: name.to_owned(),
        source: format!("{sizes}{vectors}{text}"),
        entry_point: "main".to_owned(),
        n_workgroups: n_blocks.div_ceil(64),
        exact: false,
    };
    texts.into_iter().map(subject).collect()
}

/// The adapters asked for, with timestamps and subgroups where they have them.
async fn open(args: &Args) -> Result<Vec<Gpu>> {
    let mut gpus = Vec::new();
    for backends in [wgpu::Backends::PRIMARY, wgpu::Backends::GL] {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends,
            flags: wgpu::InstanceFlags::empty(),
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        for adapter in instance.enumerate_adapters(backends).await {
            let info = adapter.get_info();
            let name = format!("{}:{}", info.backend.to_str(), info.name).to_lowercase();
            if !args.adapters.iter().any(|wanted| name.starts_with(&wanted.to_lowercase())) && !args.adapters.is_empty()
            {
                continue;
            }
            let wanted = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SUBGROUP | wgpu::Features::SHADER_INT64;
            let descriptor = wgpu::DeviceDescriptor {
                required_features: adapter.features() & wanted,
                required_limits: adapter.limits(),
                ..wgpu::DeviceDescriptor::default()
            };
            let (device, queue) = adapter.request_device(&descriptor).await?;
            gpus.push(Gpu::from_device(device, queue)?);
        }
    }
    anyhow::ensure!(!gpus.is_empty(), "no such adapter");
    Ok(gpus)
}
