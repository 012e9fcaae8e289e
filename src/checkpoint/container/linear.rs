//! What `bnb` and `compressed-tensors` share: readers that replace a model's Linear modules, and know the rest by
//! `config.json`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Chosen;
use crate::checkpoint::safetensors::TensorInfo;
use crate::checkpoint::source::Source;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// What a Linear's weight is called after its module.
const WEIGHT: &str = ".weight";

/// The key of config.json that tells readers how a model is quantized.
pub(super) const QUANTIZATION_CONFIG: &str = "quantization_config";

/// The entry of `__metadata__` that transformers looks for.
const PT_FORMAT: (&str, &str) = ("format", "pt");

/// The entry of `__metadata__` that says what type each weight had, where a container has no other place for it: a JSON
/// object, names to types.
const DTYPES_KEY: &str = "wgquant.dtypes";

/// Models whose weights lie transposed (transformers' Conv1D), so that they are no Linear.
const CONV1D_MODELS: [&str; 5] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"];

/// Parts of a module's name that only embeddings have, beside those with `embed` in them.
const EMBEDDING_PARTS: [&str; 4] = ["wte", "wpe", "shared", "relative_attention_bias"];

/// Parts of a module's name that only output heads have.
const HEAD_PARTS: [&str; 6] = ["lm_head", "predictions", "classifier", "score", "qa_outputs", "logits_proj"];

/// Says whether a module has something to do with another.
type IsRelated = fn(&str) -> bool;

/// Output heads that have no weight in a file where they share that of an embedding, and which unpacked modules show that
/// there may be one.
const TIED_HEADS: [(&str, IsRelated); 2] =
    [("lm_head", is_embedding), ("cls.predictions.decoder", |module| module.starts_with("cls.predictions."))];

/// The module that a Linear's weight belongs to.
pub(super) fn module(weight: &str) -> Option<&str> {
    weight.strip_suffix(WEIGHT).filter(|module| !module.is_empty())
}

/// Why a tensor can't be the weight of a Linear that readers replace, as a clause.
pub(super) fn refuses(tensor: &TensorInfo) -> Option<&'static str> {
    let Some(module) = module(&tensor.name) else {
        return Some("only tensors are whose names end in .weight");
    };
    if tensor.shape.len() != 2 {
        return Some("only tensors of two dimensions are");
    }
    if is_embedding(module) {
        return Some("it is an embedding, and transformers refuses a whole model with a quantized one");
    }
    if module.split('.').any(|part| HEAD_PARTS.contains(&part)) || ["output", "head"].contains(&module) {
        return Some("it is an output head, which transformers leaves as it is");
    }
    None
}

fn is_embedding(module: &str) -> bool {
    module.split('.').any(|part| part.contains("embed") || EMBEDDING_PARTS.contains(&part))
}

/// Refuses models whose weights lie transposed.
pub(super) fn check_source(source: &Source) -> Result<()> {
    let model_type = source.config().and_then(|config| config.get("model_type")).and_then(Value::as_str);
    match model_type.filter(|name| CONV1D_MODELS.contains(name)) {
        None => Ok(()),
        Some(name) => Err(Error::Refused(format!(
            "is a model of type {name:?}, whose weights are stored transposed (Conv1D), and this container's readers would \
             misread them: use --container native"
        ))),
    }
}

/// The modules of all weights that might be a Linear's and stay as they are: readers must be told. So they must of heads
/// that are tied to an embedding, though the file has no weight of them: else they replace those too, and can't run.
pub(super) fn left_modules<'a>(copied: &[&'a TensorInfo]) -> Vec<&'a str> {
    let left = copied.iter().filter(|tensor| tensor.shape.len() == 2);
    let mut modules: Vec<_> = left.filter_map(|tensor| module(&tensor.name)).collect();
    for (head, may_be) in TIED_HEADS {
        if !modules.contains(&head) && modules.iter().any(|module| may_be(module)) {
            modules.push(head);
        }
    }
    modules.sort_unstable();
    modules
}

/// What means something else in a regular expression than in a name, but for the dot.
pub(super) const REGEX_SIGNS: &[char] = &['\\', '^', '$', '*', '+', '?', '{', '}', '[', ']', '|', '(', ')'];

/// Whether transformers leaves a module that it was not told to leave, because of one that it was. To it a name is an end
/// of names, and a regular expression that matches at the start, where a dot stands for any character. In 5.24 what is
/// matched must reach to a dot or the whole name; versions before it don't ask for that, and so it isn't asked for here.
pub(super) fn is_left_with(left: &str, other: &str) -> bool {
    let mut there = other.chars();
    let starts = left.chars().all(|wanted| there.next().is_some_and(|found| wanted == '.' || wanted == found));
    starts || other.ends_with(left)
}

/// config.json as the input has it, or an empty one, with how the model is quantized.
pub(super) fn config(source: &Source, quantization: Value) -> Result<Option<String>> {
    let mut config = source.config().cloned().unwrap_or_else(Map::new);
    config.insert(QUANTIZATION_CONFIG.to_owned(), quantization);
    let text = serde_json::to_string_pretty(&config);
    text.map(|text| Some(text + "\n")).map_err(|error| Error::Refused(format!("no config.json: {error}")))
}

/// config.json as it was before the model was quantized.
pub(crate) fn plain_config(source: &Source) -> Result<Option<String>> {
    let Some(mut config) = source.config().cloned() else { return Ok(None) };
    config.remove(QUANTIZATION_CONFIG);
    let text = serde_json::to_string_pretty(&config);
    text.map(|text| Some(text + "\n")).map_err(|error| Error::Refused(format!("no config.json: {error}")))
}

/// The method that config.json names.
pub(super) fn quant_method(source: &Source) -> Option<&str> {
    source.config()?.get(QUANTIZATION_CONFIG)?.get("quant_method")?.as_str()
}

/// The input's metadata, with what transformers looks for.
pub(super) fn metadata(source: &Source) -> BTreeMap<String, String> {
    let mut metadata = source.metadata().clone();
    metadata.entry(PT_FORMAT.0.to_owned()).or_insert_with(|| PT_FORMAT.1.to_owned());
    metadata
}

/// Whether two files' metadata are the same but for what [`metadata`] adds.
pub(super) fn same_metadata(original: &BTreeMap<String, String>, quantized: &BTreeMap<String, String>) -> bool {
    let added = |key: &str, value: &str| (key, value) == PT_FORMAT && !original.contains_key(key);
    original.iter().eq(quantized.iter().filter(|(key, value)| !added(key, value)))
}

/// Records the types that weights had.
pub(super) fn record_dtypes(weights: &[Chosen<'_>], metadata: &mut BTreeMap<String, String>) -> Result<()> {
    let dtypes: BTreeMap<_, _> =
        weights.iter().map(|weight| (weight.tensor.name.as_str(), weight.dtype.name())).collect();
    let text = serde_json::to_string(&dtypes).map_err(|error| Error::Refused(format!("no metadata: {error}")))?;
    metadata.insert(DTYPES_KEY.to_owned(), text);
    Ok(())
}

/// The types that weights had, as far as a file says so, and its metadata without that.
pub(super) struct Dtypes {
    recorded: BTreeMap<String, String>,
    model: Option<Dtype>,
}

impl Dtypes {
    /// Reads what metadata and config.json say; gives the metadata without.
    pub(super) fn read(source: &Source) -> Result<(Self, BTreeMap<String, String>)> {
        let mut metadata = source.metadata().clone();
        metadata.remove(DTYPES_KEY);
        let mut recorded = BTreeMap::new();
        for text in source.metadata_of_files().filter_map(|metadata| metadata.get(DTYPES_KEY)) {
            let more: BTreeMap<String, String> = serde_json::from_str(text)
                .map_err(|error| Error::BadFile(format!("its metadata {DTYPES_KEY:?} is damaged: {error}")))?;
            recorded.extend(more);
        }
        let named = |key| source.config().and_then(|config| config.get(key)).and_then(Value::as_str);
        let model = named("dtype").or(named("torch_dtype")).and_then(from_torch);
        Ok((Self { recorded, model }, metadata))
    }

    /// The type that a weight had, and whether the file says so of that weight.
    pub(super) fn of(&self, weight: &str) -> Result<(Dtype, bool)> {
        match self.recorded.get(weight) {
            None => Ok((self.model.unwrap_or(Dtype::F32), false)),
            Some(name) => match Dtype::from_name(name).filter(|dtype| dtype.name() == name) {
                Some(dtype) => Ok((dtype, true)),
                None => Err(Error::UnsupportedDtype(name.clone())),
            },
        }
    }
}

/// torch's name of a type.
pub(super) fn torch_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "float32",
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
    }
}

/// The type that torch calls so.
pub(super) fn from_torch(name: &str) -> Option<Dtype> {
    let name = name.strip_prefix("torch.").unwrap_or(name);
    Dtype::ALL.into_iter().find(|&dtype| torch_name(dtype) == name)
}

#[cfg(test)]
mod tests {
    use super::is_left_with;

    #[test]
    fn names_are_matched_as_transformers_does() {
        for (left, other) in [
            ("l.a", "l.a"),
            ("l.a", "l.a.b"),    // a regular expression, up to a dot
            ("l.fc1", "l.fc10"), // the same before 5.24
            ("l.1.a", "l.1xa.b"),
            ("fc1", "l.fc1"), // an end
            ("head", "l.overhead"),
        ] {
            assert!(is_left_with(left, other), "{left} {other}");
        }
        for (left, other) in [("l.fc10", "l.fc1"), ("l.a", "m.l.a.b"), ("l.1.a", "l.11.a"), ("l.a", "la")] {
            assert!(!is_left_with(left, other), "{left} {other}");
        }
    }
}
