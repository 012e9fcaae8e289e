//! Arrays in, arrays out.

use std::sync::Arc;

use pyo3::prelude::*;
use wgquant::format::ScaleType;
use wgquant::{Dtype, Engine, Format, Weights};

use crate::array::Array;
use crate::engines::with_engine;
use crate::errors::{OrRaise, refused};
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
    let packed = py.detach(|| {
        let bytes = view.bytes();
        let weights = Weights::from_le_bytes(dtype, &bytes)?;
        with_engine(device, |engine| match engine {
            Engine::Gpu(gpu) => pollster::block_on(gpu.quantize(format, weights)),
            Engine::Cpu => wgquant::quantize(format, weights),
        })
    });
    Ok(Packed { inner: Arc::new(packed.or_raise()?), shape: array.shape.clone(), dtype })
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
    py.detach(|| with_engine(device, |engine| fill(engine, inner, dtype, out))).or_raise()
}

fn fill(engine: &Engine, packed: &wgquant::Packed, dtype: Dtype, out: &mut [u8]) -> wgquant::Result<()> {
    let values = match engine {
        Engine::Gpu(gpu) => pollster::block_on(gpu.dequantize(packed, dtype))?,
        Engine::Cpu if packed.format().info().scale == ScaleType::Nested => wgquant::dequantize(packed, dtype)?,
        Engine::Cpu => {
            return wgquant::dequantize_to_slice(packed.format(), packed.codes(), packed.scales(), dtype, out);
        }
    };
    out.copy_from_slice(&values);
    Ok(())
}
