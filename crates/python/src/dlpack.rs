//! Tensors of other libraries through DLPack, whose C structures are these (version 0.8, which all of them still give).

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::errors::refused;

/// What a capsule is called before and after someone has taken what is in it.
const NEW: &CStr = c"dltensor";
const USED: &CStr = c"used_dltensor";
/// Memory that the CPU can read: its own, and such that is pinned for a GPU.
const CPU: i32 = 1;
const PINNED: i32 = 3;

#[repr(C)]
struct DlDevice {
    device_type: i32,
    device_id: i32,
}

/// An element's type.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DlType {
    pub(crate) code: u8,
    pub(crate) bits: u8,
    pub(crate) lanes: u16,
}

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: DlDevice,
    ndim: i32,
    dtype: DlType,
    shape: *const i64,
    /// In elements; null where they lie in a row.
    strides: *const i64,
    byte_offset: u64,
}

#[repr(C)]
struct DlManagedTensor {
    tensor: DlTensor,
    manager_ctx: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DlManagedTensor)>,
}

/// A tensor that another library keeps alive until this goes away.
pub(crate) struct Managed(NonNull<DlManagedTensor>);

/// What is known of a tensor.
pub(crate) struct Described {
    pub(crate) data: *mut u8,
    pub(crate) dtype: DlType,
    pub(crate) shape: Vec<u64>,
    /// In elements.
    pub(crate) strides: Option<Vec<isize>>,
}

impl Drop for Managed {
    fn drop(&mut self) {
        // SAFETY: the tensor is ours since the capsule was renamed, and this is the one time that it is given back.
        unsafe {
            if let Some(deleter) = self.0.as_ref().deleter {
                deleter(self.0.as_ptr());
            }
        }
    }
}

impl Managed {
    /// Takes the tensor of an object with `__dlpack__`.
    pub(crate) fn take(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(device) = object.call_method0("__dlpack_device__") {
            let (kind, _): (i32, i32) = device.extract()?;
            if ![CPU, PINNED].contains(&kind) {
                return Err(refused("the array is in a GPU's memory: move it to the CPU first, as with .cpu()"));
            }
        }
        // PyTorch gives no parameters away that gradients are computed for, and none are here.
        let needs_grad = object.getattr("requires_grad").is_ok_and(|it| it.is_truthy().unwrap_or_default());
        let object = if needs_grad { object.call_method0("detach")? } else { object.clone() };
        let capsule = object.call_method0("__dlpack__")?.cast_into::<PyCapsule>()?;
        let pointer = capsule.pointer_checked(Some(NEW))?.cast::<DlManagedTensor>();
        // SAFETY: the capsule is one, and the name lives as long as the program.
        if unsafe { ffi::PyCapsule_SetName(capsule.as_ptr(), USED.as_ptr()) } != 0 {
            return Err(PyErr::fetch(object.py()));
        }
        Ok(Self(pointer))
    }

    /// Where it lies, and how.
    pub(crate) fn describe(&self) -> PyResult<Described> {
        // SAFETY: the library that made the capsule promises a whole structure, with arrays of `ndim` numbers.
        let tensor = unsafe { &self.0.as_ref().tensor };
        if ![CPU, PINNED].contains(&tensor.device.device_type) {
            return Err(refused("the array is in a GPU's memory: move it to the CPU first, as with .cpu()"));
        }
        let numbers = |of: *const i64| match usize::try_from(tensor.ndim) {
            Ok(n) if n > 0 && !of.is_null() => {
                // SAFETY: as above.
                Some(unsafe { std::slice::from_raw_parts(of, n) })
            }
            _ => None,
        };
        let shape = numbers(tensor.shape).unwrap_or_default().iter().map(|&n| u64::try_from(n).unwrap_or_default());
        let strides = numbers(tensor.strides).map(|strides| strides.iter().map(|&n| n as isize).collect());
        let offset = usize::try_from(tensor.byte_offset).map_err(|_| refused("the array lies beyond memory"))?;
        let data = tensor.data.cast::<u8>().wrapping_add(offset);
        Ok(Described { data, dtype: tensor.dtype, shape: shape.collect(), strides })
    }
}
