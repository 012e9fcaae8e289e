//! The library's errors as JavaScript's, and names that JavaScript gives.

use std::str::FromStr;

use wasm_bindgen::JsValue;
use wgquant::checkpoint::Storage;
use wgquant::{Dtype, Error};

/// What an exported function gives.
pub(crate) type JsResult<T> = Result<T, JsValue>;

/// An `Error` whose message is the library's sentence; `AbortError` for what was told to stop.
pub(crate) fn thrown(error: Error) -> JsValue {
    let js = js_sys::Error::new(&error.to_string());
    let name = match error.root() {
        Error::GivenUp | Error::Stopped => "AbortError",
        Error::Mismatch(_) => "MismatchError",
        Error::DeviceLost { .. }
        | Error::OutOfDeviceMemory { .. }
        | Error::DeviceTimeout { .. }
        | Error::Gpu { .. } => "GpuError",
        _ => "WgquantError",
    };
    js.set_name(name);
    js.into()
}

/// An `Error` of the caller's making.
pub(crate) fn refused(text: &str) -> JsValue {
    thrown(Error::Refused(text.to_owned()))
}

/// What has this name.
pub(crate) fn named<T: FromStr<Err = Error>>(name: &str) -> JsResult<T> {
    name.parse().map_err(thrown)
}

/// How many elements a storage holds.
pub(crate) fn n_elems(storage: &impl Storage, dtype: Dtype) -> JsResult<u64> {
    let n_bytes = storage.n_bytes().map_err(|error| refused(&error.to_string()))?;
    let width = dtype.n_bytes() as u64;
    if n_bytes.is_multiple_of(width) {
        Ok(n_bytes / width)
    } else {
        Err(refused(&format!("{n_bytes} bytes are no whole number of {dtype} elements of {width} bytes")))
    }
}
