//! Pipelines: each is built once, on first use or ahead.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::kernels::{Access, Direction, Kernel};
use super::product_kernels::ProductKernel;
use super::{Gpu, lock};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::format::Format;

/// What [`Gpu::prepare`] builds pipelines for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// [`Gpu::record_quantize`], from weights at multiples of 32 bytes.
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

/// Pipelines by kernel, each in a place of its own that is empty until it is built.
pub(super) type Pipelines = HashMap<AnyKernel, Arc<OnceLock<wgpu::ComputePipeline>>>;

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
    /// Builds the pipelines that `work` needs, where they aren't built yet, so that no later call does; several at a time, as
    /// there are cores. Building one takes a driver between a millisecond and a second.
    ///
    /// # Errors
    /// The GPU's errors.
    pub async fn prepare(&self, work: &[Work]) -> Result<()> {
        let mut missing: Vec<_> = work.iter().flat_map(|&work| self.kernels_of(work)).collect();
        missing.retain(|&kernel| self.built(kernel).is_none());
        #[cfg(not(target_family = "wasm"))]
        if missing.len() > 1 {
            return self.build_beside(&missing);
        }
        for kernel in missing {
            self.pipeline(kernel).await?;
        }
        Ok(())
    }

    fn kernels_of(&self, work: Work) -> Vec<AnyKernel> {
        match work {
            Work::Quantize { format, dtype } => {
                vec![self.kernel(format, Direction::Quantize, self.shape, dtype).into()]
            }
            Work::Dequantize { format, dtype } => {
                let kernel = self.kernel(format, Direction::Dequantize, self.shape, dtype);
                vec![kernel.into(), Kernel { access: Access::Words, ..kernel }.into()]
            }
            Work::Product { format, activations, n_cols, n_vectors } => {
                vec![self.product_kernel(format, activations, n_cols, n_vectors, true).into()]
            }
        }
    }

    /// Builds these on as many threads as there are cores, with stacks of the usual size: it is the driver's compiler that
    /// runs on them. What can't be begun on a thread of its own is done by the others.
    #[cfg(not(target_family = "wasm"))]
    fn build_beside(&self, kernels: &[AnyKernel]) -> Result<()> {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let next = AtomicUsize::new(0);
        let work_off = || -> Result<()> {
            while let Some(&kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                pollster::block_on(self.pipeline(kernel))?;
            }
            Ok(())
        };
        let n_cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        std::thread::scope(|scope| {
            let start =
                |_| std::thread::Builder::new().name("wgquant-pipelines".to_owned()).spawn_scoped(scope, work_off).ok();
            let others: Vec<_> = (1..n_cores.min(kernels.len())).filter_map(start).collect();
            let here = work_off();
            let join = |other: std::thread::ScopedJoinHandle<'_, Result<()>>| {
                other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            others.into_iter().map(join).fold(here, Result::and)
        })
    }

    /// How many pipelines were built so far. While it doesn't grow, nothing is compiled.
    #[must_use]
    pub fn n_pipelines(&self) -> usize {
        lock(&self.pipelines).values().filter(|built| built.get().is_some()).count()
    }

    fn built(&self, kernel: AnyKernel) -> Option<wgpu::ComputePipeline> {
        lock(&self.pipelines).get(&kernel)?.get().cloned()
    }

    /// The kernel's pipeline, built on first use.
    pub(super) async fn pipeline(&self, kernel: impl Into<AnyKernel>) -> Result<wgpu::ComputePipeline> {
        let kernel = kernel.into();
        if let Some(pipeline) = self.built(kernel) {
            return Ok(pipeline);
        }
        // One thread builds it, and another that wants the same waits; other kernels are built meanwhile.
        let place = Arc::clone(lock(&self.pipelines).entry(kernel).or_default());
        let what = format!("the kernel {}", kernel.label());
        let built = self.scoped(&what, || place.get_or_init(|| self.build(kernel)).clone()).await;
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
