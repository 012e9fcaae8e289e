//! Digests of whole files, for what is not read by the library itself.

use pyo3::prelude::*;

use crate::packed::with_bytes;

/// BLAKE3 of bytes that come one after the other.
#[pyclass(module = "wgquant._wgquant")]
#[derive(Default)]
pub(crate) struct Digest(blake3::Hasher);

#[pymethods]
impl Digest {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Takes more bytes, from anything with the buffer protocol.
    fn update(&mut self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        with_bytes(data, |bytes| {
            py.detach(|| self.0.update(bytes));
        })
    }

    /// Of all bytes so far, in hexadecimal.
    fn hexdigest(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}
