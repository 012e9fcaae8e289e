//! The GPU driver: adapters, kernels, and tensors through a device in pieces.
//!
//! [`Gpu::quantize`] and [`Gpu::dequantize`] take host memory; [`Engine`](crate::Engine) streams whole files; and
//! [`Gpu::record_quantize`] works between buffers that stay on the device.

mod adapter;
mod device_packed;
// A browser's clock is too coarse for it.
#[cfg(not(target_family = "wasm"))]
mod fastest;
mod inputs;
mod kernels;
mod pipelines;
mod place;
mod plan;
mod product;
mod product_kernels;
mod record;
mod stream;
mod unroll;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

pub use adapter::{Adapter, adapters};
pub use device_packed::DevicePacked;
pub use kernels::{Access, Direction, Kernel, Params, STATUS_BYTES, Shape};
pub use pipelines::Work;
pub use place::BufferAt;
pub use product::Product;
pub use product_kernels::{ProductKernel, ProductParams, ProductShape};
pub(crate) use stream::Elements;

use crate::dtype::{Dtype, Weights};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::packed::{Packed, PackedChunk, zeroed, zeroed_parts};

/// How long one piece may take. Software adapters need about a second for the largest.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Bytes of a chunk's largest buffer, unless [`Gpu::with_max_chunk_bytes`] says otherwise.
const DEFAULT_CHUNK_BYTES: u64 = 32 << 20;

/// The least that one binding must span.
const MIN_BINDING_BYTES: u64 = 4096;

/// An open GPU. Pipelines are built once, buffers are reused.
#[derive(Debug)]
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    shape: Shape,
    /// Whether products may use subgroup operations.
    subgroups: bool,
    /// Whether the serial shape's kernels load and store by 64-bit integers.
    pairs: bool,
    /// Whether the kernels' buffers are mapped themselves: on devices whose memory is the host's.
    unified: bool,
    max_chunk_bytes: u64,
    lost: Arc<OnceLock<String>>,
    pipelines: Arc<Mutex<pipelines::Pipelines>>,
    pipeline_cache: Option<wgpu::PipelineCache>,
    idle_slots: Mutex<Vec<stream::Slot>>,
}

impl Gpu {
    /// Opens the best hardware adapter; `None` where there is none. Software adapters are used only by name.
    ///
    /// # Errors
    /// [`Error::OpenDevice`] if the driver refuses.
    pub async fn open_best() -> Result<Option<Self>> {
        match adapter::best().await {
            Some(adapter) => Self::open_adapter(adapter).await.map(Some),
            None => Ok(None),
        }
    }

    /// Opens the adapter whose name contains `name`, in any case, with `vulkan:` or `gl:` before it to choose the backend
    /// and `#1`, `#2`, … behind it to choose among cards of one name.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] or [`Error::AmbiguousAdapter`], both of which list names; [`Error::OpenDevice`].
    pub async fn open(name: &str) -> Result<Self> {
        Self::open_adapter(adapter::named(name).await?).await
    }

    async fn open_adapter(adapter: wgpu::Adapter) -> Result<Self> {
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("wgquant"),
            required_limits: adapter.limits(),
            required_features: adapter.features() & useful_features(&adapter.get_info()),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(|error| Error::OpenDevice {
            adapter: adapter.get_info().name,
            reason: one_line(&error.to_string()),
        })?;
        let gpu = Self::from_device(device, queue)?;
        let lost = Arc::clone(&gpu.lost);
        gpu.device.set_device_lost_callback(move |reason, message| {
            // Only the first loss is the cause.
            let _ = lost.set(format!("{reason:?}: {}", one_line(&message)));
        });
        // Errors outside of any scope: wgpu would panic. The next wait on this device reports them.
        let lost = Arc::clone(&gpu.lost);
        gpu.device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let _ = lost.set(one_line(&error.to_string()));
        }));
        Ok(gpu)
    }

    /// Builds the driver on a device that the caller already has, with whatever limits and features. The caller's error
    /// handlers stay as they are. No optional feature is needed; subgroup operations are used where there are some, and on a software
    /// adapter 64-bit integers (`SHADER_INT64`). A device whose workgroups are too small for [`Shape::Tile`] gets
    /// [`Shape::Serial`].
    ///
    /// # Errors
    /// [`Error::Refused`] if a limit of the device is below what every kernel needs: it names the limit.
    pub fn from_device(device: wgpu::Device, queue: wgpu::Queue) -> Result<Self> {
        let info = device.adapter_info();
        let limits = device.limits();
        check_limits(&info.name, &limits)?;
        let software = info.device_type == wgpu::DeviceType::Cpu;
        let shape = if software || !has_tile_limits(&limits) { Shape::Serial } else { Shape::Tile };
        // A browser's text would need a line that naga doesn't know.
        let subgroups = !cfg!(target_family = "wasm")
            && device.features().contains(wgpu::Features::SUBGROUP)
            && info.subgroup_max_size <= product_kernels::MAX_SUBGROUP;
        // Other backends' software adapters were not seen to do it.
        let pairs = software
            && info.backend == wgpu::Backend::Vulkan
            && device.features().contains(wgpu::Features::SHADER_INT64);
        let mappable = unified_memory(&info);
        let unified = !mappable.is_empty() && device.features().contains(mappable);
        Ok(Self {
            device,
            queue,
            info,
            shape,
            subgroups,
            pairs,
            unified,
            max_chunk_bytes: DEFAULT_CHUNK_BYTES,
            lost: Arc::default(),
            pipelines: Arc::default(),
            pipeline_cache: None,
            idle_slots: Mutex::default(),
        })
    }

    /// Another driver on the same device: pipelines are shared, whichever builds them, and buffers are its own.
    #[must_use]
    pub fn share(&self) -> Self {
        Self {
            device: self.device.clone(),
            queue: self.queue.clone(),
            info: self.info.clone(),
            shape: self.shape,
            subgroups: self.subgroups,
            pairs: self.pairs,
            unified: self.unified,
            max_chunk_bytes: self.max_chunk_bytes,
            lost: Arc::clone(&self.lost),
            pipelines: Arc::clone(&self.pipelines),
            pipeline_cache: self.pipeline_cache.clone(),
            idle_slots: Mutex::default(),
        }
    }

    /// Uses kernels of this shape instead of the one that suits the adapter. The bytes are the same.
    #[must_use]
    pub fn with_shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// The shape of the kernels that it uses.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The kernel of that shape that it uses for what lies at multiples of 32 bytes, with room for whole vectors of those.
    #[must_use]
    pub fn kernel(&self, format: Format, direction: Direction, shape: Shape, dtype: Dtype) -> Kernel {
        let access = match direction {
            _ if !self.pairs || shape != Shape::Serial => Access::Vectors,
            Direction::Dequantize if has_wide_registers() => Access::LanePairs,
            _ => Access::Pairs,
        };
        Kernel { format, direction, shape, dtype, access }
    }

    /// Lets a piece's largest buffer have at most so many bytes; one block always goes. Two pieces are in flight. The
    /// bytes are the same.
    #[must_use]
    pub fn with_max_chunk_bytes(mut self, n_bytes: u64) -> Self {
        self.max_chunk_bytes = n_bytes;
        self
    }

    /// Builds pipelines through this cache of the caller's, where the device has `Features::PIPELINE_CACHE`. The caller makes
    /// it (which is `unsafe`, as drivers trust its bytes), shares it with pipelines of its own, and keeps its data.
    #[must_use]
    pub fn with_pipeline_cache(mut self, cache: wgpu::PipelineCache) -> Self {
        self.pipeline_cache = Some(cache);
        self
    }

    /// What a piece's largest buffer has at most.
    #[must_use]
    pub fn max_chunk_bytes(&self) -> u64 {
        self.max_chunk_bytes
    }

    /// The device, for buffers that the caller shares with it.
    #[must_use]
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// The device's queue.
    #[must_use]
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// Adapter, backend and driver, for reports and messages.
    #[must_use]
    pub fn description(&self) -> String {
        let backend = adapter::backend_name(self.info.backend);
        match adapter::driver_name(&self.info).as_str() {
            "" => format!("{} ({backend})", self.info.name),
            driver => format!("{} ({backend}, {driver})", self.info.name),
        }
    }

    /// Quantizes a tensor; the bytes are those of [`quantize`](crate::quantize), whatever the adapter.
    ///
    /// # Errors
    /// As [`quantize`](crate::quantize), and the GPU's: [`Error::DeviceLost`], [`Error::OutOfDeviceMemory`],
    /// [`Error::DeviceTimeout`], [`Error::Gpu`].
    pub async fn quantize<'a>(&self, format: Format, weights: impl Into<Weights<'a>>) -> Result<Packed> {
        let weights = weights.into();
        let (mut codes, mut scales) = zeroed_parts(format.info(), weights.len())?;
        let info = format.info();
        let elements = Elements::Memory(weights.bytes());
        let mut write = |chunk: PackedChunk<'_>| {
            copy_to(&mut codes, info.codes_bytes(chunk.first_elem), chunk.codes);
            copy_to(&mut scales, info.scales_bytes(chunk.first_elem), chunk.scales);
            Ok(())
        };
        self.quantize_stream(format, weights.dtype(), weights.len() as u64, elements, &mut write).await?;
        Packed::from_stream(format, weights.len() as u64, codes, scales)
    }

    /// Dequantizes a tensor into little-endian elements of `dtype`; the bytes are those of
    /// [`dequantize`](crate::dequantize), whatever the adapter.
    ///
    /// # Errors
    /// As [`dequantize`](crate::dequantize), and the GPU's as for [`Self::quantize`].
    pub async fn dequantize(&self, packed: &Packed, dtype: Dtype) -> Result<Vec<u8>> {
        let mut values = zeroed(packed.n_elems().saturating_mul(dtype.n_bytes() as u64))?;
        let mut write = |first: u64, out: &[u8]| {
            copy_to(&mut values, first * dtype.n_bytes() as u64, out);
            Ok(())
        };
        let mut read = packed.stream_reader();
        self.dequantize_stream(packed.format(), dtype, packed.n_elems(), &mut read, &mut write).await?;
        Ok(values)
    }

    /// Does `work` and turns whatever wgpu has to say of it into an error value.
    async fn scoped<T>(&self, what: &str, work: impl FnOnce() -> T) -> Result<T> {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        self.check_lost()?;
        let [memory, validation, internal] =
            [OutOfMemory, Validation, Internal].map(|f| self.device.push_error_scope(f));
        let value = work();
        // In reverse order; and all of them are popped before the first error is looked at.
        let (internal, validation, memory) = (internal.pop().await, validation.pop().await, memory.pop().await);
        if memory.is_some() || validation.is_some() || internal.is_some() {
            // A device that is gone makes every call invalid. Whether it is, a poll tells, when what it still ran has ended.
            let _ = self.poll(wgpu::PollType::Wait { submission_index: None, timeout: Some(TIMEOUT) });
            self.check_lost()?;
        }
        let (adapter, what) = (self.info.name.clone(), what.to_owned());
        match (memory, validation.or(internal)) {
            (Some(error), _) => Err(Error::OutOfDeviceMemory { adapter, what, reason: one_line(&error.to_string()) }),
            (None, Some(error)) => Err(Error::Gpu { adapter, what, reason: one_line(&error.to_string()) }),
            (None, None) => Ok(value),
        }
    }

    /// Waits for a submission and for the mappings that were asked for with it.
    async fn wait(&self, submission: wgpu::SubmissionIndex, mapped: Vec<stream::Mapped>) -> Result<()> {
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: Some(TIMEOUT) };
        match self.poll(wait) {
            None => return Err(self.lost_error("the driver reported a lost device")),
            Some(Err(wgpu::PollError::Timeout)) => {
                return Err(Error::DeviceTimeout { adapter: self.info.name.clone(), seconds: TIMEOUT.as_secs() });
            }
            Some(Err(error)) => return Err(self.lost_error(&error.to_string())),
            Some(Ok(_)) => {}
        }
        self.check_lost()?;
        for mapped in mapped {
            // Natively the callback has run by now or never will; in a browser it runs later.
            #[cfg(not(target_arch = "wasm32"))]
            let mapped = { mapped }.try_recv().ok().flatten();
            #[cfg(target_arch = "wasm32")]
            let mapped = mapped.await.ok();
            match mapped {
                Some(Ok(())) => {}
                Some(Err(error)) => return Err(self.lost_error(&error.to_string())),
                None => return Err(self.lost_error("results could not be read back")),
            }
        }
        Ok(())
    }

    /// Polls the device. `None` where the driver reports it as lost: wgpu 30 panics then.
    fn poll(&self, poll: wgpu::PollType) -> Option<Result<wgpu::PollStatus, wgpu::PollError>> {
        std::panic::catch_unwind(AssertUnwindSafe(|| self.device.poll(poll))).ok()
    }

    fn check_lost(&self) -> Result<()> {
        match self.lost.get() {
            Some(_) => Err(self.lost_error("")),
            None => Ok(()),
        }
    }

    fn lost_error(&self, otherwise: &str) -> Error {
        let reason = self.lost.get().cloned().unwrap_or_else(|| otherwise.to_owned());
        Error::DeviceLost { adapter: self.info.name.clone(), reason }
    }

    fn plan_limits(&self) -> plan::PlanLimits {
        let limits = self.device.limits();
        plan::PlanLimits {
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            max_chunk_bytes: self.max_chunk_bytes,
            max_workgroups: u64::from(limits.max_compute_workgroups_per_dimension).pow(2),
        }
    }
}

/// Refuses a device that can't run the smallest kernels.
fn check_limits(adapter: &str, limits: &wgpu::Limits) -> Result<()> {
    for (name, needed, has) in [
        // What a product binds: codes, scales, vectors, bias, results.
        ("max_storage_buffers_per_shader_stage", 5, u64::from(limits.max_storage_buffers_per_shader_stage)),
        ("max_uniform_buffers_per_shader_stage", 1, u64::from(limits.max_uniform_buffers_per_shader_stage)),
        ("max_compute_invocations_per_workgroup", 64, u64::from(limits.max_compute_invocations_per_workgroup)),
        ("max_compute_workgroup_size_x", 64, u64::from(limits.max_compute_workgroup_size_x)),
        ("max_compute_workgroups_per_dimension", 1, u64::from(limits.max_compute_workgroups_per_dimension)),
        ("max_storage_buffer_binding_size", MIN_BINDING_BYTES, limits.max_storage_buffer_binding_size),
        ("max_buffer_size", MIN_BINDING_BYTES, limits.max_buffer_size),
    ] {
        if has < needed {
            return Err(Error::Refused(format!(
                "the device on {adapter} was made with {name} = {has}, and the kernels need {needed}"
            )));
        }
    }
    Ok(())
}

/// The optional features that are of use on this adapter.
fn useful_features(info: &wgpu::AdapterInfo) -> wgpu::Features {
    let pairs = match info.device_type {
        wgpu::DeviceType::Cpu => wgpu::Features::SHADER_INT64,
        _ => wgpu::Features::empty(),
    };
    wgpu::Features::SUBGROUP | pairs | unified_memory(info)
}

/// Whether the host, on which software adapters run, has registers of 512 bits.
fn has_wide_registers() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The feature by which a device with unified memory does without staging; none for another's, where it would be slow.
fn unified_memory(info: &wgpu::AdapterInfo) -> wgpu::Features {
    match info.device_type {
        wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::Cpu => wgpu::Features::MAPPABLE_PRIMARY_BUFFERS,
        _ => wgpu::Features::empty(),
    }
}

/// Whether workgroups are large enough for the tile shapes.
fn has_tile_limits(limits: &wgpu::Limits) -> bool {
    limits.max_compute_invocations_per_workgroup >= 256
        && limits.max_compute_workgroup_size_x >= 256
        && limits.max_compute_workgroup_storage_size >= 16 << 10
}

/// The data under a lock, also after a panic elsewhere: what is stored is never half-written.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A driver's message as one sentence.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Copies to byte `at` of `to`.
fn copy_to(to: &mut [u8], at: u64, from: &[u8]) {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    to[at..at + from.len()].copy_from_slice(from);
}
