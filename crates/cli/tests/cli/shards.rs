//! Models in several files.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wgquant::checkpoint::{Source, verify};

use crate::common::{Folder, Tensor, file, file_at, floats, tensor};

const QUANTIZE: [&str; 8] = ["quantize", "in", "-o", "out", "--device", "cpu", "--format", "sym4"];

fn model() -> Vec<Vec<Tensor>> {
    vec![
        vec![floats("a.weight", "F32", &[64, 128], 1), tensor("ids", "I64", &[2], vec![7; 16])],
        vec![floats("b.weight", "BF16", &[96, 128], 2), floats("b.bias", "F32", &[96], 3)],
        vec![floats("c.weight", "F16", &[3, 2048], 4), floats("lm_head.weight", "F32", &[64, 64], 5)],
    ]
}

/// A folder `in` with a model in shards, an index, a config and a tokenizer.
fn sharded() -> Folder {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("in")).unwrap();
    let mut weight_map = json!({});
    for (number, tensors) in model().iter().enumerate() {
        let name = format!("model-0000{}-of-00003.safetensors", number + 1);
        folder.write(&format!("in/{name}"), &file_at(tensors, &[("format", "pt")], number));
        for tensor in tensors {
            weight_map[tensor.name] = json!(name);
        }
    }
    write_index(&folder, &weight_map);
    folder.write("in/config.json", br#"{"model_type": "llama", "dtype": "float32"}"#);
    folder.write("in/tokenizer.json", b"{}");
    folder
}

fn write_index(folder: &Folder, weight_map: &Value) {
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": weight_map });
    folder.write("in/model.safetensors.index.json", index.to_string().as_bytes());
}

fn names(folder: &Folder, name: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder.path(name)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn bytes_of(source: &Source, name: &str) -> Vec<u8> {
    let tensor = source.find(name).unwrap_or_else(|| panic!("no {name}"));
    let mut bytes = vec![0; usize::try_from(tensor.n_bytes).unwrap()];
    source.read_at(tensor.offset, &mut bytes).unwrap();
    bytes
}

/// A folder in, a folder out, with the tensors that one file would give; and back.
#[test]
fn shards_in_shards_out() {
    let folder = sharded();
    folder.write("whole", &file_at(&model().concat(), &[("format", "pt")], 0));
    for (container, format) in
        [("native", "nf4-dq"), ("bnb", "nf4-dq"), ("compressed-tensors", "sym8"), ("mxfp4", "mxfp4")]
    {
        let args = |input: &'static str, output: &'static str| {
            [
                "quantize",
                input,
                "-o",
                output,
                "--device",
                "cpu",
                "--format",
                format,
                "--container",
                container,
                "--force",
            ]
        };
        let quantize = |input, output, more: &[&str]| folder.json(&[&args(input, output)[..], more].concat());
        let whole = quantize("whole", "one", &["--verify", "full"]);
        for (shard_size, n_files) in [("1MB", 1), ("9KiB", 3), ("1", 6)] {
            let report = quantize("in", "out", &["--verify", "full", "--shard-size", shard_size]);
            let digests = |report: &Value| {
                let tensors = report["tensors"].as_array().unwrap().iter();
                tensors.map(|t| (t["name"].to_string(), t["digest"].to_string())).collect::<BTreeSet<_>>()
            };
            assert_eq!(digests(&report), digests(&whole), "{container}");
            let found = names(&folder, "out");
            let files: Vec<_> = found.iter().filter(|name| name.ends_with(".safetensors")).collect();
            if n_files == 1 {
                assert_eq!(found, ["config.json", "model.safetensors", "tokenizer.json"]);
            } else {
                assert!(files.len() >= n_files, "{container} {shard_size}: {found:?}");
                assert_eq!(*files[0], format!("model-00001-of-{:05}.safetensors", files.len()));
                let index: Value = serde_json::from_slice(&folder.read("out/model.safetensors.index.json")).unwrap();
                let out = Source::open(&folder.path("out")).unwrap();
                assert_eq!(index["weight_map"].as_object().unwrap().len(), out.tensors().len());
                assert_eq!(index["metadata"]["total_size"], out.data_bytes());
                assert_eq!(report["bytes_out"], out.n_bytes());
            }
            assert!(verify(&folder.path("in"), &folder.path("out"), &mut |_| {}).unwrap().first_mismatch().is_none());
            folder.ok(&["verify", "whole", "out"]);
            folder.ok(&["inspect", "out"]);
            folder.ok(&["dequantize", "out", "-o", "back", "--device", "cpu", "--force"]);
            folder.ok(&["dequantize", "one", "-o", "one-back", "--device", "cpu", "--force"]);
            let (back, one) = (folder.path("back"), folder.path("one-back"));
            let (back, one) = (Source::open(&back).unwrap(), Source::open(&one).unwrap());
            for tensor in model().concat() {
                assert_eq!(bytes_of(&back, tensor.name), bytes_of(&one, tensor.name), "{container} {}", tensor.name);
            }
            if n_files > 1 {
                let config: Value = serde_json::from_slice(&folder.read("back/config.json")).unwrap();
                assert_eq!(config, json!({ "model_type": "llama", "dtype": "float32" }), "as it was");
                std::fs::remove_dir_all(folder.path("back")).unwrap();
            } else {
                std::fs::remove_file(folder.path("back")).unwrap();
            }
        }
        folder.ok(&[&["verify", "whole", "one"][..]].concat());
        for name in ["one", "one-back", "out"] {
            let _ = std::fs::remove_file(folder.path(name));
            let _ = std::fs::remove_dir_all(folder.path(name));
        }
    }
}

/// One file in, and shards out where they are asked for; GGUF is one file whatever comes in.
#[test]
fn one_file_becomes_shards_and_shards_one_gguf_file() {
    let folder = sharded();
    folder.write("file", &file(&model().concat()));
    folder.ok(&["quantize", "file", "-o", "cut", "--device", "cpu", "--format", "sym8", "--shard-size", "20KiB"]);
    assert!(names(&folder, "cut").len() > 2);
    folder.ok(&["verify", "file", "cut"]);
    let gguf = ["quantize", "in", "-o", "out.gguf", "--device", "cpu", "--format", "q8_0", "--container", "gguf"];
    folder.ok(&gguf);
    folder.ok(&["verify", "in", "out.gguf"]);
    let cut = [&gguf[..], &["--force", "--shard-size", "1GB"]].concat();
    folder.fails(1, &cut, "a GGUF file is not cut into shards");
    folder.fails(2, &[&QUANTIZE[..], &["--shard-size", "0"]].concat(), "a size is a number above 0");
}

/// An index that lies, and shards that don't fit it.
#[test]
fn hostile_indices() {
    let folder = sharded();
    let index: Value = serde_json::from_slice(&folder.read("in/model.safetensors.index.json")).unwrap();
    let refused = |map: Value, wanted: &str| {
        write_index(&folder, &map);
        folder.fails(1, &QUANTIZE, wanted);
        folder.fails(1, &["inspect", "in"], wanted);
    };
    let with = |key: &str, value: &str| {
        let mut map = index["weight_map"].clone();
        map[key] = json!(value);
        map
    };
    for outside in ["../in/model-00001-of-00003.safetensors", "/etc/passwd", "a/b", "..", "", "C:\\x"] {
        refused(with("a.weight", outside), "files are read from the index's own folder alone");
    }
    refused(
        with("missing", "model-00001-of-00003.safetensors"),
        "in/model.safetensors.index.json: says that the tensor \"missing\" is in model-00001-of-00003.safetensors",
    );
    refused(with("a.weight", "model-00002-of-00003.safetensors"), "and it is not there");
    refused(with("a.weight", "gone.safetensors"), "in/gone.safetensors: can't be opened: No such file");
    let mut map = index["weight_map"].clone();
    map.as_object_mut().unwrap().remove("ids");
    refused(
        map,
        "in/model-00001-of-00003.safetensors: the file holds the tensor \"ids\", which the folder's index does not",
    );
    refused(json!({}), "names no tensor");
    refused(json!([]), "in/model.safetensors.index.json: is no JSON object");
    folder.write("in/model-00002-of-00003.safetensors", &file(&[floats("a.weight", "F32", &[8], 1)]));
    refused(index["weight_map"].clone(), "the tensor \"a.weight\" is in another file of the model too");
    std::fs::remove_file(folder.path("in/model-00002-of-00003.safetensors")).unwrap();
    refused(index["weight_map"].clone(), "in/model-00002-of-00003.safetensors: can't be opened: No such file");
    std::fs::remove_file(folder.path("in/model.safetensors.index.json")).unwrap();
    folder.fails(
        1,
        &QUANTIZE,
        "in: is a folder, and has no model.safetensors in it, nor the index of a model in shards",
    );
}
