//! A real model's weights, on every adapter there is. `cargo xtask test` fetches the checkpoint first.

use std::path::{Path, PathBuf};

use wgquant::Format;
use wgquant::checkpoint::PackedFile;

use crate::common::{Folder, failure};

/// All-MiniLM-L6-v2 as it was published: 22.7 M weights in `f32`.
pub(crate) fn checkpoint() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join(".fixtures/all-minilm-l6-v2/model.safetensors");
    let path =
        path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}: run `cargo xtask test`", path.display()));
    assert_eq!(path.metadata().unwrap().len(), 90_868_376, "{} is damaged: run `cargo xtask test`", path.display());
    path
}

/// What `WGQUANT_TEST_ADAPTERS` promises, or else every adapter there is, as `--device` takes them. None is a failure.
pub(crate) fn adapters() -> Vec<String> {
    let names: Vec<String> = match std::env::var("WGQUANT_TEST_ADAPTERS") {
        Ok(names) => names.split(',').map(str::to_owned).collect(),
        Err(_) => {
            let adapters = pollster::block_on(wgquant::gpu::adapters());
            adapters.iter().map(|adapter| format!("{}:{}", adapter.backend, adapter.name)).collect()
        }
    };
    assert!(!names.is_empty(), "there is no GPU adapter, not even a software one: run `cargo xtask test`");
    names
}

/// The same file from the CPU and from every adapter, in every format; then one byte of it is changed, and found.
#[test]
fn every_device_gives_the_same_file() {
    let (checkpoint, adapters) = (checkpoint(), adapters());
    let input = checkpoint.to_str().unwrap();
    for &format in Format::ALL {
        let folder = Folder::new();
        let quantize = |output: &str, device: &str| {
            let args = ["quantize", input, "-o", output, "--format", format.name(), "--device", device];
            let report = folder.json(&[&args[..], &["--verify", "full"]].concat());
            let tensors = report["tensors"].as_array().unwrap();
            let quantized: Vec<_> = tensors.iter().filter(|tensor| tensor["action"] == "quantized").collect();
            assert_eq!(quantized.len(), 39, "{format} on {device}: matrices of this model");
            assert!(quantized.iter().all(|tensor| tensor["verified"] == "full"), "{format} on {device}");
        };
        let dequantize = |output: &str, device: &str| {
            folder.ok(&["dequantize", "cpu", "-o", output, "--device", device, "--quiet"]);
        };
        quantize("cpu", "cpu");
        dequantize("cpu.back", "cpu");
        let (packed, back) = (folder.read("cpu"), folder.read("cpu.back"));
        for device in &adapters {
            quantize("gpu", device);
            assert!(folder.read("gpu") == packed, "{format}: {device} gives another file than the CPU");
            dequantize("gpu.back", device);
            assert!(folder.read("gpu.back") == back, "{format}: {device} gives other values than the CPU");
            for name in ["gpu", "gpu.back"] {
                std::fs::remove_file(folder.path(name)).unwrap();
            }
        }
        folder.ok(&["verify", input, "cpu", "--quiet"]);
        one_byte_is_found(&folder, input, format, packed);
    }
}

/// A byte in the middle of the largest weight's codes.
fn one_byte_is_found(folder: &Folder, input: &str, format: Format, mut packed: Vec<u8>) {
    const WEIGHT: &str = "embeddings.word_embeddings.weight";
    let native = PackedFile::open(&folder.path("cpu")).unwrap();
    let file = native.source();
    let codes = file.tensors().iter().find(|tensor| tensor.name == WEIGHT).unwrap();
    let at = codes.n_bytes / 2 + 5;
    let position = file.n_bytes() - file.data_bytes() + codes.offset + at;
    packed[usize::try_from(position).unwrap()] ^= 0x11;
    folder.write("damaged", &packed);
    let output = folder.run(&["verify", input, "damaged", "--quiet"]);
    let block = at / format.info().block_codes_bytes() as u64;
    failure(&output, 1, &format!("tensor {WEIGHT:?}, block {block}: the code byte of element "));
}
