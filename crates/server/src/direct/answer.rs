//! What is sent back: a file out of a spool, or a report.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use utoipa::ToSchema;
use wgquant::checkpoint::{Action, QuantizeReport, Storage, VerifyReport};
use wgquant::verify::ErrorFigures;

use super::work::Answer;
use crate::problem::Problem;
use crate::spool::Spool;

/// Bytes that are sent at a time.
const PIECE_BYTES: u64 = 256 << 10;

/// What was verified, as `wgquant verify --json` shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Verified {
    /// Whether everything is as it should be.
    matches: bool,
    /// What differs first.
    mismatch: Option<String>,
    /// Every tensor of the original, then those that only the quantized file has.
    tensors: Vec<VerifiedTensor>,
}

#[derive(Debug, Serialize, ToSchema)]
struct VerifiedTensor {
    /// Its name.
    name: String,
    /// `quantized` or `copied`.
    action: String,
    /// Its dimensions, outermost first.
    shape: Vec<u64>,
    /// Its type in the original.
    dtype: String,
    /// BLAKE3 of codes and scales, in hexadecimal, if they were found right.
    digest: Option<String>,
    /// The largest error of a weight.
    max_abs_error: Option<f64>,
    /// The mean squared error.
    mse: Option<f64>,
    /// Signal to noise in decibels; null too where there is no error.
    sqnr_db: Option<f64>,
    /// The block with the largest error.
    worst_block: Option<u64>,
    /// Whether it is as it should be.
    matches: bool,
    /// What differs.
    mismatch: Option<String>,
}

impl From<VerifyReport> for Verified {
    fn from(report: VerifyReport) -> Self {
        let mismatch = report.first_mismatch().map(str::to_owned);
        let tensors = report.tensors.into_iter().map(|tensor| {
            let figures = tensor.figures.as_ref();
            VerifiedTensor {
                action: tensor.action.name().to_owned(),
                dtype: tensor.dtype.to_string(),
                digest: tensor.digest.map(|digest| blake3::Hash::from(digest).to_hex().to_string()),
                max_abs_error: figures.map(|figures| figures.max_abs_error),
                mse: figures.map(ErrorFigures::mse),
                sqnr_db: figures.and_then(ErrorFigures::sqnr_db),
                worst_block: figures.map(|figures| figures.worst_block),
                matches: tensor.mismatch.is_none(),
                name: tensor.name,
                shape: tensor.shape,
                mismatch: tensor.mismatch,
            }
        });
        Self { matches: mismatch.is_none(), mismatch, tensors: tensors.collect() }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self {
            Self::Quantized(output, report) => (counts(&report), file(output)).into_response(),
            Self::Dequantized(output, container) => {
                let container = HeaderValue::from_static(container.name());
                ([(HeaderName::from_static("wgquant-container"), container)], file(output)).into_response()
            }
            Self::Verified(report) => Json(Verified::from(report)).into_response(),
        }
    }
}

/// What was done, for those who look no further than headers.
fn counts(report: &QuantizeReport) -> HeaderMap {
    let n_quantized = report.tensors.iter().filter(|tensor| tensor.action == Action::Quantized).count();
    let text = |text: &str| HeaderValue::from_str(text).ok();
    let pairs = [
        ("wgquant-adapter", text(&report.adapter)),
        ("wgquant-bytes-in", Some(report.bytes_in.into())),
        ("wgquant-tensors-quantized", Some(n_quantized.into())),
        ("wgquant-tensors-copied", Some((report.tensors.len() - n_quantized).into())),
    ];
    let pairs = pairs.into_iter().filter_map(|(name, value)| Some((HeaderName::from_static(name), value?)));
    let mut headers: HeaderMap = pairs.collect();
    for notice in report.notices.iter().filter_map(|notice| text(notice)) {
        headers.append(HeaderName::from_static("wgquant-notice"), notice);
    }
    headers
}

/// A file, read out of the spool as fast as the client takes it.
pub(crate) fn file(output: Arc<Spool>) -> Response {
    let n_bytes = output.len();
    let pieces = stream::unfold((output, 0), move |(output, at)| async move {
        let n = (n_bytes - at).min(PIECE_BYTES);
        if n == 0 {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(n).unwrap_or_default()];
        let read = if output.has_file() {
            tokio::task::block_in_place(|| output.read_range(at, &mut bytes))
        } else {
            output.read_range(at, &mut bytes)
        };
        // The client notices what is missing by the length.
        Some((read.map(|()| Bytes::from(bytes)), (output, at + n)))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(n_bytes)),
    ];
    (headers, Body::from_stream(pieces)).into_response()
}

/// What a handler gives.
pub(crate) type Answered = Result<Answer, Problem>;
