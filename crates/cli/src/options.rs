//! What a quantization is told, on the command line and in a file.

use std::path::Path;

use anyhow::{Context, bail};
use bytesize::ByteSize;
use serde::Deserialize;
use wgquant::checkpoint::{Override, QuantizeOptions, Selection};
use wgquant::verify::Verify;
use wgquant::{Container, Format};

use crate::args::{QuantizeArgs, parse_size};

/// No such file is longer.
const MAX_BYTES: u64 = 1 << 20;

/// A file with options, by the names that they have on the command line.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct OptionsFile {
    format: Option<Parsed<Format>>,
    container: Option<Parsed<Container>>,
    #[serde(default)]
    include: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    min_elements: Option<u64>,
    copy_unfit: Option<bool>,
    shard_size: Option<Parsed<ByteSize>>,
    verify: Option<Parsed<Verify>>,
    #[serde(default, rename = "override")]
    overrides: Vec<OverrideEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OverrideEntry {
    pattern: String,
    format: String,
}

/// A value that is text in the file, read as the command line reads it.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String", bound = "T: FromOption")]
struct Parsed<T: FromOption>(T);

impl<T: FromOption> TryFrom<String> for Parsed<T> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        T::from_option(&text).map(Self)
    }
}

trait FromOption: Sized {
    fn from_option(text: &str) -> Result<Self, String>;
}

impl FromOption for Format {
    fn from_option(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: wgquant::Error| error.to_string())
    }
}

impl FromOption for Container {
    fn from_option(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: wgquant::Error| error.to_string())
    }
}

impl FromOption for Verify {
    fn from_option(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: wgquant::Error| error.to_string())
    }
}

impl FromOption for ByteSize {
    fn from_option(text: &str) -> Result<Self, String> {
        parse_size(text).map(ByteSize::b)
    }
}

/// What the command line says, and where it is silent, the file that it names.
pub(crate) fn quantize_options(args: &QuantizeArgs) -> anyhow::Result<QuantizeOptions> {
    let file = args.config.as_deref().map(read).transpose()?.unwrap_or_default();
    let mut overrides = Vec::new();
    for OverrideEntry { pattern, format } in &file.overrides {
        let parsed = Override::named(pattern, format).map_err(|error| anyhow::Error::msg(error.to_string()));
        overrides.push(parsed.with_context(|| named(args.config.as_deref()))?);
    }
    overrides.extend(args.overrides.iter().cloned());
    let Some(format) = args.format.or(file.format.map(|Parsed(format)| format)) else {
        bail!("{}: names no format, and neither does the command line: add --format", named(args.config.as_deref()));
    };
    let both = |file: Vec<String>, more: &[String]| file.into_iter().chain(more.iter().cloned()).collect();
    let selection = Selection {
        include: both(file.include, &args.include),
        exclude: both(file.exclude, &args.exclude),
        min_elements: args.min_elements.or(file.min_elements),
        copy_unfit: args.copy_unfit || file.copy_unfit.unwrap_or_default(),
        overrides,
    };
    Ok(QuantizeOptions {
        format,
        container: args.container.or(file.container.map(|Parsed(of)| of)).unwrap_or(Container::Native),
        selection,
        verify: args.verify.or(file.verify.map(|Parsed(of)| of)).unwrap_or_default(),
        force: args.output.force,
        resume: args.resume,
        shard_size: args.shard_size.or(file.shard_size.map(|Parsed(size)| size.as_u64())),
        sync: args.output.sync,
        keep_journal: false,
    })
}

fn named(file: Option<&Path>) -> String {
    file.map(|path| path.display().to_string()).unwrap_or_default()
}

fn read(path: &Path) -> anyhow::Result<OptionsFile> {
    let in_file = || path.display().to_string();
    let stat = std::fs::metadata(path).with_context(in_file)?;
    if !stat.is_file() || stat.len() > MAX_BYTES {
        bail!("{}: is no file of at most {MAX_BYTES} bytes, as options should be", path.display());
    }
    let text = std::fs::read_to_string(path).with_context(in_file)?;
    toml::from_str(&text).map_err(|error| {
        // One line of what is otherwise a drawing.
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        anyhow::anyhow!("{}: line {line}: {}", path.display(), error.message())
    })
}
