//! A model's weights in device memory: matrices in f32 or packed on the device as they are loaded, vectors in f32.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use wgquant::checkpoint::{Source, StoredDtype, TensorInfo};
use wgquant::format::ScaleType;
use wgquant::gpu::DevicePacked;
use wgquant::{Dtype, Format, Gpu};

use crate::matrix::{Matrix, Values};

/// Bytes that are read and uploaded at once.
const PIECE_BYTES: usize = 4 << 20;

/// Reads a model's tensors and puts them into device memory.
#[derive(Debug)]
pub(crate) struct Loader<'a> {
    gpu: &'a Gpu,
    source: Source,
    format: Option<Format>,
    /// Room for the largest matrix in f32, where matrices are packed; each is there only until it is packed.
    unpacked: wgpu::Buffer,
    n_bytes: u64,
    /// Name and status of all that was packed.
    statuses: Vec<(String, wgpu::Buffer)>,
}

impl<'a> Loader<'a> {
    /// Opens the model in `folder`. Without a format, matrices stay in f32.
    pub(crate) fn new(gpu: &'a Gpu, folder: &Path, format: Option<Format>) -> Result<Self> {
        let source = Source::open(folder)?;
        let matrices = source.tensors().iter().filter(|tensor| tensor.shape.len() == 2 && format.is_some());
        let largest = matrices.map(|tensor| tensor.n_bytes).max().unwrap_or(0).next_multiple_of(16).max(16);
        let unpacked = storage(gpu.device(), "a matrix before packing", largest);
        Ok(Self { gpu, source, format, unpacked, n_bytes: 0, statuses: Vec::new() })
    }

    /// Waits for all that was packed, and gives the bytes of device memory that the tensors take.
    pub(crate) async fn finish(self) -> Result<u64> {
        for (name, status) in &self.statuses {
            let words = self.gpu.read_buffer(status).await?;
            ensure!(words.iter().all(|&byte| byte == 0), "{name} has NaN or infinite weights, which no format holds");
        }
        Ok(self.n_bytes)
    }

    /// A number of the model's config.json.
    pub(crate) fn config(&self, key: &str) -> Result<f64> {
        let number = self.source.config().and_then(|config| config.get(key)?.as_f64());
        number.with_context(|| format!("the model's config.json has no number {key:?}"))
    }

    /// Loads a vector of `n` numbers, as it is.
    pub(crate) fn vector(&mut self, name: &str, n: u32) -> Result<wgpu::Buffer> {
        let tensor = self.find(name, &[n.into()])?;
        let buffer = storage(self.gpu.device(), name, tensor.n_bytes);
        self.upload(&tensor, &buffer)?;
        self.n_bytes += buffer.size();
        Ok(buffer)
    }

    /// Loads a matrix, and packs it if there is a format.
    pub(crate) async fn matrix(&mut self, name: &str, n_rows: u32, n_cols: u32) -> Result<Matrix> {
        let tensor = self.find(name, &[n_rows.into(), n_cols.into()])?;
        let values = match self.format {
            None => {
                let buffer = storage(self.gpu.device(), name, tensor.n_bytes);
                self.upload(&tensor, &buffer)?;
                self.n_bytes += buffer.size();
                Values::F32(buffer)
            }
            Some(format) => {
                self.upload(&tensor, &self.unpacked)?;
                let packed = self.pack(format, tensor.n_elems()).await.with_context(|| name.to_owned())?;
                self.n_bytes += packed.device_bytes();
                self.statuses.push((name.to_owned(), packed.status().buffer.clone()));
                Values::Packed(packed)
            }
        };
        Ok(Matrix { n_rows, n_cols, values })
    }

    fn find(&self, name: &str, shape: &[u64]) -> Result<TensorInfo> {
        let tensor = self.source.find(name).with_context(|| format!("the model has no tensor {name}"))?;
        ensure!(
            tensor.dtype == StoredDtype::F32 && tensor.shape == shape,
            "{name} is {} {:?}, and this example takes F32 {shape:?} there",
            tensor.dtype,
            tensor.shape
        );
        Ok(tensor.clone())
    }

    /// Uploads a tensor in pieces: host memory does not depend on its size.
    fn upload(&self, tensor: &TensorInfo, buffer: &wgpu::Buffer) -> Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        for at in (0..tensor.n_bytes).step_by(PIECE_BYTES) {
            let n_bytes = usize::try_from(tensor.n_bytes - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let piece = piece.get_mut(..n_bytes).unwrap_or_default();
            self.source.read_at(tensor.offset + at, piece)?;
            self.gpu.queue().write_buffer(buffer, at, piece);
            self.gpu.queue().submit([]);
        }
        Ok(())
    }

    /// Packs what is in `unpacked`, on the device.
    async fn pack(&self, format: Format, n_elems: u64) -> Result<DevicePacked> {
        let mut encoder = self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let packed = self.gpu.record_quantize(&mut encoder, format, Dtype::F32, n_elems, &self.unpacked).await?;
        self.gpu.queue().submit([encoder.finish()]);
        match format.info().scale {
            // Scales that are quantized in turn need the mean of all of them, which the host takes.
            ScaleType::Nested => Ok(self.gpu.upload(&self.gpu.download(&packed).await?).await?),
            _ => Ok(packed),
        }
    }
}

/// A buffer for kernels, which may be copied from and to.
pub(crate) fn storage(device: &wgpu::Device, label: &str, n_bytes: u64) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: n_bytes,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}
