//! The library's errors as Python exceptions, whose classes are in `wgquant._errors`.

use pyo3::prelude::*;
use wgquant::Error;

/// The exception for an error: its class by kind, the library's sentence, and where it happened as attributes.
pub(crate) fn exception(error: &Error) -> PyErr {
    Python::attach(|py| build(py, error).unwrap_or_else(|failed| failed))
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let class = py.import("wgquant._errors")?.getattr(class(error.root()))?;
    let value = class.call1((error.to_string(),))?;
    let mut inner = error;
    loop {
        inner = match inner {
            Error::Kept { source, place, .. } => {
                value.setattr("kept", place)?;
                source
            }
            Error::Tensor { source, name } => {
                value.setattr("tensor", name)?;
                source
            }
            Error::File { source, path } => {
                value.setattr("path", path)?;
                source
            }
            Error::NonFinite { index, .. } => {
                value.setattr("index", index)?;
                break;
            }
            _ => break,
        };
    }
    Ok(PyErr::from_value(value))
}

/// The name of an error's class.
fn class(error: &Error) -> &'static str {
    match error {
        Error::NonFinite { .. } => "NonFiniteError",
        Error::Mismatch(_) => "MismatchError",
        Error::Io { .. } => "IoError",
        Error::BadFile(_) | Error::InvalidCode { .. } | Error::InvalidScale { .. } => "DamagedError",
        Error::NoAdapter { .. }
        | Error::AmbiguousAdapter { .. }
        | Error::OpenDevice { .. }
        | Error::DeviceLost { .. }
        | Error::OutOfDeviceMemory { .. }
        | Error::Gpu { .. }
        | Error::DeviceTimeout { .. } => "DeviceError",
        Error::Empty
        | Error::BlockSizeZero
        | Error::PackedSize { .. }
        | Error::ScaleOverflow { .. }
        | Error::PartialBlock { .. }
        | Error::Overflow { .. }
        | Error::UnsupportedDtype(_)
        | Error::UnknownFormat { .. }
        | Error::Refused(_) => "RefusedError",
        _ => "Error",
    }
}

/// Turns what the library returns into what Python takes.
pub(crate) trait OrRaise<T> {
    /// # Errors
    /// The exception for the error.
    fn or_raise(self) -> PyResult<T>;
}

impl<T> OrRaise<T> for wgquant::Result<T> {
    fn or_raise(self) -> PyResult<T> {
        self.map_err(|error| exception(&error))
    }
}

/// The exception for what is refused here.
pub(crate) fn refused(text: impl Into<String>) -> PyErr {
    exception(&Error::Refused(text.into()))
}
