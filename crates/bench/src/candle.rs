//! candle-core's quantizers, as a crate.

use anyhow::Result;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use crate::runner::Runner;

pub(crate) const Q4_0: &str = "candle: q4_0";
pub(crate) const Q8_0: &str = "candle: q8_0";

pub(crate) fn add(runner: &mut Runner<'_>, weights: &[f32]) -> Result<()> {
    // It takes tens of nanoseconds for what takes us one.
    let n_elems = weights.len() / 4 / 1024 * 1024;
    let tensor = Tensor::from_slice(&weights[..n_elems], (n_elems / 1024, 1024), &Device::Cpu)?;
    for (name, dtype) in [(Q4_0, GgmlDType::Q4_0), (Q8_0, GgmlDType::Q8_0)] {
        let tensor = tensor.clone();
        runner.add(name, n_elems, move || {
            std::hint::black_box(QTensor::quantize(&tensor, dtype)?);
            Ok(())
        });
    }
    Ok(())
}
