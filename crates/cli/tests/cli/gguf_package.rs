//! GGUF files against the Python package `gguf`, as it comes from PyPI. `cargo xtask test` installs it first.

use std::path::Path;
use std::process::Command;

use crate::common::{Folder, file, floats, stderr, tensor};
use crate::real_checkpoint::checkpoint;

/// Quantizes a file in each format, and lets the package read, dequantize and (but for mxfp4, whose ties ggml rounds
/// otherwise) quantize it; each time so many weights must have been compared.
fn compare(folder: &Folder, input: &Path, n_weights: u64) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let packages = root.join(".fixtures/gguf-0.19.0");
    assert!(packages.is_dir(), "{} is missing: run `cargo xtask test`", packages.display());
    for format in ["q4_0", "q8_0", "mxfp4"] {
        let input_name = input.to_str().unwrap();
        let args = ["quantize", input_name, "-o", "out.gguf", "--device", "cpu", "--force", "--format", format];
        folder.ok(&[&args[..], &["--container", "gguf", "--quiet"]].concat());
        folder.ok(&["dequantize", "out.gguf", "-o", "back", "--device", "cpu", "--force", "--dtype", "f32", "--quiet"]);
        let script = root.join("tests/interop/gguf_reader.py");
        let mut python = Command::new("python3");
        python.arg(script).arg(input).args(["out.gguf", "back"]).current_dir(folder.root());
        let output = python.env("PYTHONPATH", &packages).env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
        assert!(output.status.success(), "{format}: {}", stderr(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), n_weights.to_string(), "{format}");
    }
}

#[test]
fn it_reads_every_type() {
    let tensors = [
        floats("a.weight", "F32", &[70, 64], 1),
        floats("b.weight", "F16", &[65, 96], 2),
        floats("c.weight", "BF16", &[2, 3, 1024], 3),
        floats("four.weight", "F32", &[2, 3, 32, 32], 4),
        tensor("zeros.weight", "F32", &[64, 64], vec![0; 16384]),
        floats("norm", "F32", &[5000], 5),
        floats("half", "F16", &[7], 6),
        floats("double", "F64", &[3], 7),
        tensor("i8", "I8", &[3], vec![1, 2, 255]),
        tensor("i16", "I16", &[1], vec![1, 2]),
        tensor("i32", "I32", &[3], (0..12).collect()),
        tensor("i64", "I64", &[3], (0..24).collect()),
    ];
    let folder = Folder::with("in", &file(&tensors));
    compare(&folder, &folder.path("in"), 4480 + 6240 + 6144 + 6144 + 4096);
}

/// The whole real checkpoint: bytes, and values bit for bit.
#[test]
fn it_agrees_on_the_real_checkpoint() {
    compare(&Folder::new(), &checkpoint(), 22_681_344);
}
