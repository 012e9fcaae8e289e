//! Pipelines: each is built once, on first use or ahead.

use super::kernels::{Access, Direction, Kernel};
use super::product_kernels::ProductKernel;
use super::{Gpu, lock};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::format::Format;

/// What [`Gpu::prepare`] builds pipelines for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// [`Gpu::record_quantize`], from weights at multiples of 16 bytes.
    Quantize {
        /// The format.
        format: Format,
        /// The weights' type.
        dtype: Dtype,
    },
    /// [`Gpu::record_dequantize`] and [`Gpu::record_dequantize_range`].
    Dequantize {
        /// The format.
        format: Format,
        /// The values' type.
        dtype: Dtype,
    },
    /// [`Gpu::record_product`], on activations at multiples of 16 bytes.
    Product {
        /// The weights' format.
        format: Format,
        /// The activations' type.
        activations: Dtype,
        /// Inputs.
        n_cols: u32,
        /// Vectors at a time.
        n_vectors: u32,
    },
}

/// Any kernel that has a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum AnyKernel {
    /// Quantizes or dequantizes.
    Packing(Kernel),
    /// Multiplies.
    Product(ProductKernel),
}

impl From<Kernel> for AnyKernel {
    fn from(kernel: Kernel) -> Self {
        Self::Packing(kernel.shared())
    }
}

impl From<ProductKernel> for AnyKernel {
    fn from(kernel: ProductKernel) -> Self {
        Self::Product(kernel.shared())
    }
}

impl AnyKernel {
    fn label(self) -> String {
        match self {
            Self::Packing(kernel) => kernel.label(),
            Self::Product(kernel) => kernel.label(),
        }
    }

    fn source(self) -> String {
        match self {
            Self::Packing(kernel) => kernel.source(),
            Self::Product(kernel) => kernel.source(),
        }
    }

    fn entry_point(self) -> &'static str {
        match self {
            Self::Packing(kernel) => kernel.entry_point(),
            Self::Product(kernel) => kernel.entry_point(),
        }
    }
}

impl Gpu {
    /// Builds the pipelines that `work` needs, where they aren't built yet, so that no later call does. Building one takes
    /// a driver between a millisecond and a second.
    ///
    /// # Errors
    /// The GPU's errors.
    pub async fn prepare(&self, work: &[Work]) -> Result<()> {
        for &work in work {
            match work {
                Work::Quantize { format, dtype } => {
                    let direction = Direction::Quantize;
                    let kernel = Kernel { format, direction, shape: self.shape, dtype, access: Access::Vectors };
                    self.pipeline(kernel).await?;
                }
                Work::Dequantize { format, dtype } => {
                    let direction = Direction::Dequantize;
                    for access in [Access::Vectors, Access::Words] {
                        self.pipeline(Kernel { format, direction, shape: self.shape, dtype, access }).await?;
                    }
                }
                Work::Product { format, activations, n_cols, n_vectors } => {
                    self.pipeline(self.product_kernel(format, activations, n_cols, n_vectors, true)).await?;
                }
            }
        }
        Ok(())
    }

    /// How many pipelines were built so far. While it doesn't grow, nothing is compiled.
    #[must_use]
    pub fn n_pipelines(&self) -> usize {
        lock(&self.pipelines).len()
    }

    /// The kernel's pipeline, built on first use.
    pub(super) async fn pipeline(&self, kernel: impl Into<AnyKernel>) -> Result<wgpu::ComputePipeline> {
        let kernel = kernel.into();
        if let Some(pipeline) = lock(&self.pipelines).get(&kernel) {
            return Ok(pipeline.clone());
        }
        let built = self
            .scoped(&format!("the kernel {}", kernel.label()), || {
                // Under the lock, so that two threads don't build the same one.
                lock(&self.pipelines).entry(kernel).or_insert_with(|| self.build(kernel)).clone()
            })
            .await;
        if built.is_err() {
            lock(&self.pipelines).remove(&kernel);
        }
        built
    }

    fn build(&self, kernel: AnyKernel) -> wgpu::ComputePipeline {
        let label = kernel.label();
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&label),
            source: wgpu::ShaderSource::Wgsl(kernel.source().into()),
        });
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: None,
            module: &module,
            entry_point: Some(kernel.entry_point()),
            // The kernels write all that they read of workgroup memory.
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..wgpu::PipelineCompilationOptions::default()
            },
            cache: self.pipeline_cache.as_ref(),
        })
    }
}
