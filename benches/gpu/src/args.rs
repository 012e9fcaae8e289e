//! What to time.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use wgquant::gpu::{Access, Direction, Kernel, Shape};
use wgquant::{Dtype, Format, Gpu};

/// A kernel with parts of its text replaced.
pub struct Variant {
    pub name: String,
    /// Paths under `shaders/`, and what stands there instead.
    pub parts: Vec<(String, String)>,
}

impl Variant {
    /// The changed text; `None` where a part isn't in the kernel.
    pub fn apply(&self, source: &str) -> Result<Option<String>> {
        let mut source = source.to_owned();
        for (path, text) in &self.parts {
            let head = format!("// ---- {path}\n");
            let Some(start) = source.find(&head) else { return Ok(None) };
            let start = start + head.len();
            let end = source[start..].find("\n// ---- ").map_or(source.len(), |at| start + at);
            source.replace_range(start..end, text);
        }
        Ok(Some(source))
    }

    /// `NAME:PART=FILE,PART=FILE`
    fn parse(text: &str) -> Result<Self> {
        let (name, parts) = text.split_once(':').context("a variant is NAME:PART=FILE,…")?;
        let parts = parts.split(',').map(|part| {
            let (path, file) = part.split_once('=').context("a variant is NAME:PART=FILE,…")?;
            Ok((path.to_owned(), std::fs::read_to_string(file).with_context(|| file.to_owned())?))
        });
        Ok(Self { name: name.to_owned(), parts: parts.collect::<Result<_>>()? })
    }
}

pub struct Args {
    pub adapters: Vec<String>,
    pub n_elems: usize,
    pub n_rounds: usize,
    pub variants: Vec<Variant>,
    formats: Vec<Format>,
    directions: Vec<Direction>,
    dtypes: Vec<Dtype>,
    shapes: Vec<Shape>,
    accesses: Vec<Access>,
    /// Only kernels that the driver uses for what lies at multiples of 16 bytes.
    only_used: bool,
    /// A file that ratios are appended to, as lines of measurement, format and ratio between tabs.
    pub ratios: Option<PathBuf>,
}

impl Args {
    /// From the arguments after the first `n_before`.
    pub fn parse(n_before: usize) -> Result<Self> {
        let mut args = Self {
            adapters: Vec::new(),
            n_elems: 16 << 20,
            n_rounds: 15,
            variants: Vec::new(),
            formats: Vec::new(),
            directions: Vec::new(),
            dtypes: Vec::new(),
            shapes: Vec::new(),
            accesses: Vec::new(),
            only_used: false,
            ratios: None,
        };
        let mut words = std::env::args().skip(n_before);
        while let Some(option) = words.next() {
            let value = words.next().with_context(|| format!("{option} needs a value"))?;
            let list = value.split(',');
            match option.as_str() {
                "--adapter" => args.adapters = list.map(str::to_owned).collect(),
                "--elements" => args.n_elems = value.parse()?,
                "--rounds" => args.n_rounds = value.parse()?,
                "--ratios" => args.ratios = Some(value.into()),
                "--access" if value == "used" => args.only_used = true,
                "--access" => {
                    let one = |name| match name {
                        "vectors" => Ok(Access::Vectors),
                        "pairs" => Ok(Access::Pairs),
                        "lane-pairs" => Ok(Access::LanePairs),
                        "words" => Ok(Access::Words),
                        _ => bail!("no access {name}"),
                    };
                    args.accesses = list.map(one).collect::<Result<_>>()?;
                }
                "--variant" => args.variants.push(Variant::parse(&value)?),
                "--format" => args.formats = list.map(Format::from_name).collect::<wgquant::Result<_>>()?,
                "--direction" => args.directions = list.map(direction).collect::<Result<_>>()?,
                "--dtype" => {
                    let one = |name| Dtype::from_name(name).with_context(|| format!("no dtype {name}"));
                    args.dtypes = list.map(one).collect::<Result<_>>()?;
                }
                "--shape" => {
                    let one = |name: &str| Shape::from_name(name).with_context(|| format!("no shape {name}"));
                    args.shapes = list.map(one).collect::<Result<_>>()?;
                }
                _ => bail!("unknown option {option}"),
            }
        }
        Ok(args)
    }

    /// The formats whose products to time: of each kind of code one, unless asked otherwise.
    pub fn product_formats(&self) -> Vec<Format> {
        match self.formats.as_slice() {
            [] => vec![Format::Sym4, Format::Nf4, Format::Fp4, Format::Q4_0, Format::Mxfp4, Format::Sym8, Format::Q8_0],
            formats => formats.to_vec(),
        }
    }

    /// The type of vectors, by default `F32`.
    pub fn activations(&self) -> Dtype {
        self.dtypes.first().copied().unwrap_or(Dtype::F32)
    }

    /// The shapes to time; the adapter's own unless asked otherwise.
    pub fn shapes(&self, own: Shape) -> Vec<Shape> {
        if self.shapes.is_empty() { vec![own] } else { self.shapes.clone() }
    }

    /// Appends what an adapter's short name stands for to the file of ratios, if there is to be one.
    pub fn write_adapter(&self, gpu: &Gpu) -> Result<()> {
        self.write_line(&format!("{} is {}.", short_name(gpu), gpu.description()))
    }

    /// Appends a kernel's ratio.
    pub fn write_ratio(&self, gpu: &Gpu, kernel: Kernel, what: &str, ratio: f64) -> Result<()> {
        if !is_used(kernel, gpu) {
            return Ok(());
        }
        let direction = match kernel.direction {
            Direction::Quantize => "quantize",
            Direction::Dequantize => "dequantize to",
        };
        let dtype = kernel.dtype.to_string().to_lowercase();
        self.write_line(&format!("{}, {direction} {dtype}: {what}\t{}\t{ratio:.3}", short_name(gpu), kernel.format))
    }

    fn write_line(&self, line: &str) -> Result<()> {
        let Some(path) = &self.ratios else { return Ok(()) };
        writeln!(std::fs::OpenOptions::new().append(true).create(true).open(path)?, "{line}")?;
        Ok(())
    }

    /// Whether to time that kernel: once for all shapes. Nested formats have the kernels of their base.
    pub fn wants(&self, kernel: Kernel, gpu: &Gpu) -> bool {
        let base = kernel.format.info().scale != wgquant::format::ScaleType::Nested;
        kernel.shape == gpu.shape()
            && gpu.device().features().contains(kernel.needs())
            && (!self.only_used || is_used(kernel, gpu))
            && (if self.formats.is_empty() { base } else { self.formats.contains(&kernel.format) })
            && (self.directions.is_empty() || self.directions.contains(&kernel.direction))
            && (self.accesses.is_empty() || self.accesses.contains(&kernel.access))
            && (self.dtypes.is_empty() || self.dtypes.contains(&kernel.dtype))
    }
}

/// Whether the driver uses that kernel for what lies at multiples of 16 bytes.
pub fn is_used(kernel: Kernel, gpu: &Gpu) -> bool {
    kernel == gpu.kernel(kernel.format, kernel.direction, kernel.shape, kernel.dtype)
}

/// Backend and name, without what a driver adds in brackets.
fn short_name(gpu: &Gpu) -> String {
    let info = gpu.device().adapter_info();
    format!("{}:{}", info.backend.to_str(), info.name.split(" (").next().unwrap_or_default())
}

fn direction(name: &str) -> Result<Direction> {
    match name {
        "quantize" => Ok(Direction::Quantize),
        "dequantize" => Ok(Direction::Dequantize),
        _ => bail!("no direction {name}"),
    }
}
