//! What a job that is done says of itself: the document of `wgquant quantize --json`.

use serde_json::{Value, json};
use wgquant::Format;
use wgquant::checkpoint::{QuantizeReport, QuantizedTensor};
use wgquant::verify::ErrorFigures;

/// The document.
pub(super) fn document(report: &QuantizeReport, seconds: f64) -> Value {
    json!({
        "adapter": report.adapter,
        "format": report.format.name(),
        "container": report.container.name(),
        "seconds": seconds,
        "bytes_in": report.bytes_in,
        "bytes_out": report.bytes_out,
        "resumed": report.n_resumed,
        "notices": report.notices,
        "tensors": report.tensors.iter().map(tensor).collect::<Vec<_>>(),
    })
}

fn tensor(tensor: &QuantizedTensor) -> Value {
    let figures = tensor.figures.as_ref();
    json!({
        "name": tensor.name,
        "action": tensor.action.name(),
        "format": tensor.format.map(Format::name),
        "shape": tensor.shape,
        "dtype": tensor.dtype.to_string(),
        "digest": tensor.digest.map(hex),
        "max_abs_error": figures.map(|figures| figures.max_abs_error),
        "mse": figures.map(ErrorFigures::mse),
        "sqnr_db": figures.and_then(ErrorFigures::sqnr_db),
        "verified": tensor.verified.name(),
    })
}

fn hex(digest: [u8; 32]) -> String {
    blake3::Hash::from(digest).to_hex().to_string()
}
