//! The example `embed`: a real model on every adapter, held to the vectors that sentence-transformers gives, and from packed
//! weights to the same model with weights that were quantized and dequantized on the CPU.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use wgquant::Format;

const README: &str = include_str!("../README.md");
const REFERENCE: &str = include_str!("../examples/embed/reference.json");

/// What may lie between the example in f32 and sentence-transformers, as 1 - cosine.
const FAR: f64 = 1e-4;

/// What may lie between packed weights and the same values in f32: both add up in f32, in other orders.
const NEAR: f64 = 1e-9;

/// All-MiniLM-L6-v2 as it was published.
fn model() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".fixtures/all-minilm-l6-v2");
    assert!(folder.join("model.safetensors").exists(), "{} is missing: run `cargo xtask test`", folder.display());
    folder
}

/// The example. Cargo builds examples beside the tests; where it is told of one test alone, what was built last is run.
fn example() -> Command {
    let mut path: PathBuf = std::env::current_exe().expect("this test's own path");
    path.pop();
    path.pop();
    Command::new(path.join("examples/embed"))
}

/// The runs of the example with these arguments.
fn embed(args: &[&str], sentences: &[&str]) -> Vec<Value> {
    let output = example().arg("--json").args(args).arg("--").args(sentences).output().expect("the example is built");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    eprintln!("on {}", document["adapter"]);
    document["runs"].as_array().expect("runs").clone()
}

fn vector(value: &Value) -> Vec<f64> {
    value.as_array().expect("a vector").iter().map(|x| x.as_f64().expect("a number")).collect()
}

fn vectors(run: &Value) -> Vec<Vec<f64>> {
    run["vectors"].as_array().expect("vectors").iter().map(vector).collect()
}

/// 1 - cosine.
fn distance(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len(), "vectors of one length");
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    1.0 - dot(x, y) / (dot(x, x) * dot(y, y)).sqrt()
}

/// The largest distance between vectors in the same places. NaN would be lost in a maximum.
fn farthest(xs: &[Vec<f64>], ys: &[Vec<f64>]) -> f64 {
    assert!(!xs.is_empty() && xs.len() == ys.len(), "as many vectors, and some");
    let distances: Vec<f64> = xs.iter().zip(ys).map(|(x, y)| distance(x, y)).collect();
    assert!(distances.iter().all(|distance| distance.is_finite()), "{distances:?}");
    distances.into_iter().fold(0.0, f64::max)
}

#[test]
fn f32_embeddings_are_those_of_sentence_transformers() {
    let reference: Value = serde_json::from_str(REFERENCE).expect("JSON");
    let reference = reference["sentences"].as_array().expect("sentences");
    let sentences: Vec<&str> = reference.iter().map(|entry| entry["text"].as_str().expect("text")).collect();
    let wanted: Vec<Vec<f64>> = reference.iter().map(|entry| vector(&entry["vector"])).collect();
    assert_eq!(wanted.len(), 10);
    for adapter in common::adapter_names() {
        let runs = embed(&["--adapter", &adapter, "--f32-only"], &sentences);
        let found = vectors(&runs[0]);
        let far = farthest(&found, &wanted);
        eprintln!("{adapter}: {far:e} at most");
        assert!(far <= FAR, "{adapter}: {far}");

        // Negative control: no sentence passes for another one.
        for (ix, other) in wanted.iter().enumerate() {
            let near = found.iter().enumerate().filter(|(at, _)| *at != ix).map(|(_, x)| distance(x, other));
            assert!(
                near.fold(f64::INFINITY, f64::min) > 100.0 * FAR,
                "{adapter}: {:?} is not told apart",
                sentences[ix]
            );
        }
    }
}

/// Runs every format. The model with dequantized weights, which runs in f32, is the measure of its products; the README of
/// its size.
#[test]
fn packed_weights_give_what_their_values_give() {
    let sentences = ["A cat sits on the mat.", "Où est la gare?", "Interest rates rose by 0.5 % in June 1998."];
    let adapters = common::adapter_names();
    let first = ["--adapter", adapters[0].as_str(), "--f32-only"];
    let exact = vectors(&embed(&first, &sentences)[0]);
    for &format in Format::ALL {
        let folder = tempfile::tempdir().expect("a folder");
        write_model(folder.path(), |_, weights| {
            let packed = wgquant::quantize(format, &weights).expect("weights that can be packed");
            wgquant::dequantize_f32(&packed).expect("sound codes")
        });
        let folder = folder.path().to_str().expect("text");
        let wanted = vectors(&embed(&[&first[..], &["--model", folder]].concat(), &sentences)[0]);
        for adapter in &adapters {
            let runs = embed(&["--adapter", adapter, "--format", format.name()], &sentences);
            let found = vectors(&runs[1]);
            let (near, far) = (farthest(&found, &wanted), farthest(&found, &exact));
            eprintln!("{format} on {adapter}: {near:e} from its values, {far:e} from f32");
            assert!(near <= NEAR, "{format} on {adapter}: {near}");
            // Negative control: the bound tells the format from f32.
            assert!(far > 1e4 * NEAR && far < 0.5, "{format} on {adapter}: {far}");
            let row = format!("| `{format}` | {:.1} MB |", runs[1]["device_bytes"].as_f64().expect("bytes") / 1e6);
            assert!(README.contains(&row), "the README should have: {row}");
        }
    }
}

/// Writes the model with its matrices changed.
fn write_model(folder: &Path, change: impl Fn(&str, Vec<f32>) -> Vec<f32>) {
    let bytes = std::fs::read(model().join("model.safetensors")).expect("weights");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let changed = tensors.iter().map(|(name, tensor)| {
        let data = match tensor.shape() {
            [_, _] if tensor.dtype() == safetensors::Dtype::F32 => {
                bytemuck::pod_collect_to_vec(&change(name, bytemuck::pod_collect_to_vec(tensor.data())))
            }
            _ => tensor.data().to_vec(),
        };
        (name.to_owned(), Changed { dtype: tensor.dtype(), shape: tensor.shape().to_vec(), data })
    });
    safetensors::serialize_to_file(changed, None, &folder.join("model.safetensors")).expect("a place for the weights");
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(model().join(name), folder.join(name)).expect("a copy");
    }
}

/// A tensor of the changed model.
struct Changed {
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl safetensors::View for Changed {
    fn dtype(&self) -> safetensors::Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        (&self.data).into()
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}

#[test]
fn what_is_wrong_is_said() {
    let adapter = common::adapter_names().swap_remove(0);
    let folder = tempfile::tempdir().expect("a folder");
    let error = || {
        let args = ["--adapter", &adapter, "--format", "sym4", "--model"];
        let output = example().args(args).arg(folder.path()).output().expect("the example is built");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(error().contains("tokenizer.json"), "{}", error());

    for name in ["tokenizer.json", "model.safetensors"] {
        std::fs::copy(model().join(name), folder.path().join(name)).expect("a copy");
    }
    assert!(error().contains("config.json has no number \"hidden_size\""), "{}", error());

    let damaged = "encoder.layer.3.output.dense.weight";
    write_model(folder.path(), |name, mut weights| {
        if name == damaged {
            weights[1000] = f32::NAN;
        }
        weights
    });
    assert!(error().contains(&format!("{damaged} has NaN or infinite weights")), "{}", error());
}
