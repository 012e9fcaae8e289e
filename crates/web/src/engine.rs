//! What quantizes: the CPU path, or a GPU that JavaScript has opened.

use std::rc::Rc;

use js_sys::{Function, Uint8Array};
use wasm_bindgen::prelude::*;
use wgquant::checkpoint::Storage;
use wgquant::gpu::{BufferAt, DevicePacked, Product, Shape};
use wgquant::verify::{ErrorFigures, verify_tensor};
use wgquant::{Dtype, Engine, Error, Gpu, Weights};

use crate::errors::{JsResult, n_elems, named, refused, thrown};
use crate::packed::RawPacked;
use crate::progress::Callback;
use crate::report;
use crate::storage::{JsStorage, Stored, as_number, to_js};

/// What a piece's largest buffer has at most: small, so that a tab's memory stays small.
const CHUNK_BYTES: u64 = 16 << 20;

/// Where wgpu gets its device: what `navigator.gpu` is when this is made.
#[wasm_bindgen(js_name = RawInstance)]
#[derive(Debug)]
pub struct RawInstance(wgpu::Instance);

#[wasm_bindgen(js_class = RawInstance)]
impl RawInstance {
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self(wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::BROWSER_WEBGPU,
            flags: wgpu::InstanceFlags::empty(),
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        }))
    }
}

/// An engine, and perhaps another that goes on with a job on files if the first drops out.
#[wasm_bindgen(js_name = RawEngine)]
#[derive(Debug)]
pub struct RawEngine(pub(crate) Rc<Engines>);

/// See [`RawEngine`].
#[derive(Debug)]
pub(crate) struct Engines {
    all: Vec<Engine>,
}

impl Engines {
    fn new(first: Engine, goes_on: bool) -> Rc<Self> {
        let mut all = vec![first];
        all.extend(goes_on.then_some(Engine::Cpu));
        Rc::new(Self { all })
    }

    /// The one that works.
    pub(crate) fn first(&self) -> &Engine {
        self.all.first().unwrap_or(&Engine::Cpu)
    }

    fn gpu(&self) -> JsResult<&Gpu> {
        match self.first() {
            Engine::Gpu(gpu) => Ok(gpu),
            Engine::Cpu => Err(refused("products run on a GPU, and this engine is the CPU")),
        }
    }
}

impl AsRef<[Engine]> for Engines {
    fn as_ref(&self) -> &[Engine] {
        &self.all
    }
}

#[wasm_bindgen(js_class = RawEngine)]
impl RawEngine {
    /// The CPU path, on this thread.
    pub fn cpu() -> Self {
        Self(Engines::new(Engine::Cpu, false))
    }

    /// The device that the instance's first adapter gives. `shape` is one of the kernels' shapes, or nothing for the one that
    /// suits the device; `goes_on` lets the CPU do what is left if the device is lost.
    pub async fn gpu(instance: RawInstance, shape: Option<String>, goes_on: bool) -> JsResult<Self> {
        let failed = |error: String| refused(&format!("the GPU could not be opened: {error}"));
        let options = wgpu::RequestAdapterOptions::default();
        let adapter = instance.0.request_adapter(&options).await.map_err(|error| failed(error.to_string()))?;
        let descriptor = wgpu::DeviceDescriptor::default();
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(|error| failed(error.to_string()))?;
        let mut gpu = Gpu::from_device(device, queue).map_err(thrown)?.with_max_chunk_bytes(CHUNK_BYTES);
        if let Some(name) = shape {
            let shape = Shape::from_name(&name).ok_or_else(|| refused(&format!("there is no shape {name:?}")))?;
            gpu = gpu.with_shape(shape);
        }
        Ok(Self(Engines::new(Engine::Gpu(gpu), goes_on)))
    }

    pub async fn quantize(
        &self,
        format: String,
        dtype: String,
        weights: JsStorage,
        progress: Function,
    ) -> JsResult<RawPacked> {
        let (format, dtype) = (named(&format)?, named(&dtype)?);
        let (weights, progress) = (Stored::new(weights), Callback::new(progress));
        let n_elems = n_elems(&weights, dtype)?;
        let width = dtype.n_bytes() as u64;
        let read = |first: u64, bytes: &mut [u8]| {
            let read = weights.read_range(first * width, bytes);
            read.map_err(|source| Error::Io { what: "the weights can't be read".to_owned(), source })
        };
        let done = |n| progress.tell(n * width, n_elems * width);
        let packed = self.0.first().quantize_to_memory(format, dtype, n_elems, read, done).await;
        packed.map(RawPacked).map_err(thrown)
    }

    pub async fn dequantize(
        &self,
        packed: &RawPacked,
        dtype: String,
        values: JsStorage,
        progress: Function,
    ) -> JsResult<()> {
        let dtype: Dtype = named(&dtype)?;
        let (values, progress) = (Stored::new(values), Callback::new(progress));
        let width = dtype.n_bytes() as u64;
        let write = |first: u64, bytes: &[u8]| {
            let written = values.write_range(first * width, bytes);
            written.map_err(|source| Error::Io { what: "the values can't be written".to_owned(), source })?;
            progress.tell(first * width + bytes.len() as u64, packed.0.n_elems() * width)
        };
        self.0.first().dequantize_from_memory(&packed.0, dtype, write).await.map_err(thrown)
    }

    /// Brings a packed tensor to the GPU, to be multiplied.
    pub async fn upload(&self, packed: &RawPacked) -> JsResult<RawWeights> {
        let packed = self.0.gpu()?.upload(&packed.0).await.map_err(thrown)?;
        Ok(RawWeights { engines: Rc::clone(&self.0), packed })
    }
}

/// Holds packed weights against the ones that they came from; gives the error's figures as JSON.
#[wasm_bindgen(js_name = verifyTensor)]
pub fn verify_packed_tensor(dtype: &str, weights: Vec<u8>, packed: &RawPacked) -> JsResult<String> {
    let weights = Weights::from_le_bytes(named(dtype)?, &weights).map_err(thrown)?;
    let figures: ErrorFigures = verify_tensor(weights, &packed.0).map_err(thrown)?;
    report::to_json(&wgquant::checkpoint::Figures::from(Some(&figures)))
}

/// Packed weights in the GPU's memory.
#[wasm_bindgen(js_name = RawWeights)]
#[derive(Debug)]
pub struct RawWeights {
    engines: Rc<Engines>,
    packed: DevicePacked,
}

#[wasm_bindgen(js_class = RawWeights)]
impl RawWeights {
    #[wasm_bindgen(getter, js_name = deviceBytes)]
    pub fn device_bytes(&self) -> f64 {
        as_number(self.packed.device_bytes())
    }

    /// `x` times the transpose of the weights, plus a bias: bytes of `dtype`.
    pub async fn product(
        &self,
        n_rows: u32,
        n_cols: u32,
        dtype: String,
        x: Vec<u8>,
        bias: Option<Vec<u8>>,
    ) -> JsResult<Uint8Array> {
        let gpu = self.engines.gpu()?;
        let activations: Dtype = named(&dtype)?;
        let width = activations.n_bytes();
        let n_vectors = u32::try_from(x.len() / width / (n_cols.max(1) as usize)).unwrap_or(u32::MAX);
        if n_vectors as usize * n_cols as usize * width != x.len() {
            return Err(refused(&format!("{} elements are no whole number of vectors of {n_cols}", x.len() / width)));
        }
        if bias.as_ref().is_some_and(|bias| bias.len() != n_rows as usize * width) {
            return Err(refused(&format!("a bias has one number for each of the {n_rows} rows")));
        }
        let y_bytes = n_vectors as usize * n_rows as usize * width;
        let (x, y) = (filled(gpu, &x), empty(gpu, y_bytes));
        let bias = bias.map(|bias| filled(gpu, &bias));
        let at = |buffer: &Temporary| BufferAt { buffer: buffer.0.clone(), offset: 0 };
        let product = Product {
            weights: &self.packed,
            n_rows,
            n_cols,
            x: at(&x),
            n_vectors,
            activations,
            bias: bias.as_ref().map(at),
            y: at(&y),
        };
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        gpu.record_product(&mut encoder, &product).await.map_err(thrown)?;
        gpu.queue().submit([encoder.finish()]);
        let bytes = gpu.read_at(&at(&y), y_bytes.next_multiple_of(4) as u64).await.map_err(thrown)?;
        Ok(to_js(&bytes[..y_bytes]))
    }
}

impl Drop for RawWeights {
    fn drop(&mut self) {
        self.packed.destroy();
    }
}

/// A buffer that is freed at its end, and not when the browser's garbage collector runs.
struct Temporary(wgpu::Buffer);

impl Drop for Temporary {
    fn drop(&mut self) {
        self.0.destroy();
    }
}

/// A buffer for so many bytes, whole words.
fn empty(gpu: &Gpu, n_bytes: usize) -> Temporary {
    use wgpu::BufferUsages as Usage;
    let descriptor = wgpu::BufferDescriptor {
        label: Some("wgquant product"),
        size: n_bytes.next_multiple_of(4) as u64,
        usage: Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST,
        mapped_at_creation: false,
    };
    Temporary(gpu.device().create_buffer(&descriptor))
}

/// A buffer that holds `bytes`.
fn filled(gpu: &Gpu, bytes: &[u8]) -> Temporary {
    let buffer = empty(gpu, bytes.len());
    let mut words = bytes.to_vec();
    words.resize(bytes.len().next_multiple_of(4), 0);
    gpu.queue().write_buffer(&buffer.0, 0, &words);
    buffer
}
