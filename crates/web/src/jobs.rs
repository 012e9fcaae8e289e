//! Jobs on whole files. They read at once, so they belong in a worker.

use std::path::Path;
use std::sync::Arc;

use js_sys::Function;
use serde::Deserialize;
use wasm_bindgen::prelude::*;
use wgquant::checkpoint::{
    DequantizeOptions, Override, PackedFile, QuantizeOptions, Selection, Source, dequantize_into, histograms_of,
    inspect_source, quantize_into, verify_packed,
};

use crate::engine::RawEngine;
use crate::errors::{JsResult, named, refused, thrown};
use crate::progress::Callback;
use crate::report;
use crate::storage::{JsStorage, Stored};

/// What JavaScript says of a job, all of it optional but the format.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Options {
    format: String,
    container: Option<String>,
    verify: Option<String>,
    #[serde(default)]
    include: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    min_elements: Option<u64>,
    #[serde(default)]
    copy_unfit: bool,
    /// Patterns, and formats or `keep`.
    #[serde(default)]
    overrides: Vec<(String, String)>,
}

impl Options {
    fn read(json: &str) -> JsResult<QuantizeOptions> {
        let options: Self = serde_json::from_str(json)
            .map_err(|error| refused(&format!("the options are not as they should be: {error}")))?;
        let mut job = QuantizeOptions::new(named(&options.format)?);
        if let Some(name) = &options.container {
            job.container = named(name)?;
        }
        if let Some(name) = &options.verify {
            job.verify = named(name)?;
        }
        let overrides = options.overrides.iter();
        let overrides = overrides.map(|(pattern, format)| Override::named(pattern, format).map_err(thrown));
        job.selection = Selection {
            include: options.include,
            exclude: options.exclude,
            min_elements: options.min_elements,
            copy_unfit: options.copy_unfit,
            overrides: overrides.collect::<JsResult<_>>()?,
        };
        Ok(job)
    }
}

/// Compresses a checkpoint into `output`; gives the report.
#[wasm_bindgen(js_name = quantizeFile)]
pub async fn quantize_file(
    engine: &RawEngine,
    input: JsStorage,
    name: String,
    output: JsStorage,
    options: String,
    progress: Function,
) -> JsResult<String> {
    let options = Options::read(&options)?;
    let progress = Callback::new(progress);
    let source = open(input, &name)?;
    let output = Arc::new(Stored::new(output));
    let report = quantize_into(&*engine.0, &source, output, &options, &mut progress.of_job()).await;
    report::quantized(&report.map_err(thrown)?)
}

/// Turns a compressed checkpoint back; gives the report.
#[wasm_bindgen(js_name = dequantizeFile)]
pub async fn dequantize_file(
    engine: &RawEngine,
    input: JsStorage,
    name: String,
    output: JsStorage,
    dtype: Option<String>,
    progress: Function,
) -> JsResult<String> {
    let dtype = dtype.as_deref().map(named).transpose()?;
    let progress = Callback::new(progress);
    let packed = PackedFile::from_source(open(input, &name)?).map_err(thrown)?;
    let options = DequantizeOptions { dtype, ..DequantizeOptions::default() };
    let output = Arc::new(Stored::new(output));
    let report = dequantize_into(&*engine.0, &packed, output, options, &mut progress.of_job()).await;
    report::dequantized(&report.map_err(thrown)?)
}

/// Holds a compressed checkpoint against its original; gives the report.
#[wasm_bindgen(js_name = verifyFiles)]
pub fn verify_files(
    original: JsStorage,
    original_name: &str,
    quantized: JsStorage,
    quantized_name: &str,
    progress: Function,
) -> JsResult<String> {
    let progress = Callback::new(progress);
    let original = open(original, original_name)?;
    let quantized = PackedFile::from_source(open(quantized, quantized_name)?).map_err(thrown)?;
    report::verified(&verify_packed(&original, &quantized, &mut progress.of_job()).map_err(thrown)?)
}

/// What a checkpoint holds.
#[wasm_bindgen(js_name = inspectFile)]
pub fn inspect_file(input: JsStorage, name: &str) -> JsResult<String> {
    report::inspected(&inspect_source(open(input, name)?).map_err(thrown)?)
}

/// How the values of some weights lie, before and after.
#[wasm_bindgen(js_name = histogramsOf)]
pub fn histograms(
    original: JsStorage,
    original_name: &str,
    quantized: JsStorage,
    quantized_name: &str,
    names: Vec<String>,
    n_bins: usize,
    progress: Function,
) -> JsResult<String> {
    let progress = Callback::new(progress);
    let original = open(original, original_name)?;
    let quantized = PackedFile::from_source(open(quantized, quantized_name)?).map_err(thrown)?;
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let found = histograms_of((&original, &quantized), &names, n_bins, &mut progress.of_job()).map_err(thrown)?;
    report::histograms(&found)
}

/// The table of formats, as JSON.
#[wasm_bindgen(js_name = formatsJson)]
pub fn formats() -> JsResult<String> {
    report::formats()
}

/// The name that a file gets.
#[wasm_bindgen(js_name = extensionOf)]
pub fn extension_of(options: &str) -> JsResult<String> {
    let options = Options::read(options)?;
    Ok(if options.container == wgquant::Container::Gguf { "gguf" } else { "safetensors" }.to_owned())
}

fn open(storage: JsStorage, name: &str) -> JsResult<Source> {
    Source::from_storage(Arc::new(Stored::new(storage)), Path::new(name)).map_err(thrown)
}
