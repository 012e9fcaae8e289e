//! The model, a BERT: its parts, how they are loaded, and how a batch goes through them. All of it stays on the device.

use std::path::Path;

use anyhow::{Result, ensure};
use wgpu::util::DeviceExt as _;
use wgquant::{Format, Gpu};

use crate::kernels::Kernels;
use crate::matrix::Matrix;
use crate::text::{Batch, to_u32};
use crate::weights::{Loader, storage};

#[derive(Debug)]
pub(crate) struct Model {
    n_cols: u32,
    n_heads: u32,
    eps: f32,
    n_bytes: u64,
    words: Matrix,
    positions: Matrix,
    types: Matrix,
    norm: Norm,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    mixed: Linear,
    mixed_norm: Norm,
    wide: Linear,
    narrow: Linear,
    narrow_norm: Norm,
}

/// y = W · x + bias.
#[derive(Debug)]
struct Linear {
    weight: Matrix,
    bias: wgpu::Buffer,
}

/// LayerNorm.
#[derive(Debug)]
struct Norm {
    scale: wgpu::Buffer,
    bias: wgpu::Buffer,
}

impl Model {
    /// Loads the model in `folder`: its matrices in `format`, or in f32.
    pub(crate) async fn load(gpu: &Gpu, folder: &Path, format: Option<Format>) -> Result<Self> {
        let mut loader = Loader::new(gpu, folder, format)?;
        let count = |key| loader.config(key).map(|number| number as u32);
        let (n_cols, n_heads, n_wide) =
            (count("hidden_size")?, count("num_attention_heads")?, count("intermediate_size")?);
        let (n_words, n_positions, n_types) =
            (count("vocab_size")?, count("max_position_embeddings")?, count("type_vocab_size")?);
        let n_layers = count("num_hidden_layers")?;
        let eps = loader.config("layer_norm_eps")? as f32;
        ensure!(
            n_heads > 0 && n_cols.is_multiple_of(64) && n_cols.is_multiple_of(4 * n_heads) && n_wide.is_multiple_of(64),
            "{n_cols} and {n_wide} columns and {n_heads} heads: this example's kernels don't fit this model"
        );

        let words = loader.matrix("embeddings.word_embeddings.weight", n_words, n_cols).await?;
        let positions = loader.matrix("embeddings.position_embeddings.weight", n_positions, n_cols).await?;
        let types = loader.matrix("embeddings.token_type_embeddings.weight", n_types, n_cols).await?;
        let norm = Norm::load(&mut loader, "embeddings.LayerNorm", n_cols)?;
        let mut layers = Vec::new();
        for ix in 0..n_layers {
            layers.push(Layer::load(&mut loader, ix, n_cols, n_wide).await?);
        }
        let n_bytes = loader.finish().await?;
        Ok(Self { n_cols, n_heads, eps, n_bytes, words, positions, types, norm, layers })
    }

    /// Bytes of device memory that the weights take.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Vectors of the batch's sentences. Nothing comes back to the host before them.
    pub(crate) async fn embed(&self, gpu: &Gpu, kernels: &Kernels, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let (n_tokens, n_sentences, n_cols4) = (batch.n_tokens(), batch.n_sentences(), self.n_cols / 4);
        let device = gpu.device();
        let floats = |label, n: u32| storage(device, label, u64::from(n) * 4);
        let input = |label, contents| {
            let usage = wgpu::BufferUsages::STORAGE;
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: Some(label), contents, usage })
        };
        let tokens = input("tokens", bytemuck::cast_slice(&batch.tokens));
        let sentences = input("sentences", bytemuck::cast_slice(&batch.sentences));
        let rows = |label, n: u32| floats(label, n * self.n_cols);
        let (words, positions, types) =
            (rows("words", to_u32(batch.words.len())), rows("positions", batch.longest), rows("types", 1));
        let work = Work {
            x: rows("x", n_tokens),
            y: rows("y", n_tokens),
            q: rows("q", n_tokens),
            k: rows("k", n_tokens),
            v: rows("v", n_tokens),
            weights: floats("attention weights", n_tokens * self.n_heads * batch.longest),
            wide: floats("wide", n_tokens * self.layers.first().map_or(0, |layer| layer.wide.weight.n_rows)),
        };
        let vectors = rows("vectors", n_sentences);

        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.words.record_rows(gpu, &mut encoder, &batch.words, &words).await?;
        self.positions.record_rows(gpu, &mut encoder, &(0..batch.longest).collect::<Vec<_>>(), &positions).await?;
        self.types.record_rows(gpu, &mut encoder, &[0], &types).await?;
        let buffers = [&tokens, &words, &positions, &types, &work.x, &work.y];
        kernels.gather.record(&mut encoder, [n_tokens, n_cols4, 0, 0], &buffers, n_tokens * n_cols4);
        let mut recorder = Recorder { model: self, gpu, kernels, encoder, batch, tokens, work };
        recorder.add_norm(&self.norm);
        for layer in &self.layers {
            recorder.layer(layer).await?;
        }
        let Recorder { mut encoder, work, .. } = recorder;
        kernels.pool.record(&mut encoder, [n_sentences, n_cols4, 0, 0], &[&sentences, &work.x, &vectors], n_sentences);
        gpu.queue().submit([encoder.finish()]);

        let floats: Vec<f32> = bytemuck::pod_collect_to_vec(&gpu.read_buffer(&vectors).await?);
        Ok(floats.chunks(self.n_cols as usize).map(<[f32]>::to_vec).collect())
    }
}

/// What a batch takes of device memory while it goes through the layers.
#[derive(Debug, Clone)]
struct Work {
    /// The tokens' vectors.
    x: wgpu::Buffer,
    /// What is added to them next.
    y: wgpu::Buffer,
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    weights: wgpu::Buffer,
    wide: wgpu::Buffer,
}

/// Records a batch's way through the layers.
struct Recorder<'a> {
    model: &'a Model,
    gpu: &'a Gpu,
    kernels: &'a Kernels,
    encoder: wgpu::CommandEncoder,
    batch: &'a Batch,
    tokens: wgpu::Buffer,
    work: Work,
}

impl Recorder<'_> {
    async fn layer(&mut self, layer: &Layer) -> Result<()> {
        let Work { x, y, q, k, v, weights, wide } = self.work.clone();
        self.linear(&layer.query, &x, &q).await?;
        self.linear(&layer.key, &x, &k).await?;
        self.linear(&layer.value, &x, &v).await?;
        let (n_tokens, n_heads, head4) =
            (self.batch.n_tokens(), self.model.n_heads, self.model.n_cols / self.model.n_heads / 4);
        let params = [n_tokens, n_heads, head4, self.batch.longest];
        let buffers = [&self.tokens, &q, &k, &weights];
        self.kernels.attention_weights.record(&mut self.encoder, params, &buffers, n_tokens * n_heads);
        // The queries have done their work: their place takes what comes of the values.
        let (mixed, buffers) = (&q, [&self.tokens, &weights, &v, &q]);
        self.kernels.attention_mix.record(&mut self.encoder, params, &buffers, n_tokens * n_heads * head4);
        self.linear(&layer.mixed, mixed, &y).await?;
        self.add_norm(&layer.mixed_norm);

        self.linear(&layer.wide, &x, &wide).await?;
        let n4 = n_tokens * layer.wide.weight.n_rows / 4;
        self.kernels.gelu.record(&mut self.encoder, [n4, 0, 0, 0], &[&wide], n4);
        self.linear(&layer.narrow, &wide, &y).await?;
        self.add_norm(&layer.narrow_norm);
        Ok(())
    }

    async fn linear(&mut self, linear: &Linear, x: &wgpu::Buffer, y: &wgpu::Buffer) -> Result<()> {
        let Linear { weight, bias } = linear;
        weight.record_product(self.gpu, self.kernels, &mut self.encoder, x, self.batch.n_tokens(), bias, y).await
    }

    /// x = LayerNorm(x + y).
    fn add_norm(&mut self, norm: &Norm) {
        let n_tokens = self.batch.n_tokens();
        let params = [n_tokens, self.model.n_cols / 4, self.model.eps.to_bits(), 0];
        let buffers = [&self.work.x, &self.work.y, &norm.scale, &norm.bias];
        self.kernels.add_norm.record(&mut self.encoder, params, &buffers, n_tokens);
    }
}

impl Layer {
    async fn load(loader: &mut Loader<'_>, ix: u32, n_cols: u32, n_wide: u32) -> Result<Self> {
        let name = |part: &str| format!("encoder.layer.{ix}.{part}");
        Ok(Self {
            query: Linear::load(loader, &name("attention.self.query"), n_cols, n_cols).await?,
            key: Linear::load(loader, &name("attention.self.key"), n_cols, n_cols).await?,
            value: Linear::load(loader, &name("attention.self.value"), n_cols, n_cols).await?,
            mixed: Linear::load(loader, &name("attention.output.dense"), n_cols, n_cols).await?,
            mixed_norm: Norm::load(loader, &name("attention.output.LayerNorm"), n_cols)?,
            wide: Linear::load(loader, &name("intermediate.dense"), n_wide, n_cols).await?,
            narrow: Linear::load(loader, &name("output.dense"), n_cols, n_wide).await?,
            narrow_norm: Norm::load(loader, &name("output.LayerNorm"), n_cols)?,
        })
    }
}

impl Linear {
    async fn load(loader: &mut Loader<'_>, name: &str, n_rows: u32, n_cols: u32) -> Result<Self> {
        let weight = loader.matrix(&format!("{name}.weight"), n_rows, n_cols).await?;
        let bias = loader.vector(&format!("{name}.bias"), n_rows)?;
        Ok(Self { weight, bias })
    }
}

impl Norm {
    fn load(loader: &mut Loader<'_>, name: &str, n_cols: u32) -> Result<Self> {
        let scale = loader.vector(&format!("{name}.weight"), n_cols)?;
        let bias = loader.vector(&format!("{name}.bias"), n_cols)?;
        Ok(Self { scale, bias })
    }
}
