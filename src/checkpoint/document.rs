//! Reports as JSON: one spelling for the command line, the service and the browser.

use serde::Serialize;
use serde_json::{Value, json};

use super::dequantize::DequantizedTensor;
use super::inspect::InspectedTensor;
use super::quantize_report::{Action, QuantizedTensor};
use super::verify::VerifiedTensor;
use crate::format::Format;
use crate::verify::ErrorFigures;

/// Error figures in a document; all null where nothing was measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    /// The largest error of a weight.
    pub max_abs_error: Option<f64>,
    /// The mean squared error.
    pub mse: Option<f64>,
    /// Signal to noise in decibels; null too where there is no error at all.
    pub sqnr_db: Option<f64>,
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

/// A digest as people write it.
#[must_use]
pub fn hex(digest: &[u8; 32]) -> String {
    blake3::Hash::from(*digest).to_hex().to_string()
}

impl QuantizedTensor {
    /// Its row in the documents of `wgquant quantize --json`, of a service's job and of the browser.
    #[must_use]
    pub fn document(&self) -> Value {
        let Figures { max_abs_error, mse, sqnr_db } = self.figures.as_ref().into();
        json!({
            "name": self.name,
            "action": self.action.name(),
            "format": self.format.map(Format::name),
            "shape": self.shape,
            "dtype": self.dtype.to_string(),
            "digest": self.digest.as_ref().map(hex),
            "max_abs_error": max_abs_error,
            "mse": mse,
            "sqnr_db": sqnr_db,
            "verified": self.verified.name(),
        })
    }
}

impl VerifiedTensor {
    /// Its row in the documents of `wgquant verify --json` and of the browser.
    #[must_use]
    pub fn document(&self) -> Value {
        let Figures { max_abs_error, mse, sqnr_db } = self.figures.as_ref().into();
        json!({
            "name": self.name,
            "action": self.action.name(),
            "shape": self.shape,
            "dtype": self.dtype.to_string(),
            "digest": self.digest.as_ref().map(hex),
            "max_abs_error": max_abs_error,
            "mse": mse,
            "sqnr_db": sqnr_db,
            "worst_block": self.figures.as_ref().map(|figures| figures.worst_block),
            "verified": "full",
            "matches": self.mismatch.is_none(),
            "mismatch": self.mismatch,
        })
    }
}

impl DequantizedTensor {
    /// Its row in the documents of `wgquant dequantize --json` and of the browser.
    #[must_use]
    pub fn document(&self) -> Value {
        json!({
            "name": self.name,
            "action": if self.was == Action::Quantized { "dequantized" } else { self.was.name() },
            "shape": self.shape,
            "dtype": self.dtype.to_string(),
            "digest": self.digest.as_ref().map(hex),
        })
    }
}

impl InspectedTensor {
    /// Its row in the documents of `wgquant inspect --json` and of the browser.
    #[must_use]
    pub fn document(&self) -> Value {
        json!({
            "name": self.name,
            "format": self.format.map(Format::name),
            "shape": self.shape,
            "dtype": self.dtype.to_string(),
            "bytes": self.n_bytes,
            "digest": self.digest.as_ref().map(hex),
        })
    }
}
