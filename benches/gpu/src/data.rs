//! Weights as models have them: a bell curve of a few hundredths.

use anyhow::Result;
use wgquant::gpu::{Direction, Kernel};
use wgquant::{Dtype, Weights, quantize};

/// A kernel's inputs, as the driver would upload them.
pub fn inputs(kernel: Kernel, n_elems: usize) -> Result<Vec<Vec<u8>>> {
    let weights = weights(n_elems);
    if kernel.direction == Direction::Quantize {
        return Ok(vec![match kernel.dtype {
            Dtype::F32 => bytemuck::cast_slice(&weights).to_vec(),
            Dtype::F16 => weights.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
            Dtype::BF16 => weights.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        }]);
    }
    let packed = quantize(kernel.format, Weights::from(&weights[..]))?;
    let scale_bytes = kernel.format.info().scale.n_bytes();
    let scales = packed.scales().chunks_exact(scale_bytes).flat_map(|scale| {
        let mut word = [0; 4];
        word[..scale.len()].copy_from_slice(scale);
        word
    });
    Ok(vec![packed.codes().to_vec(), scales.collect()])
}

pub fn weights(n: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f32::from((state >> 48) as u16) / 65_536.0 - 0.5
    };
    (0..n).map(|_| (uniform() + uniform() + uniform() + uniform()) * 0.03).collect()
}
