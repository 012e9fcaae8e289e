//! What jobs say of themselves, as JSON with the command line's names.

use serde::Serialize;
use wgquant::checkpoint::{
    DequantizeReport, DequantizedTensor, Histogram, InspectReport, InspectedTensor, QuantizeReport, QuantizedTensor,
    VerifiedTensor, VerifyReport,
};
use wgquant::{Container, Format};

use crate::errors::{JsResult, refused};

pub(crate) fn quantized(report: &QuantizeReport) -> JsResult<String> {
    to_json(&serde_json::json!({
        "format": report.format.name(),
        "container": report.container.name(),
        "bytes_in": report.bytes_in,
        "bytes_out": report.bytes_out,
        "tensors": report.tensors.iter().map(QuantizedTensor::document).collect::<Vec<_>>(),
        "notices": report.notices,
    }))
}

pub(crate) fn verified(report: &VerifyReport) -> JsResult<String> {
    to_json(&serde_json::json!({
        "matches": report.first_mismatch().is_none(),
        "mismatch": report.first_mismatch(),
        "tensors": report.tensors.iter().map(VerifiedTensor::document).collect::<Vec<_>>(),
    }))
}

pub(crate) fn dequantized(report: &DequantizeReport) -> JsResult<String> {
    to_json(&serde_json::json!({
        "container": report.container.name(),
        "bytes_in": report.bytes_in,
        "bytes_out": report.bytes_out,
        "tensors": report.tensors.iter().map(DequantizedTensor::document).collect::<Vec<_>>(),
        "notices": report.notices,
    }))
}

pub(crate) fn inspected(report: &InspectReport) -> JsResult<String> {
    to_json(&serde_json::json!({
        "container": report.container.map(Container::name),
        "bytes": report.n_bytes,
        "metadata": report.metadata,
        "tensors": report.tensors.iter().map(InspectedTensor::document).collect::<Vec<_>>(),
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
