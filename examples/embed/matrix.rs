//! The two things that a model does with a matrix, in f32 or packed: fetch rows, and multiply.

use anyhow::Result;
use wgquant::gpu::{BufferAt, DevicePacked, Product};
use wgquant::{Dtype, Gpu};

use crate::kernels::Kernels;

/// A matrix `[n_rows, n_cols]`, row by row.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) n_rows: u32,
    pub(crate) n_cols: u32,
    pub(crate) values: Values,
}

#[derive(Debug)]
pub(crate) enum Values {
    F32(wgpu::Buffer),
    Packed(DevicePacked),
}

impl Matrix {
    /// Records the copying of rows, in ascending order and each once, into `out`, in f32.
    pub(crate) async fn record_rows(
        &self,
        gpu: &Gpu,
        encoder: &mut wgpu::CommandEncoder,
        rows: &[u32],
        out: &wgpu::Buffer,
    ) -> Result<()> {
        let row_bytes = u64::from(self.n_cols) * 4;
        let mut at = 0;
        for run in rows.chunk_by(|row, next| row + 1 == *next) {
            let (first, n_bytes) = (u64::from(run[0]), run.len() as u64 * row_bytes);
            match &self.values {
                Values::F32(buffer) => encoder.copy_buffer_to_buffer(buffer, first * row_bytes, out, at, n_bytes),
                Values::Packed(packed) => {
                    let first = first * u64::from(self.n_cols);
                    let elems = first..first + n_bytes / 4;
                    let place = BufferAt { buffer: out.clone(), offset: at };
                    gpu.record_dequantize_range(encoder, packed, elems, Dtype::F32, place).await?;
                }
            }
            at += n_bytes;
        }
        Ok(())
    }

    /// Records y = x · Wᵀ + bias, where `x` has `n_vectors` vectors `[n_cols]` and `y` becomes as many `[n_rows]`.
    #[expect(clippy::too_many_arguments, reason = "a product's parts")]
    pub(crate) async fn record_product(
        &self,
        gpu: &Gpu,
        kernels: &Kernels,
        encoder: &mut wgpu::CommandEncoder,
        x: &wgpu::Buffer,
        n_vectors: u32,
        bias: &wgpu::Buffer,
        y: &wgpu::Buffer,
    ) -> Result<()> {
        match &self.values {
            Values::F32(w) => {
                let params = [n_vectors, self.n_rows / 4, self.n_cols / 4, 0];
                let n_invocations = n_vectors.div_ceil(4) * (self.n_rows / 4);
                kernels.linear.record(encoder, params, &[w, x, bias, y], n_invocations);
            }
            Values::Packed(weights) => {
                let product = Product {
                    weights,
                    n_rows: self.n_rows,
                    n_cols: self.n_cols,
                    x: x.into(),
                    n_vectors,
                    activations: Dtype::F32,
                    bias: Some(bias.into()),
                    y: y.into(),
                };
                gpu.record_product(encoder, &product).await?;
            }
        }
        Ok(())
    }
}
