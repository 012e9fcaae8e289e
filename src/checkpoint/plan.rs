//! What becomes of each tensor of an input, and where it goes.

use std::collections::BTreeSet;
use std::ops::Range;

use super::container::{Chosen, Rules, detect, rules};
use super::layout::{Content, Layout, Part, cut};
use super::nested::NestedPlaces;
use super::output::{Kind, Output, Target};
use super::quantize::QuantizeOptions;
use super::safetensors::TensorInfo;
use super::source::{CONFIG_FILE, Source};
use super::weight::{PackedTensor, Places};
use crate::error::{Error, Result};
use crate::format::{Container, Format};

/// Bytes of tensors in a file of a model in shards, unless told otherwise.
pub(crate) const DEFAULT_SHARD_BYTES: u64 = 5_000_000_000;

/// What becomes of a tensor.
#[derive(Debug)]
pub(crate) enum Step {
    /// It is packed, and its parts go there; those that don't depend on its elements are known.
    Quantize(PackedTensor, Vec<FixedBytes>),
    /// Its bytes go to this position.
    Copy(u64),
}

/// Bytes of an output, and where they go.
#[derive(Debug)]
pub(crate) struct FixedBytes {
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The whole job, before any of it is done.
#[derive(Debug)]
pub(crate) struct Plan {
    /// One a tensor of the input, in its order.
    pub(crate) steps: Vec<Step>,
    /// Where everything goes.
    pub(crate) layout: Layout,
    /// The tensors that each file of the output holds, by their numbers.
    pub(crate) files: Vec<Range<usize>>,
    /// What a person should know.
    pub(crate) notices: Vec<String>,
    /// Of a container that is a folder, the text of its config.json.
    config: Option<String>,
}

impl Plan {
    /// Plans the quantization of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Refused`] for a format that the container does not hold, an input that is quantized already, a selection
    /// that does not fit, and names that clash.
    pub(crate) fn new(source: &Source, options: &QuantizeOptions) -> Result<Self> {
        let rules = rules(options.container);
        check_container(options.format, options.container)?;
        for format in options.selection.overrides.iter().filter_map(|of| of.format) {
            check_container(format, options.container)?;
            if format != options.format && rules.is_of_one_format() {
                return Err(Error::Refused(format!(
                    "{} names one format for a whole model, so {format} can't be beside {}: use --container native",
                    options.container.name(),
                    options.format
                )));
            }
        }
        refuse_quantized(source)?;
        if source.gguf().is_some() && rules.is_folder() {
            return Err(Error::Refused(format!(
                "is a GGUF file, whose names the readers of {} don't know: use --container gguf or native, or give the \
                 model's own folder",
                options.container.name()
            )));
        }
        rules.check_source(source)?;
        let mut selected = options.selection.select(source.tensors(), options.format, options.container)?;
        selected.notices.extend(rules.notice(source));
        if source.gguf().is_some() && options.container != Container::Gguf {
            selected
                .notices
                .push("the input's GGUF metadata (tokenizer, hyperparameters) is not in the output".to_owned());
        }
        let choices: Vec<_> = source
            .tensors()
            .iter()
            .zip(&selected.formats)
            .map(|(tensor, &format)| match tensor.float().zip(format) {
                Some((dtype, format)) => Choice::Quantize(Chosen { tensor, dtype, format }),
                None => Choice::Copy(tensor),
            })
            .collect();
        let chosen: Vec<_> = choices.iter().filter_map(Choice::chosen).collect();
        let copied: Vec<_> = choices.iter().filter_map(Choice::copied).collect();

        let names: BTreeSet<_> = source.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        let mut parts = Vec::new();
        let mut n_parts = Vec::with_capacity(choices.len());
        for choice in &choices {
            let before = parts.len();
            match *choice {
                Choice::Copy(tensor) => parts.push(Part::copy_of(tensor)),
                Choice::Quantize(weight) => {
                    parts.extend(rules.parts(weight));
                    refuse_clashes(&names, weight.tensor, &parts[before..])?;
                }
            }
            n_parts.push(parts.len() - before);
        }
        let (layout, files) = lay_out(source, rules, shard_limit(source, options)?, (&choices, &n_parts, &parts))?;
        let config = rules.config(source, &chosen, &copied)?;
        if let Some(notice) = config.as_ref().and_then(|_| config_notice(source)) {
            selected.notices.push(notice);
        }

        let mut placed = parts.iter().zip(layout.offsets.iter().copied());
        let steps = choices.iter().zip(n_parts).map(|(choice, n_parts)| {
            let placed: Vec<_> = placed.by_ref().take(n_parts).collect();
            match choice {
                Choice::Copy(_) => Step::Copy(placed.first().map_or(0, |&(_, at)| at)),
                Choice::Quantize(weight) => Step::Quantize(place(rules, *weight, &placed), fixed(&placed)),
            }
        });
        let steps = steps.collect();
        Ok(Self { steps, layout, files, notices: selected.notices, config })
    }

    /// Starts the output: headers, and a folder's other files.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub(crate) fn start(&self, target: Target, source: &Source, job: &serde_json::Value) -> Result<Output> {
        let output = target.create(&self.layout, job)?;
        // One that has its name has all its files too.
        if !output.is_finished() {
            self.add_other_files(&output, source)?;
        }
        Ok(output)
    }

    /// Writes a folder's files beside those with the weights, but for the index.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub(crate) fn add_other_files(&self, output: &Output, source: &Source) -> Result<()> {
        output.carry_files(source)?;
        match &self.config {
            Some(config) => output.add_file(CONFIG_FILE, config.as_bytes()),
            None => Ok(()),
        }
    }
}

/// What the output of a job on `source` is, in a container or a plain file.
pub(crate) fn output_kind(source: &Source, container: Option<Container>, shard_size: Option<u64>) -> Kind {
    let is_folder = container.is_some_and(|container| rules(container).is_folder());
    let cut = container != Some(Container::Gguf) && (source.is_sharded() || shard_size.is_some());
    if is_folder || cut { Kind::Folder } else { Kind::File }
}

/// Bytes of tensors that a file of the output holds at most: as asked, and a model in shards stays one.
fn shard_limit(source: &Source, options: &QuantizeOptions) -> Result<Option<u64>> {
    match options.shard_size {
        Some(_) if options.container == Container::Gguf => {
            Err(Error::Refused("a GGUF file is not cut into shards: leave --shard-size out".to_owned()))
        }
        _ if options.container == Container::Gguf => Ok(None),
        Some(limit) => Ok(Some(limit)),
        None => Ok(source.is_sharded().then_some(DEFAULT_SHARD_BYTES)),
    }
}

/// Cuts tensors into files, all parts of a tensor in one, and lays out each; and says which tensors are in which.
fn lay_out(
    source: &Source,
    rules: &dyn Rules,
    limit: Option<u64>,
    (choices, n_parts, parts): (&[Choice<'_>], &[usize], &[Part]),
) -> Result<(Layout, Vec<Range<usize>>)> {
    let mut rest = parts;
    let tensors: Vec<_> = n_parts.iter().map(|&n| rest.split_off(..n).unwrap_or_default()).collect();
    let sizes = tensors.iter().map(|parts| parts.iter().map(|part| part.n_bytes).sum());
    let (mut files, mut choices, mut parts, mut n_parts) = (Vec::new(), choices, parts, n_parts);
    let mut ranges = Vec::new();
    for n_tensors in cut(sizes, limit) {
        let first = ranges.last().map_or(0, |range: &Range<usize>| range.end);
        ranges.push(first..first + n_tensors);
        let choices = choices.split_off(..n_tensors).unwrap_or_default();
        let n_parts = n_parts.split_off(..n_tensors).unwrap_or_default().iter().sum();
        let parts = parts.split_off(..n_parts).unwrap_or_default();
        let weights: Vec<_> = choices.iter().filter_map(Choice::chosen).collect();
        files.push((rules.layout(source, &weights, parts)?, parts));
    }
    Ok((Layout::new(files)?, ranges))
}

/// What was chosen for a tensor.
enum Choice<'a> {
    Quantize(Chosen<'a>),
    Copy(&'a TensorInfo),
}

impl<'a> Choice<'a> {
    fn chosen(&self) -> Option<Chosen<'a>> {
        match *self {
            Self::Quantize(weight) => Some(weight),
            Self::Copy(_) => None,
        }
    }

    fn copied(&self) -> Option<&'a TensorInfo> {
        match *self {
            Self::Quantize(_) => None,
            Self::Copy(tensor) => Some(tensor),
        }
    }
}

/// Refuses a format that the container does not hold, with what would fit.
fn check_container(format: Format, container: Container) -> Result<()> {
    if format.info().containers.contains(&container) {
        return Ok(());
    }
    let containers: Vec<_> = format.info().containers.iter().map(|container| container.name()).collect();
    let formats = Format::ALL.iter().filter(|format| format.info().containers.contains(&container));
    let formats: Vec<_> = formats.map(|format| format.name()).collect();
    Err(Error::Refused(format!(
        "{format} can't be written as {0}: {format} can be as {1}, and {0} holds {2}",
        container.name(),
        containers.join(", "),
        formats.join(", ")
    )))
}

/// Refuses an input that is quantized already.
///
/// # Errors
/// [`Error::Refused`].
pub(crate) fn refuse_quantized(source: &Source) -> Result<()> {
    // A GGUF file may hold weights of all kinds, and those that are packed are copied.
    match detect(source).filter(|&container| container != Container::Gguf) {
        None => Ok(()),
        Some(container) => Err(Error::Refused(format!(
            "was quantized already (its container is {}): give the original, or run wgquant dequantize on it first",
            container.name()
        ))),
    }
}

fn refuse_clashes(names: &BTreeSet<&str>, weight: &TensorInfo, parts: &[Part]) -> Result<()> {
    match parts.iter().find(|part| part.name != weight.name && names.contains(part.name.as_str())) {
        None => Ok(()),
        Some(clash) => Err(Error::Refused(format!(
            "tensor {:?} can't be quantized, because the input has a tensor {:?} already, which is the name that a part of \
             it would get: leave it out with --exclude",
            weight.name, clash.name
        ))),
    }
}

/// What of a weight's parts is known beforehand.
fn fixed(parts: &[(&Part, u64)]) -> Vec<FixedBytes> {
    let fixed = parts.iter().filter_map(|(part, at)| match &part.content {
        Content::Fixed(bytes) | Content::NestedOffset(bytes) => Some(FixedBytes { at: *at, bytes: bytes.clone() }),
        _ => None,
    });
    fixed.collect()
}

/// A weight whose parts have their places.
fn place(rules: &dyn Rules, weight: Chosen<'_>, parts: &[(&Part, u64)]) -> PackedTensor {
    let at = |content| parts.iter().find(|(part, _)| part.content == content).map(|&(_, at)| at);
    let scales_at = at(Content::Scales).unwrap_or_default();
    let offset = parts.iter().find(|(part, _)| matches!(part.content, Content::NestedOffset(_)));
    let nested = offset.map(|(part, offset_at)| NestedPlaces {
        codes_at: scales_at,
        absmax_at: at(Content::NestedAbsmax).unwrap_or_default(),
        offset_at: *offset_at,
        offset_bytes: part.n_bytes,
        offset_form: rules.offset_form(),
    });
    let places = match at(Content::Blocks) {
        Some(at) => Places::Together { at },
        None => Places::Apart {
            codes_at: at(Content::Codes).unwrap_or_default(),
            scales_at,
            coding: rules.coding(weight.format),
            nested,
        },
    };
    PackedTensor {
        name: weight.tensor.name.clone(),
        format: weight.format,
        shape: weight.tensor.shape.clone(),
        dtype: weight.dtype,
        n_elems: weight.tensor.n_elems(),
        n_bytes: parts.iter().map(|(part, _)| part.n_bytes).sum(),
        dtype_is_known: true,
        places,
        digest_at: at(Content::Digest),
    }
}

/// What a person should know of a folder that gets a config.json of our own.
fn config_notice(source: &Source) -> Option<String> {
    source.config().is_none().then(|| {
        "the input has no config.json, so the output's holds quantization_config alone: transformers needs the model's own \
         beside it"
            .to_owned()
    })
}
