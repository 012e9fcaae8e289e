//! Arrays as they come from Python: through the buffer protocol or DLPack, without a copy where elements lie in a row.

use pyo3::buffer::{ElementType, PyUntypedBuffer};
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;
use wgquant::{Dtype, Error, Result};

use crate::dlpack::{DlType, Managed};
use crate::errors::{exception, refused};

/// DLPack's codes of types.
const DL_INT: u8 = 0;
const DL_UINT: u8 = 1;
const DL_FLOAT: u8 = 2;
const DL_BFLOAT: u8 = 4;

/// Bytes that are gathered between two looks at whether to go on.
const CHECK_BYTES: usize = 64 << 20;

/// An array of weights, or room for one.
pub(crate) struct Array {
    data: *mut u8,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    /// In bytes; none where elements lie in a row.
    strides: Option<Vec<isize>>,
    is_writable: bool,
    /// What keeps the memory there.
    _owner: Owner,
}

#[expect(dead_code, reason = "held for what they do when they go away")]
enum Owner {
    Buffer(PyUntypedBuffer),
    Dlpack(Managed),
}

// SAFETY: the memory stays where it is until the owner goes away, which happens with the interpreter's lock held, as all
// callers keep the array outside of what they run without it. Other threads may write to it meanwhile, as with any array
// in Python: then the result is of no use, and bits are only read as numbers.
unsafe impl Sync for Array {}

impl Array {
    /// Takes an array. `dtype` says what 16-bit or 32-bit integers are the bits of.
    pub(crate) fn new(object: &Bound<'_, PyAny>, dtype: Option<Dtype>) -> PyResult<Self> {
        // NumPy knows bf16 only from the package ml_dtypes, and hands it out in no way but this.
        let bits = ml_dtypes_bits(object);
        let (object, dtype) = match &bits {
            Some(view) => (view, Some(dtype.unwrap_or(Dtype::BF16))),
            None => (object, dtype),
        };
        if let Some(row) = row_of_scalar(object)? {
            let array = Self::from_buffer(PyUntypedBuffer::get(&row)?, object, dtype)?;
            return Ok(Self { shape: Vec::new(), ..array });
        }
        match PyUntypedBuffer::get(object) {
            Ok(buffer) => Self::from_buffer(buffer, object, dtype),
            Err(_) if object.hasattr("__dlpack__")? => Self::from_dlpack(Managed::take(object)?, dtype),
            Err(error) if error.is_instance_of::<PyTypeError>(object.py()) => {
                let kind = object.get_type().name()?.to_string();
                let text =
                    format!("weights come as an array with the buffer protocol or DLPack, and {kind} has neither");
                Err(PyTypeError::new_err(text))
            }
            Err(error) => Err(error),
        }
    }

    fn from_buffer(buffer: PyUntypedBuffer, object: &Bound<'_, PyAny>, dtype: Option<Dtype>) -> PyResult<Self> {
        let (format, width) = (buffer.format(), buffer.item_size());
        let is_swapped = width > 1 && matches!(format.to_bytes().first(), Some(b'>' | b'!'));
        let of_float = |width| match width {
            4 => Some(Dtype::F32),
            2 => Some(Dtype::F16),
            _ => None,
        };
        let found = match ElementType::from_format(format) {
            _ if is_swapped => None,
            ElementType::Float { bytes } => of_float(bytes),
            ElementType::SignedInteger { bytes } | ElementType::UnsignedInteger { bytes } => bits_of(bytes, dtype),
            // It has no half precision.
            _ if matches!(format.to_bytes(), b"e" | b"<e" | b"=e" | b"@e") => of_float(width),
            _ => None,
        };
        let found = agreed(found, dtype, || {
            let name = object.getattr("dtype").map(|dtype| dtype.to_string());
            name.unwrap_or_else(|_| format.to_string_lossy().into_owned())
        })?;
        let strides = (!buffer.is_c_contiguous()).then(|| buffer.strides().to_vec());
        Ok(Self {
            data: buffer.buf_ptr().cast(),
            dtype: found,
            shape: buffer.shape().iter().map(|&n| n as u64).collect(),
            strides,
            is_writable: !buffer.readonly(),
            _owner: Owner::Buffer(buffer),
        })
    }

    fn from_dlpack(managed: Managed, dtype: Option<Dtype>) -> PyResult<Self> {
        let described = managed.describe()?;
        let DlType { code, bits, lanes } = described.dtype;
        let found = match (code, bits, lanes) {
            (DL_FLOAT, 32, 1) => Some(Dtype::F32),
            (DL_FLOAT, 16, 1) => Some(Dtype::F16),
            (DL_BFLOAT, 16, 1) => Some(Dtype::BF16),
            (DL_INT | DL_UINT, _, 1) => bits_of(usize::from(bits) / 8, dtype),
            _ => None,
        };
        let found = agreed(found, dtype, || {
            let kind = ["int", "uint", "float", "opaque", "bfloat", "complex", "bool"].get(usize::from(code));
            format!("{}{bits}", kind.unwrap_or(&"DLPack's type "))
        })?;
        let width = found.n_bytes() as isize;
        let strides = described.strides.map(|strides| strides.iter().map(|stride| stride * width).collect::<Vec<_>>());
        let strides = strides.filter(|strides| !in_a_row(&described.shape, strides, width));
        // Structures of this version can't say that they are not to be written to; who gives one for output, knows.
        let (data, shape, is_writable) = (described.data, described.shape, true);
        Ok(Self { data, dtype: found, shape, strides, is_writable, _owner: Owner::Dlpack(managed) })
    }

    /// How many elements there are.
    pub(crate) fn n_elems(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Bytes of all elements. None are more than the memory that they lie in.
    fn n_bytes(&self) -> usize {
        self.n_elems() as usize * self.dtype.n_bytes()
    }

    /// The elements as they lie in a row; copied if they don't, with a `check` now and then of whether to go on.
    ///
    /// # Errors
    /// What `check` returns.
    pub(crate) fn bytes(&self, check: impl FnMut() -> Result<()>) -> Result<std::borrow::Cow<'_, [u8]>> {
        Ok(match &self.strides {
            _ if self.n_elems() == 0 || self.data.is_null() => (&[]).into(),
            // SAFETY: the owner keeps so many bytes there.
            None => unsafe { std::slice::from_raw_parts(self.data, self.n_bytes()) }.into(),
            Some(strides) => self.gathered(strides, check)?.into(),
        })
    }

    fn gathered(&self, strides: &[isize], mut check: impl FnMut() -> Result<()>) -> Result<Vec<u8>> {
        let width = self.dtype.n_bytes();
        let mut out = Vec::with_capacity(self.n_bytes());
        let mut index = vec![0_u64; self.shape.len()];
        let mut at = 0_isize;
        while out.len() < self.n_bytes() {
            if out.len() % CHECK_BYTES == 0 {
                check()?;
            }
            // SAFETY: `at` is the place of the element `index`, which lies within the owner's memory.
            out.extend_from_slice(unsafe { std::slice::from_raw_parts(self.data.wrapping_offset(at), width) });
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                at += strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= strides[axis] * index[axis] as isize;
                index[axis] = 0;
            }
        }
        Ok(out)
    }

    /// The elements' memory, to be written to.
    pub(crate) fn bytes_mut(&mut self) -> PyResult<&mut [u8]> {
        if !self.is_writable {
            return Err(PyBufferError::new_err("out can't be written to"));
        }
        if self.strides.is_some() {
            return Err(refused("the elements of out don't lie in a row: give an array that is contiguous"));
        }
        if self.n_elems() == 0 || self.data.is_null() {
            return Ok(&mut []);
        }
        // SAFETY: the owner keeps so many bytes there, and they may be written to.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.data, self.n_bytes()) })
    }
}

/// An array of `ml_dtypes.bfloat16` as its bits.
fn ml_dtypes_bits<'py>(object: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let name: String = object.getattr("dtype").ok()?.getattr("name").ok()?.extract().ok()?;
    let module: String = object.get_type().getattr("__module__").ok()?.extract().ok()?;
    (name == "bfloat16" && module.starts_with("numpy")).then(|| object.call_method1("view", ("uint16",)).ok())?
}

/// A row of one element in the place of an array without dimensions, of which a buffer has no shape to give.
fn row_of_scalar<'py>(object: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Ok(view) = PyMemoryView::from(object) else { return Ok(None) };
    if view.getattr("ndim")?.extract::<usize>()? != 0 {
        return Ok(None);
    }
    let array = object.py().import("numpy")?.call_method1("asarray", (object,))?;
    Ok(Some(array.call_method1("reshape", (1,))?))
}

/// What integers of that width are the bits of.
fn bits_of(width: usize, dtype: Option<Dtype>) -> Option<Dtype> {
    dtype.filter(|dtype| dtype.n_bytes() == width)
}

/// The type that an array has, which is the one that was asked for if one was.
fn agreed(found: Option<Dtype>, asked: Option<Dtype>, name: impl FnOnce() -> String) -> PyResult<Dtype> {
    match (found, asked) {
        (Some(found), None) => Ok(found),
        (Some(found), Some(asked)) if found == asked => Ok(found),
        (_, None) => Err(exception(&Error::UnsupportedDtype(name()))),
        (_, Some(asked)) => Err(refused(format!("the array's elements are {}, not {asked} or its bits", name()))),
    }
}

/// Whether these strides are those of elements one after the other.
fn in_a_row(shape: &[u64], strides: &[isize], width: isize) -> bool {
    let mut expected = width;
    shape.iter().zip(strides).rev().all(|(&n, &stride)| {
        let fits = n == 1 || stride == expected;
        expected = expected.saturating_mul(n as isize);
        fits
    }) || shape.contains(&0)
}
