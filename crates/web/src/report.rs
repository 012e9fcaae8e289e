//! What jobs say of themselves, as JSON with the command line's names.

use serde::Serialize;
use wgquant::checkpoint::{
    DequantizeReport, Histogram, InspectReport, InspectedTensor, QuantizeReport, QuantizedTensor, VerifiedTensor,
    VerifyReport,
};
use wgquant::verify::ErrorFigures;
use wgquant::{Container, Format};

use crate::errors::{JsResult, refused};

/// Error figures; all null where nothing was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    max_abs_error: Option<f64>,
    mse: Option<f64>,
    /// Null too where there is no error at all.
    sqnr_db: Option<f64>,
}

impl From<Option<&ErrorFigures>> for Figures {
    fn from(figures: Option<&ErrorFigures>) -> Self {
        Self {
            max_abs_error: figures.map(|figures| figures.max_abs_error),
            mse: figures.map(ErrorFigures::mse),
            sqnr_db: figures.and_then(ErrorFigures::sqnr_db),
        }
    }
}

#[derive(Debug, Serialize)]
struct Tensor<'a> {
    name: &'a str,
    action: &'a str,
    format: Option<&'a str>,
    shape: &'a [u64],
    dtype: String,
    digest: Option<String>,
    #[serde(flatten)]
    figures: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    matches: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mismatch: Option<&'a str>,
}

pub(crate) fn quantized(report: &QuantizeReport) -> JsResult<String> {
    fn tensor(tensor: &QuantizedTensor) -> Tensor<'_> {
        let QuantizedTensor { name, action, format, shape, dtype, digest, figures, verified, .. } = tensor;
        Tensor {
            name,
            action: action.name(),
            format: format.map(Format::name),
            shape,
            dtype: dtype.to_string(),
            digest: digest.as_ref().map(hex),
            figures: Figures::from(figures.as_ref()),
            verified: Some(verified.name()),
            matches: None,
            mismatch: None,
        }
    }
    to_json(&serde_json::json!({
        "format": report.format.name(),
        "container": report.container.name(),
        "bytes_in": report.bytes_in,
        "bytes_out": report.bytes_out,
        "tensors": report.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "notices": report.notices,
    }))
}

pub(crate) fn verified(report: &VerifyReport) -> JsResult<String> {
    fn tensor(tensor: &VerifiedTensor) -> Tensor<'_> {
        let VerifiedTensor { name, action, shape, dtype, digest, figures, mismatch } = tensor;
        Tensor {
            name,
            action: action.name(),
            format: None,
            shape,
            dtype: dtype.to_string(),
            digest: digest.as_ref().map(hex),
            figures: Figures::from(figures.as_ref()),
            verified: None,
            matches: Some(mismatch.is_none()),
            mismatch: mismatch.as_deref(),
        }
    }
    to_json(&serde_json::json!({
        "matches": report.first_mismatch().is_none(),
        "mismatch": report.first_mismatch(),
        "tensors": report.tensors.iter().map(tensor).collect::<Vec<_>>(),
    }))
}

pub(crate) fn dequantized(report: &DequantizeReport) -> JsResult<String> {
    let tensor = |tensor: &wgquant::checkpoint::DequantizedTensor| {
        serde_json::json!({
            "name": tensor.name,
            "was": tensor.was.name(),
            "shape": tensor.shape,
            "dtype": tensor.dtype.to_string(),
            "digest": tensor.digest.as_ref().map(hex),
        })
    };
    to_json(&serde_json::json!({
        "container": report.container.name(),
        "bytes_in": report.bytes_in,
        "bytes_out": report.bytes_out,
        "tensors": report.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "notices": report.notices,
    }))
}

pub(crate) fn inspected(report: &InspectReport) -> JsResult<String> {
    fn tensor(tensor: &InspectedTensor) -> serde_json::Value {
        let InspectedTensor { name, format, shape, dtype, n_bytes, digest } = tensor;
        serde_json::json!({
            "name": name,
            "format": format.map(Format::name),
            "shape": shape,
            "dtype": dtype.to_string(),
            "bytes": n_bytes,
            "digest": digest.as_ref().map(hex),
        })
    }
    to_json(&serde_json::json!({
        "container": report.container.map(Container::name),
        "bytes": report.n_bytes,
        "metadata": report.metadata,
        "tensors": report.tensors.iter().map(tensor).collect::<Vec<_>>(),
    }))
}

pub(crate) fn histograms(histograms: &[Histogram]) -> JsResult<String> {
    let one = |histogram: &Histogram| {
        let Histogram { min, max, before, after } = histogram;
        serde_json::json!({ "min": min, "max": max, "before": before, "after": after })
    };
    to_json(&histograms.iter().map(one).collect::<Vec<_>>())
}

/// The table of formats.
pub(crate) fn formats() -> JsResult<String> {
    let format = |format: &Format| {
        let info = format.info();
        // The other containers are folders.
        let files = [Container::Native, Container::Gguf, Container::Mxfp4];
        let containers = info.containers.iter().filter(|container| files.contains(container));
        serde_json::json!({
            "name": info.name,
            "summary": info.summary,
            "bits": info.bits,
            "block": info.block,
            "scale": info.scale.name(),
            "bits_per_weight": info.bits_per_weight(),
            "whole_blocks": info.whole_blocks,
            "containers": containers.map(|container| container.name()).collect::<Vec<_>>(),
        })
    };
    to_json(&Format::ALL.iter().map(format).collect::<Vec<_>>())
}

pub(crate) fn to_json(value: &impl Serialize) -> JsResult<String> {
    serde_json::to_string(value).map_err(|error| refused(&format!("the report can't be written: {error}")))
}

/// A digest as people write it.
pub(crate) fn hex(digest: &[u8; 32]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
