//! The native half of the Python package `wgquant`. What users call, with its documentation, is in `python/wgquant`.
// Bad input must reach the user as a sentence.
#![warn(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod array;
mod convert;
mod digest;
mod dlpack;
mod engines;
mod errors;
mod jobs;
mod packed;
mod reports;

use std::ffi::OsString;

use pyo3::prelude::*;

/// The command line; gives its exit code.
#[pyfunction]
fn main(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| wgquant_cli::run(arguments))
}

#[pymodule]
fn _wgquant(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("FORMATS", wgquant::Format::ALL.iter().map(|format| format.name()).collect::<Vec<_>>())?;
    module.add_class::<packed::Packed>()?;
    module.add_class::<packed::Part>()?;
    reports::add(module)?;
    module.add_function(wrap_pyfunction!(main, module)?)?;
    module.add_function(wrap_pyfunction!(convert::quantize, module)?)?;
    module.add_function(wrap_pyfunction!(convert::dequantize, module)?)?;
    module.add_function(wrap_pyfunction!(jobs::quantize_file, module)?)?;
    module.add_function(wrap_pyfunction!(jobs::quantize_task, module)?)?;
    module.add_function(wrap_pyfunction!(jobs::finish_tasks, module)?)?;
    module.add_function(wrap_pyfunction!(jobs::plan, module)?)?;
    module.add_function(wrap_pyfunction!(jobs::plan_task, module)?)?;
    module.add_function(wrap_pyfunction!(jobs::finish_elsewhere, module)?)?;
    module.add_function(wrap_pyfunction!(jobs::holds_weights, module)?)?;
    module.add_class::<digest::Digest>()?;
    module.add_function(wrap_pyfunction!(jobs::dequantize_file, module)?)?;
    module.add_function(wrap_pyfunction!(jobs::verify, module)?)?;
    module.add_function(wrap_pyfunction!(jobs::inspect, module)?)?;
    module.add_function(wrap_pyfunction!(jobs::compare, module)?)?;
    module.add_function(wrap_pyfunction!(engines::adapters, module)?)
}
