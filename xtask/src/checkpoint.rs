//! A synthetic checkpoint of any size: bf16, in shards, with one tensor larger than most bindings.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Columns of every matrix.
const COLUMNS: u64 = 4096;
const ELEMENT_BYTES: u64 = 2;

/// A tensor: name and rows.
struct Tensor {
    name: String,
    rows: u64,
}

impl Tensor {
    fn n_bytes(&self) -> u64 {
        self.rows * COLUMNS * ELEMENT_BYTES
    }
}

/// Makes a checkpoint of about `size` (`8GiB`) in `folder`; one that is there is left as it is.
pub(crate) fn make(root: &Path, size: &str) -> Result<()> {
    let n_bytes = parse(size)?;
    let folder = root.join(".fixtures").join(format!("synthetic-{size}"));
    if folder.join("model.safetensors.index.json").exists() {
        println!("    {} is there", folder.display());
        return Ok(());
    }
    std::fs::create_dir_all(&folder)?;
    let shards = shards(n_bytes);
    let mut index = Vec::new();
    let mut state = 1;
    for (number, tensors) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        index.extend(tensors.iter().map(|tensor| format!("\"{}\":\"{name}\"", tensor.name)));
        write_shard(&folder.join(&name), tensors, &mut state).with_context(|| format!("{name} can't be written"))?;
        println!("    {name}: {} tensors", tensors.len());
    }
    std::fs::write(folder.join("config.json"), "{\"model_type\":\"llama\",\"dtype\":\"bfloat16\"}\n")?;
    // Last, so that a checkpoint without one is known to be unfinished.
    let index = format!("{{\"metadata\":{{}},\"weight_map\":{{{}}}}}\n", index.join(","));
    std::fs::write(folder.join("model.safetensors.index.json"), index)?;
    println!("    {} is there", folder.display());
    Ok(())
}

fn parse(size: &str) -> Result<u64> {
    let unit = |suffix, shift| size.strip_suffix(suffix).and_then(|n| n.parse::<u64>().ok()).map(|n| n << shift);
    match unit("GiB", 30).or_else(|| unit("MiB", 20)) {
        Some(n_bytes) if n_bytes >= 64 << 20 => Ok(n_bytes),
        _ => bail!("{size:?} is no size of at least 64MiB, as in 512MiB or 8GiB"),
    }
}

/// Tensors of the usual sizes, four shards of them; one has 9/32 of all bytes, above 2 GiB of 8.
fn shards(n_bytes: u64) -> Vec<Vec<Tensor>> {
    let rows = n_bytes / (COLUMNS * ELEMENT_BYTES);
    let mut shards = vec![vec![Tensor { name: "model.embed_tokens.weight".to_owned(), rows: rows * 9 / 32 }]];
    let mut left = rows - rows * 9 / 32;
    let (per_shard, mut used, mut layer) = (left / 3, u64::MAX, 0);
    while left > 0 {
        if used >= per_shard {
            shards.push(Vec::new());
            used = 0;
        }
        for (name, rows) in [("self_attn.q_proj", 4096), ("mlp.up_proj", 14336), ("input_layernorm", 1)] {
            let rows = rows.min(left);
            if rows > 0 {
                let name = format!("model.layers.{layer}.{name}.weight");
                shards.last_mut().into_iter().for_each(|shard| shard.push(Tensor { name: name.clone(), rows }));
                (left, used) = (left - rows, used + rows);
            }
        }
        layer += 1;
    }
    shards
}

fn write_shard(path: &Path, tensors: &[Tensor], state: &mut u64) -> Result<()> {
    let (mut header, mut at) = (Vec::new(), 0);
    for tensor in tensors {
        let (start, end) = (at, at + tensor.n_bytes());
        header.push(format!(
            "\"{}\":{{\"dtype\":\"BF16\",\"shape\":[{},{COLUMNS}],\"data_offsets\":[{start},{end}]}}",
            tensor.name, tensor.rows
        ));
        at = end;
    }
    let header = format!("{{{}}}", header.join(","));
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for _ in 0..at / 8 {
        file.write_all(&next(state).to_le_bytes())?;
    }
    file.flush()?;
    Ok(())
}

/// Four bf16 of magnitudes between 2^-7 and 2, with signs and fractions at random (a xorshift generator).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state & 0x83ff_83ff_83ff_83ff | 0x3c00_3c00_3c00_3c00
}
