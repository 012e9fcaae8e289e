//! What a job that is done says of itself: the document of `wgquant quantize --json`.

use serde_json::{Value, json};
use wgquant::checkpoint::{QuantizeReport, QuantizedTensor};

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
        "tensors": report.tensors.iter().map(QuantizedTensor::document).collect::<Vec<_>>(),
    })
}
