//! A packed array.

use std::ffi::c_int;
use std::sync::Arc;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use wgquant::format::ScaleType;
use wgquant::{Dtype, Format};

use crate::errors::{OrRaise, refused};

/// Codes and scales of a packed array. Two are equal if format, shape and all bytes are.
#[pyclass(frozen, eq, module = "wgquant")]
#[derive(Clone)]
pub(crate) struct Packed {
    pub(crate) inner: Arc<wgquant::Packed>,
    pub(crate) shape: Vec<u64>,
    pub(crate) dtype: Dtype,
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        self.shape == other.shape && self.inner == other.inner
    }
}

#[pymethods]
impl Packed {
    /// A packed array from its parts, whatever holds their bytes.
    #[staticmethod]
    #[pyo3(signature = (format, shape, dtype, codes, scales, nested_absmax = None, nested_offset = 0.0))]
    fn from_parts(
        format: &str,
        shape: Vec<u64>,
        dtype: &str,
        codes: &Bound<'_, PyAny>,
        scales: &Bound<'_, PyAny>,
        nested_absmax: Option<&Bound<'_, PyAny>>,
        nested_offset: f32,
    ) -> PyResult<Self> {
        let (format, dtype) = (Format::from_name(format).or_raise()?, dtype_of(dtype)?);
        let n_elems = shape.iter().try_fold(1_u64, |n, &of| n.checked_mul(of));
        let n_elems = n_elems.ok_or_else(|| refused("no memory holds an array of this shape"))?;
        let absmax = nested_absmax.map(bytes_of).transpose()?.unwrap_or_default();
        let (codes, scales) = (bytes_of(codes)?, bytes_of(scales)?);
        let inner = wgquant::Packed::from_nested_parts(format, n_elems, codes, scales, absmax, nested_offset);
        Ok(Self { inner: Arc::new(inner.or_raise()?), shape, dtype })
    }

    /// Name of the format.
    #[getter]
    fn format(&self) -> &'static str {
        self.inner.format().name()
    }

    /// The array's shape before it was packed.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyTuple>> {
        pyo3::types::PyTuple::new(py, &self.shape)
    }

    /// The array's type before it was packed: ``f32``, ``f16`` or ``bf16``.
    #[getter]
    fn dtype(&self) -> String {
        self.dtype.name().to_lowercase()
    }

    /// Packed codes in one dimension, ``uint8`` (two a byte) or ``int8``: a NumPy view of this object's memory.
    #[getter]
    fn codes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let dtype = if self.inner.format().info().bits == 8 { "int8" } else { "uint8" };
        view(py, Memory::Codes(Arc::clone(&self.inner)), dtype)
    }

    /// One scale a block, as it is stored: ``float32``, ``float16``, or ``uint8`` of codes; likewise a view.
    #[getter]
    fn scales<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let dtype = match self.inner.format().info().scale {
            ScaleType::F32 => "<f4",
            ScaleType::F16 => "<f2",
            _ => "uint8",
        };
        view(py, Memory::Scales(Arc::clone(&self.inner)), dtype)
    }

    /// Of nested scales, one second-level ``float32`` for 256 blocks; else ``None``.
    #[getter]
    fn nested_absmax<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let nested = self.inner.nested();
        let bytes = nested.map(|nested| nested.absmax.iter().flat_map(|of| of.to_le_bytes()).collect());
        bytes.map(|bytes| view(py, Memory::Own(bytes), "<f4")).transpose()
    }

    /// Of nested scales, what was taken off every one; else ``None``.
    #[getter]
    fn nested_offset(&self) -> Option<f32> {
        self.inner.nested().map(|nested| nested.offset)
    }

    /// Bytes of all parts together.
    #[getter]
    fn nbytes(&self) -> usize {
        self.inner.size_in_bytes()
    }

    /// BLAKE3 of all parts, in hexadecimal: the same in every container and on every device.
    #[getter]
    fn digest(&self, py: Python<'_>) -> String {
        wgquant::checkpoint::hex(&py.detach(|| self.inner.digest()))
    }

    fn __repr__(&self) -> String {
        let shape = self.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let (format, dtype, nbytes) = (self.format(), self.dtype(), self.nbytes());
        format!("Packed(format={format:?}, shape=({shape}), dtype={dtype:?}, nbytes={nbytes})")
    }
}

/// Memory of a packed array, for views of it.
#[pyclass(frozen, module = "wgquant._wgquant")]
pub(crate) struct Part(Memory);

enum Memory {
    Codes(Arc<wgquant::Packed>),
    Scales(Arc<wgquant::Packed>),
    Own(Vec<u8>),
}

#[pymethods]
impl Part {
    /// Shows the memory, which is not to be written to.
    ///
    /// # Safety
    /// `view` is what the interpreter passes.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let bytes = match &slf.get().0 {
            Memory::Codes(packed) => packed.codes(),
            Memory::Scales(packed) => packed.scales(),
            Memory::Own(bytes) => bytes,
        };
        let (data, n_bytes) = (bytes.as_ptr().cast_mut().cast(), bytes.len() as ffi::Py_ssize_t);
        // SAFETY: the bytes stay where they are as long as this object, of which the view gets a reference.
        match unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), data, n_bytes, 1, flags) } {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }
}

/// NumPy's view of a part.
fn view<'py>(py: Python<'py>, memory: Memory, dtype: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("numpy")?.call_method1("frombuffer", (Bound::new(py, Part(memory))?, dtype))
}

/// Hands over the bytes of anything with the buffer protocol.
pub(crate) fn with_bytes<T>(object: &Bound<'_, PyAny>, take: impl FnOnce(&[u8]) -> T) -> PyResult<T> {
    let buffer = PyUntypedBuffer::get(object)?;
    if !buffer.is_c_contiguous() {
        return Err(PyTypeError::new_err("a part's bytes should lie in a row"));
    }
    if buffer.len_bytes() == 0 {
        return Ok(take(&[]));
    }
    // SAFETY: the buffer has so many bytes, and is alive.
    Ok(take(unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) }))
}

fn bytes_of(object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    with_bytes(object, <[u8]>::to_vec)
}

/// The type of that name.
pub(crate) fn dtype_of(name: &str) -> PyResult<Dtype> {
    name.parse().or_raise()
}
