//! Arrays in, arrays out.

use std::sync::Arc;

use pyo3::prelude::*;
use wgquant::{Error, Format, Result, Weights};

use crate::array::Array;
use crate::engines::with_engine;
use crate::errors::{OrRaise, exception, refused};
use crate::jobs::Signals;
use crate::packed::{Packed, dtype_of};

/// Packs an array.
#[pyfunction]
#[pyo3(signature = (array, format, dtype, device))]
pub(crate) fn quantize(
    py: Python<'_>,
    array: &Bound<'_, PyAny>,
    format: &str,
    dtype: Option<&str>,
    device: &str,
) -> PyResult<Packed> {
    let format = Format::from_name(format).or_raise()?;
    let array = Array::new(array, dtype.map(dtype_of).transpose()?)?;
    let (view, dtype) = (&array, array.dtype);
    let packed = interruptible(py, |check| {
        let bytes = view.bytes(&mut *check)?;
        let weights = Weights::from_le_bytes(dtype, &bytes)?;
        with_engine(device, |engine| pollster::block_on(engine.quantize(format, weights, &mut *check)))
    });
    Ok(Packed { inner: Arc::new(packed?), shape: array.shape.clone(), dtype })
}

/// Fills an array with what a packed one stands for.
#[pyfunction]
#[pyo3(signature = (packed, out, dtype, device))]
pub(crate) fn dequantize(
    py: Python<'_>,
    packed: &Packed,
    out: &Bound<'_, PyAny>,
    dtype: Option<&str>,
    device: &str,
) -> PyResult<()> {
    let mut array = Array::new(out, dtype.map(dtype_of).transpose()?)?;
    if array.shape != packed.shape {
        return Err(refused(format!("out has the shape {:?}, and the packed array {:?}", array.shape, packed.shape)));
    }
    let (dtype, inner) = (array.dtype, &packed.inner);
    let out = array.bytes_mut()?;
    interruptible(py, |check| {
        with_engine(device, |engine| pollster::block_on(engine.dequantize(inner, dtype, out, &mut *check)))
    })
}

/// Runs work without the interpreter's lock, which ends early for a signal such as Ctrl-C's: it looks for one where it
/// calls its argument.
fn interruptible<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&mut (dyn FnMut() -> Result<()> + Send)) -> Result<T> + Send,
) -> PyResult<T> {
    let mut signals = Signals::default();
    let done =
        py.detach(|| work(&mut || if signals.look(|py| py.check_signals()) { Err(Error::GivenUp) } else { Ok(()) }));
    match signals.raised {
        Some(raised) => Err(raised),
        None => done.map_err(|error| exception(&error)),
    }
}
