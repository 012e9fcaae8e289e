//! Products straight from packed codes.

use super::Gpu;
use super::device_packed::DevicePacked;
use super::kernels::Shape;
use super::place::{Bound, BufferAt, check_together};
use super::product_kernels::{ProductKernel, ProductParams, ProductShape};
use super::stream::bind;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::Format;

/// Flat indices within a dispatch stay below this.
const MAX_INDEX: u64 = 1 << 31;

/// Up to so many vectors, hardware reads weights again for each four rather than fill a tile.
const FEW_VECTORS: u32 = 16;

/// `y[v, r] = Σ_c x[v, c] · W[r, c] + bias[r]`: the rows of `x` times the transpose of the packed matrix `W`, as a linear
/// layer has it. One vector makes it a matrix-vector product.
///
/// Sums are accumulated in `f32`, 32 columns at a time. With W the dequantized weights and the sum taken exactly,
/// `|y − exact| ≤ (n_cols / 32 + 40) · 2⁻²³ · (Σ |x · w| + |bias|)`, and on devices whose operations round to nearest half of
/// that; `F16` results are then rounded to nearest even. This holds for up to 2¹⁷ columns (a term goes through at most
/// `n_cols / 32 + 36` roundings, each off by less than 2⁻²³ of what it rounds), while no sum of absolute values reaches 2¹²⁷ or 2¹²⁷
/// scales, and for numbers that are not subnormal: devices may take those as 0. Beyond a type's range results are infinite.
/// The same device gives the same bits again, another one may round otherwise. Codes are not checked: one that no writer
/// makes counts as the number that it is.
#[derive(Debug, Clone)]
pub struct Product<'a> {
    /// W, `n_rows` × `n_cols`, row-major; blocks may go from one row into the next.
    pub weights: &'a DevicePacked,
    /// Outputs.
    pub n_rows: u32,
    /// Inputs.
    pub n_cols: u32,
    /// x, `n_vectors` × `n_cols`, row-major. Multiples of 16 bytes are fastest, and so are columns in multiples of 32.
    pub x: BufferAt,
    /// How many vectors.
    pub n_vectors: u32,
    /// The type of x, bias and y: `F32` or `F16`. `F16` needs no feature of the device.
    pub activations: Dtype,
    /// `n_rows` numbers that are added to each vector of results.
    pub bias: Option<BufferAt>,
    /// y, `n_vectors` × `n_rows`, row-major, in a buffer that nothing here is read from.
    pub y: BufferAt,
}

/// How much one dispatch takes.
#[derive(Debug, Clone, Copy)]
struct Steps {
    rows: u64,
    vectors: u64,
}

impl Gpu {
    /// Records a product. All places may be at any multiple of 4 bytes; their buffers need `STORAGE` usage.
    ///
    /// # Errors
    /// [`Error::Refused`] if sizes don't match, a place doesn't fit, or one row or vector is beyond what the device binds;
    /// or the GPU's errors.
    pub async fn record_product(&self, encoder: &mut wgpu::CommandEncoder, product: &Product<'_>) -> Result<()> {
        product.check()?;
        let kernel =
            self.product_kernel(product.weights.format, product.activations, product.n_cols, product.n_vectors, {
                product.x.offset.is_multiple_of(16) && product.weights.codes.offset.is_multiple_of(16)
            });
        let pipeline = self.pipeline(kernel).await?;
        let steps = self.steps(product, kernel)?;
        let (n_rows, n_vectors) = (u64::from(product.n_rows), u64::from(product.n_vectors));
        let label = kernel.label();
        let recorded = self.scoped(&label, || {
            for row in (0..n_rows).step_by(usize::try_from(steps.rows).unwrap_or(usize::MAX)) {
                for vector in (0..n_vectors).step_by(usize::try_from(steps.vectors).unwrap_or(usize::MAX)) {
                    let size =
                        Steps { rows: steps.rows.min(n_rows - row), vectors: steps.vectors.min(n_vectors - vector) };
                    self.record_step(encoder, product, kernel, &pipeline, (row, vector), size)?;
                }
            }
            Ok(())
        });
        recorded.await?
    }

    /// The kernel for a product of that kind.
    pub(super) fn product_kernel(
        &self,
        format: Format,
        activations: Dtype,
        n_cols: u32,
        n_vectors: u32,
        aligned: bool,
    ) -> ProductKernel {
        let shape = match self.shape {
            Shape::Serial | Shape::Block => ProductShape::Serial,
            Shape::Tile if n_vectors <= FEW_VECTORS && self.subgroups => ProductShape::RowsInSubgroups,
            Shape::Tile if n_vectors <= FEW_VECTORS => ProductShape::Rows,
            Shape::Tile => ProductShape::Tile,
        };
        let whole = aligned && n_cols.is_multiple_of(32);
        ProductKernel { format, shape, activations, whole, n_vectors: shape.vectors_for(n_vectors) }
    }

    /// How many rows and vectors a dispatch may take on this device.
    fn steps(&self, product: &Product<'_>, kernel: ProductKernel) -> Result<Steps> {
        let limits = self.device.limits();
        let info = product.weights.format.info();
        let (n_rows, n_cols) = (u64::from(product.n_rows), u64::from(product.n_cols));
        let bytes = limits.max_storage_buffer_binding_size.saturating_sub(self.alignment() + 16);
        let blocks = (bytes / (info.block_codes_bytes() as u64)).min(bytes / 4);
        // Two blocks more than whole ones, as rows may begin and end within blocks.
        let weights = (blocks.saturating_sub(2) * info.block as u64).min(MAX_INDEX);
        let elems = (bytes / product.activations.n_bytes() as u64).min(MAX_INDEX);
        let groups = u64::from(limits.max_compute_workgroups_per_dimension);
        let [group_rows, group_vectors] = kernel.workgroup().map(u64::from);
        let steps = Steps {
            rows: (weights / n_cols).min(groups * group_rows).min(n_rows),
            vectors: (elems / n_cols.max(n_rows)).min(groups * group_vectors).min(product.n_vectors.into()),
        };
        if steps.rows == 0 || steps.vectors == 0 {
            return Err(Error::Refused(format!(
                "{n_rows} rows of {n_cols} columns are too long for this device, which binds {} bytes at a time",
                limits.max_storage_buffer_binding_size
            )));
        }
        Ok(steps)
    }

    /// Records one dispatch, from a row and a vector on.
    fn record_step(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        product: &Product<'_>,
        kernel: ProductKernel,
        pipeline: &wgpu::ComputePipeline,
        (row, vector): (u64, u64),
        size: Steps,
    ) -> Result<()> {
        let info = product.weights.format.info();
        let (block, codes_bytes) = (info.block as u64, info.block_codes_bytes() as u64);
        let (n_rows, n_cols) = (u64::from(product.n_rows), u64::from(product.n_cols));
        let (width, alignment) = (product.activations.n_bytes() as u64, self.alignment());
        let first = row * n_cols;
        let (first_block, skip) = (first / block, first % block);
        let n_blocks = (skip + size.rows * n_cols).div_ceil(block);
        let codes = product.weights.codes.bind(first_block * codes_bytes, n_blocks * codes_bytes, alignment);
        let scales = product.weights.scales.bind(first_block * 4, n_blocks * 4, alignment);
        let x = product.x.bind(vector * n_cols * width, size.vectors * n_cols * width, alignment);
        let bias = product.bias.as_ref().map(|bias| bias.bind(row * width, size.rows * width, alignment));
        // Of the last vector only these rows, of the others all.
        let y_elems = (size.vectors - 1) * n_rows + size.rows;
        let y = product.y.bind((vector * n_rows + row) * width, y_elems * width, alignment);
        // Something must be bound for the bias; without one it isn't read.
        let bound_bias = bias.as_ref().unwrap_or(&scales);
        let read = [("codes", &codes), ("scales", &scales), ("vectors", &x), ("the bias", bound_bias)];
        check_together(&read, &[("results", &y)], alignment)?;

        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX); // steps are small
        let params = self.uniform(&ProductParams {
            n_rows: small(size.rows),
            n_cols: product.n_cols,
            n_vectors: small(size.vectors),
            y_stride: product.n_rows,
            skip: small(skip),
            codes_at: codes.at(4),
            scales_at: scales.at(4),
            x_at: x.at(width),
            y_at: y.at(width),
            bias_at: bias.as_ref().map_or(0, |bias| bias.at(width)),
            has_bias: bias.is_some().into(),
            _pad: 0,
        });
        let parts = [&codes, &scales, &x, bound_bias, &y].map(Bound::resource);
        let bind_group = bind(&self.device, pipeline, [params.as_entire_binding()].into_iter().chain(parts));
        let [rows, vectors] = kernel.workgroup();
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(kernel.entry_point()),
            timestamp_writes: None,
        });
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(small(size.rows).div_ceil(rows), small(size.vectors).div_ceil(vectors), 1);
        Ok(())
    }
}

impl Product<'_> {
    /// Refuses what doesn't fit together.
    fn check(&self) -> Result<()> {
        let (n_rows, n_cols, n_vectors) = (u64::from(self.n_rows), u64::from(self.n_cols), u64::from(self.n_vectors));
        if n_rows == 0 || n_cols == 0 || n_vectors == 0 {
            return Err(Error::Refused(format!(
                "there is nothing to multiply: {n_rows} × {n_cols}, {n_vectors} vectors"
            )));
        }
        if n_rows * n_cols != self.weights.n_elems {
            return Err(Error::Refused(format!(
                "{n_rows} rows of {n_cols} columns are not the {} weights that there are",
                self.weights.n_elems
            )));
        }
        if self.activations == Dtype::BF16 {
            return Err(Error::Refused("products take activations of type F32 or F16, not BF16".to_owned()));
        }
        let (width, usage) = (self.activations.n_bytes() as u64, wgpu::BufferUsages::STORAGE);
        let bytes = |a: u64, b: u64| a.saturating_mul(b).saturating_mul(width);
        self.x.check("x", bytes(n_vectors, n_cols), usage)?;
        self.y.check("y", bytes(n_vectors, n_rows), usage)?;
        self.bias.as_ref().map_or(Ok(()), |bias| bias.check("a bias", bytes(n_rows, 1), usage))
    }
}
