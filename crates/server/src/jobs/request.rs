//! What a job is asked to do: the options of the command line, by the same names.

use std::str::FromStr;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use wgquant::Container;
use wgquant::checkpoint::{Override, QuantizeOptions, Selection};

use super::store::State;

/// Patterns, and overrides, that a job has at most.
const MAX_PATTERNS: usize = 1000;
/// Bytes of a path or a pattern.
const MAX_TEXT: usize = 4096;

/// A checkpoint to be compressed. Options that are left out are as on the command line.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobRequest {
    /// A .safetensors or .gguf file, or a model's folder: an absolute path under one of the service's roots, or one that
    /// counts from its only root; or `s3://BUCKET/KEY` under such a root
    #[schema(min_length = 1, max_length = 4096, example = "/models/my-model")]
    pub(crate) source: String,
    /// The file to write, or the folder where the container is one or the output is cut into shards; likewise
    #[schema(min_length = 1, max_length = 4096, example = "/models/my-model-nf4")]
    pub(crate) destination: String,
    /// The format (see `/v1/formats`)
    #[schema(example = "nf4")]
    pub(crate) format: String,
    /// The layout of the output [default: native]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<String>,
    /// Quantize only tensors whose name matches, whatever their shape
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1000)]
    pub(crate) include: Vec<String>,
    /// Leave tensors alone whose name matches
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1000)]
    pub(crate) exclude: Vec<String>,
    /// Formats of their own for what patterns match; of several that match, the last counts
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1000)]
    pub(crate) overrides: Vec<OverrideRequest>,
    /// Leave smaller tensors alone [default: 4096, or any size with `include`]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) min_elements: Option<u64>,
    /// Copy tensors through whose rows are no multiple of the format's block, instead of refusing them
    #[serde(default)]
    pub(crate) copy_unfit: bool,
    /// Cut the output into files of at most so many bytes of tensors, with an index
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shard_size: Option<Size>,
    /// Let what is in flight take at most so much memory
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Size>,
    /// How much of the result to recompute and compare: `none`, `sample` or `full` [default: sample]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) verify: Option<String>,
    /// Replace the destination if it exists, and give up what an interrupted run left unfinished
    #[serde(default)]
    pub(crate) force: bool,
    /// Go on with what an interrupted run of the same job left unfinished beside the destination
    #[serde(default)]
    pub(crate) resume: bool,
    /// Flush the output to the disk before it gets its name
    #[serde(default)]
    pub(crate) sync: bool,
}

/// What becomes of the tensors that a pattern matches.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OverrideRequest {
    #[schema(example = "lm_head*")]
    pub(crate) pattern: String,
    /// A format, or `keep`
    #[schema(example = "sym8")]
    pub(crate) format: String,
}

/// A number of bytes, or a text such as `5GB` or `512MiB`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Size {
    Bytes(u64),
    Text(String),
}

impl Size {
    fn n_bytes(&self, what: &str) -> Result<u64, String> {
        let n_bytes = match self {
            Self::Bytes(n_bytes) => Some(*n_bytes),
            Self::Text(text) => text.parse::<ByteSize>().ok().map(|size| size.as_u64()),
        };
        let n_bytes = n_bytes.filter(|&n_bytes| n_bytes > 0);
        n_bytes.ok_or_else(|| {
            format!("{what} is no size: give a number of bytes above 0, or a text such as 512MiB or 5GB")
        })
    }
}

impl JobRequest {
    /// The library's options.
    ///
    /// # Errors
    /// A sentence with what is wrong.
    pub(crate) fn options(&self) -> Result<QuantizeOptions, String> {
        self.check_sizes()?;
        let overrides = self.overrides.iter().map(|of| {
            Override::named(&of.pattern, &of.format).map_err(|error| format!("override {:?}: {error}", of.pattern))
        });
        let mut options = QuantizeOptions::new(parsed(&self.format)?);
        options.container = self.container.as_deref().map(parsed).transpose()?.unwrap_or(Container::Native);
        options.selection = Selection {
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            min_elements: self.min_elements,
            copy_unfit: self.copy_unfit,
            overrides: overrides.collect::<Result<_, String>>()?,
        };
        options.verify = self.verify.as_deref().map(parsed).transpose()?.unwrap_or_default();
        (options.force, options.resume, options.sync) = (self.force, self.resume, self.sync);
        options.shard_size = self.shard_size.as_ref().map(|size| size.n_bytes("shard_size")).transpose()?;
        self.memory()?;
        Ok(options)
    }

    /// Bytes that may be in flight, if that was said.
    ///
    /// # Errors
    /// A sentence with what is wrong.
    pub(crate) fn memory(&self) -> Result<Option<u64>, String> {
        self.memory.as_ref().map(|size| size.n_bytes("memory")).transpose()
    }

    fn check_sizes(&self) -> Result<(), String> {
        let lists =
            [("include", self.include.len()), ("exclude", self.exclude.len()), ("overrides", self.overrides.len())];
        if let Some((name, n)) = lists.into_iter().find(|&(_, n)| n > MAX_PATTERNS) {
            return Err(format!("{name} has {n} entries, and at most {MAX_PATTERNS} are taken"));
        }
        let patterns = self.include.iter().chain(&self.exclude).chain(self.overrides.iter().map(|of| &of.pattern));
        let mut texts = patterns.chain([&self.source, &self.destination]);
        match texts.find(|text| text.len() > MAX_TEXT) {
            Some(text) => Err(format!("a path or pattern has {} bytes, and at most {MAX_TEXT} are taken", text.len())),
            None => Ok(()),
        }
    }
}

/// Which jobs a list has.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// How many at most [default: 100]
    #[param(minimum = 1, maximum = 1000)]
    pub(super) limit: Option<u32>,
    /// Only those with a smaller number
    pub(super) before: Option<i64>,
    /// Only those in this state
    pub(super) state: Option<State>,
}

/// What has this name, or a sentence with the names there are.
fn parsed<T: FromStr<Err = wgquant::Error>>(name: &str) -> Result<T, String> {
    name.parse().map_err(|error: wgquant::Error| error.to_string())
}
