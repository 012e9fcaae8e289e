//! Small checkpoints, folders that know what is in them, and runs of the binary.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use assert_cmd::Command;
use serde_json::{Map, Value, json};

/// A tensor to be written.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) name: &'static str,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn tensor(name: &'static str, dtype: &'static str, shape: &[u64], bytes: Vec<u8>) -> Tensor {
    Tensor { name, dtype, shape: shape.to_vec(), bytes }
}

/// `n` values between -1 and 1 that differ from seed to seed.
pub(crate) fn values(n: u64, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f32::from(i16::from_le_bytes([state.to_le_bytes()[6], state.to_le_bytes()[7]])) / 32768.0
        })
        .collect()
}

/// A float tensor of such values.
pub(crate) fn floats(name: &'static str, dtype: &'static str, shape: &[u64], seed: u64) -> Tensor {
    let values = values(shape.iter().product(), seed);
    let bytes = match dtype {
        "F32" => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        "F64" => values.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect(),
        "F16" => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        "BF16" => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => panic!("no float type {dtype}"),
    };
    tensor(name, dtype, shape, bytes)
}

/// A safetensors file of these tensors, one after the other. The header is padded to `header_bytes % 8 == odd`, so that
/// anything but 0 makes all tensors lie misaligned.
pub(crate) fn file_at(tensors: &[Tensor], metadata: &[(&str, &str)], odd: usize) -> Vec<u8> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        let entries: Map<_, _> = metadata.iter().map(|&(key, value)| (key.to_owned(), value.into())).collect();
        header.insert("__metadata__".to_owned(), Value::Object(entries));
    }
    let mut data = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend(&tensor.bytes);
        let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()] });
        header.insert(tensor.name.to_owned(), entry);
    }
    raw_file(&Value::Object(header).to_string(), &data, odd)
}

pub(crate) fn file(tensors: &[Tensor]) -> Vec<u8> {
    file_at(tensors, &[], 0)
}

/// A file with this header, whatever it says.
pub(crate) fn raw_file(header: &str, data: &[u8], odd: usize) -> Vec<u8> {
    let mut header = header.as_bytes().to_vec();
    while header.len() % 8 != odd {
        header.push(b' ');
    }
    [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
}

/// Weights of three types with odd tails, and what is copied beside them.
pub(crate) fn mixed() -> Vec<Tensor> {
    vec![
        floats("a.weight", "F32", &[70, 61], 1),
        tensor("ids", "I64", &[3], (0..24).collect()),
        floats("b.weight", "F16", &[65, 65], 2),
        floats("norm", "F32", &[64], 3),
        tensor("mask", "U8", &[5], vec![1, 2, 3, 4, 5]),
        floats("c.weight", "BF16", &[2, 3, 1000], 4),
        tensor("empty", "F32", &[0, 64], Vec::new()),
    ]
}

/// A folder that goes away.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn with(name: &str, bytes: &[u8]) -> Self {
        let folder = Self::new();
        folder.write(name, bytes);
        folder
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Everything in it, hidden files too, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Runs the binary in it.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wgquant"));
        command.current_dir(self.root()).args(args).timeout(Duration::from_secs(60)).output().unwrap()
    }

    /// Runs the binary in it, which must succeed; what it printed on standard output.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, as the one JSON document that it must be.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).unwrap()
    }

    /// Quantizes `in` into `out` on the CPU, with more arguments.
    pub(crate) fn quantize(&self, format: &str, more: &[&str]) -> Value {
        let args = ["quantize", "in", "-o", "out", "--device", "cpu", "--format", format];
        self.json(&[&args[..], more].concat())
    }

    /// Runs the binary in it, which must fail with this exit code and one sentence that has `wanted` in it, and must
    /// leave the folder as it was.
    pub(crate) fn fails(&self, code: i32, args: &[&str], wanted: &str) -> String {
        let before = self.names();
        let output = self.run(args);
        let sentence = failure(&output, code, wanted);
        assert_eq!(self.names(), before, "{args:?} left something behind");
        sentence
    }
}

/// The one line on standard error of a run that must have failed so.
pub(crate) fn failure(output: &Output, code: i32, wanted: &str) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "nothing on standard output");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 1, "one line: {text}");
    assert!(text.starts_with("error: "), "{text}");
    assert!(text.contains(wanted), "{wanted:?} should be in: {text}");
    text
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
