//! What becomes of each tensor of an input, and where it goes.

use std::collections::BTreeSet;

use super::container::{Chosen, Rules, detect, rules};
use super::layout::{Content, Layout, Part};
use super::nested::NestedPlaces;
use super::output::{Output, Target};
use super::quantize::QuantizeOptions;
use super::safetensors::TensorInfo;
use super::source::{CONFIG_FILE, Source};
use super::weight::{PackedTensor, Places};
use crate::error::{Error, Result};
use crate::format::{Container, Format};

/// What becomes of a tensor.
#[derive(Debug)]
pub(crate) enum Step {
    /// It is packed, and its parts go there.
    Quantize(PackedTensor),
    /// Its bytes go to this position.
    Copy(u64),
}

/// The whole job, before any of it is done.
#[derive(Debug)]
pub(crate) struct Plan {
    /// One a tensor of the input, in its order.
    pub(crate) steps: Vec<Step>,
    /// Where everything goes.
    pub(crate) layout: Layout,
    /// What a person should know.
    pub(crate) notices: Vec<String>,
    /// Bytes that don't depend on any element, and where they go.
    fixed: Vec<(u64, Vec<u8>)>,
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
        let (format, rules) = (options.format, rules(options.container));
        check_container(options)?;
        refuse_quantized(source)?;
        if source.gguf().is_some() && rules.is_folder() {
            return Err(Error::Refused(format!(
                "is a GGUF file, whose names the readers of {} don't know: use --container gguf or native, or give the \
                 model's own folder",
                options.container.name()
            )));
        }
        rules.check_source(source)?;
        let mut selected = options.selection.select(source.tensors(), format, options.container)?;
        selected.notices.extend(rules.notice(source));
        if source.gguf().is_some() && options.container != Container::Gguf {
            selected
                .notices
                .push("the input's GGUF metadata (tokenizer, hyperparameters) is not in the output".to_owned());
        }
        let choices: Vec<_> = source
            .tensors()
            .iter()
            .zip(&selected.quantize)
            .map(|(tensor, &quantize)| match tensor.float().filter(|_| quantize) {
                Some(dtype) => Choice::Quantize(Chosen { tensor, dtype, format }),
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
        let layout = rules.layout(source, &chosen, &parts)?;
        let config = rules.config(source, &chosen, &copied)?;
        if let Some(notice) = config.as_ref().and_then(|_| config_notice(source)) {
            selected.notices.push(notice);
        }

        let mut placed = parts.iter().zip(layout.offsets.iter().copied());
        let steps = choices.iter().zip(n_parts).map(|(choice, n_parts)| {
            let placed: Vec<_> = placed.by_ref().take(n_parts).collect();
            match choice {
                Choice::Copy(_) => Step::Copy(placed.first().map_or(layout.data_bytes, |&(_, at)| at)),
                Choice::Quantize(weight) => Step::Quantize(place(rules, *weight, &placed)),
            }
        });
        let steps = steps.collect();
        let fixed = parts.into_iter().zip(&layout.offsets).filter_map(|(part, &at)| match part.content {
            Content::Fixed(bytes) | Content::NestedOffset(bytes) => Some((at, bytes)),
            _ => None,
        });
        Ok(Self { steps, fixed: fixed.collect(), layout, notices: selected.notices, config })
    }

    /// Starts the output: the header, what is known without looking at any element, and a folder's other files.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub(crate) fn start(&self, target: Target, source: &Source) -> Result<Output> {
        let output = target.create(&self.layout)?;
        for (at, bytes) in &self.fixed {
            output.data().write_at(*at, bytes)?;
        }
        if let Some(config) = &self.config {
            output.carry_files(source)?;
            output.add_file(CONFIG_FILE, config.as_bytes())?;
        }
        Ok(output)
    }
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
fn check_container(options: &QuantizeOptions) -> Result<()> {
    let (format, container) = (options.format, options.container);
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
