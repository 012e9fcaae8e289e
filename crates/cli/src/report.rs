//! The JSON documents of `--json`.

use serde::Serialize;
use wgquant::verify::ErrorFigures;

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

/// A digest as people write it.
pub(crate) fn hex(digest: &[u8; 32]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
