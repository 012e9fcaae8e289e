//! GGUF in and out.

use serde_json::Value;
use wgquant::checkpoint::{SafetensorsFile, Source};
use wgquant::{Dtype, Format, Weights};

use crate::common::{Folder, Tensor, file_at, floats, tensor};

const FORMATS: [Format; 3] = [Format::Q4_0, Format::Q8_0, Format::Mxfp4];

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A GGUF file of these tensors, made by hand: the type's number, then the tensor.
fn gguf(tensors: &[(u32, Tensor)]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend(3_u64.to_le_bytes());
    bytes.extend([text("general.architecture"), vec![8, 0, 0, 0], text("llama")].concat());
    bytes.extend([text("general.file_type"), vec![4, 0, 0, 0], vec![0; 4]].concat());
    bytes.extend(
        [text("tokens"), vec![9, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0], text("<s>"), text("ä")].concat(),
    );
    let mut data: Vec<u8> = Vec::new();
    for (id, tensor) in tensors {
        bytes.extend(text(tensor.name));
        bytes.extend(u32::try_from(tensor.shape.len()).unwrap().to_le_bytes());
        bytes.extend(tensor.shape.iter().rev().flat_map(|n| n.to_le_bytes()));
        bytes.extend(id.to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        data.extend(&tensor.bytes);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    [bytes, data].concat()
}

/// Weights of three types, and beside them a vector, integers, and blocks that wgquant has no format for.
fn model() -> Vec<(u32, Tensor)> {
    vec![
        (0, floats("token_embd.weight", "F32", &[70, 64], 1)),
        (1, floats("blk.0.attn_q.weight", "F16", &[65, 96], 2)),
        (30, floats("blk.0.attn_k.weight", "BF16", &[3, 2, 1024], 3)),
        (0, floats("blk.0.attn_norm.weight", "F32", &[5000], 4)),
        (26, tensor("ids", "I32", &[3], (0..12).collect())),
        (14, tensor("output.weight", "U8", &[2, 256], (0..=255).cycle().take(420).collect())),
    ]
}

fn bytes_of(source: &Source, name: &str) -> Vec<u8> {
    let tensor = source.tensors().iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}"));
    let mut bytes = vec![0; usize::try_from(tensor.n_bytes).unwrap()];
    source.read_at(tensor.offset, &mut bytes).unwrap();
    bytes
}

fn packed(format: Format, tensor: &Tensor) -> wgquant::Packed {
    let dtype = Dtype::from_name(tensor.dtype).unwrap();
    wgquant::quantize(format, Weights::from_le_bytes(dtype, &tensor.bytes).unwrap()).unwrap()
}

/// Scale, codes, scale, codes, …
fn blocks(packed: &wgquant::Packed) -> Vec<u8> {
    let info = packed.format().info();
    let scales = packed.scales().chunks(info.scale.n_bytes());
    scales.zip(packed.codes().chunks(info.block_codes_bytes())).flat_map(|(a, b)| [a, b].concat()).collect()
}

fn hex(digest: [u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn entry<'a>(document: &'a Value, name: &str) -> &'a Value {
    document["tensors"].as_array().unwrap().iter().find(|tensor| tensor["name"] == name).unwrap()
}

/// What follows a key in a file.
fn value_of<'a>(file: &'a [u8], key: &str, n: usize) -> &'a [u8] {
    let at = file.windows(key.len()).position(|window| window == key.as_bytes()).unwrap_or_else(|| panic!("no {key}"));
    &file[at + key.len()..][..n]
}

#[test]
fn from_gguf_to_gguf() {
    for (format, file_type) in FORMATS.into_iter().zip([2, 7, 38]) {
        let folder = Folder::with("in", &gguf(&model()));
        let report = folder.quantize(format.name(), &["--container", "gguf", "--verify", "full"]);
        folder.ok(&["verify", "in", "out"]);
        let inspected = folder.json(&["inspect", "out"]);
        assert_eq!(inspected["container"], "gguf");
        let out = Source::open(&folder.path("out")).unwrap();
        for (ix, (_, tensor)) in model().iter().enumerate() {
            assert_eq!(out.tensors()[ix].name, tensor.name, "the input's order");
            assert_eq!(out.tensors()[ix].shape, tensor.shape);
            if ix < 3 {
                let packed = packed(format, tensor);
                assert_eq!(bytes_of(&out, tensor.name), blocks(&packed));
                assert_eq!(entry(&report, tensor.name)["digest"], hex(packed.digest()));
                assert_eq!(entry(&inspected, tensor.name)["digest"], hex(packed.digest()));
                assert_eq!(entry(&inspected, tensor.name)["format"], format.name());
            } else {
                assert_eq!(bytes_of(&out, tensor.name), tensor.bytes);
                assert_eq!(entry(&report, tensor.name)["action"], "copied");
            }
        }
        assert_eq!(entry(&inspected, "output.weight")["dtype"], "Q6_K");
        let file = folder.read("out");
        assert_eq!(value_of(&file, "general.file_type", 8), [4, 0, 0, 0, file_type, 0, 0, 0]);
        assert_eq!(value_of(&file, "general.quantization_version", 8), [4, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(value_of(&file, "tokens", 34), value_of(&folder.read("in"), "tokens", 34));
        assert_eq!(file.len() % 32, 0, "the last tensor is padded too");

        // What is packed in the input is copied, too.
        std::fs::rename(folder.path("out"), folder.path("first")).unwrap();
        let args = ["quantize", "first", "-o", "second", "--device", "cpu", "--format", format.name()];
        folder.ok(&[&args[..], &["--container", "gguf"]].concat());
        assert_eq!(folder.read("second"), file);
        folder.ok(&["verify", "first", "second"]);
    }
}

#[test]
fn from_gguf_to_safetensors_and_back() {
    let plain = &model()[..5];
    let folder = Folder::with("in", &gguf(plain));
    let output = folder.run(&["quantize", "in", "-o", "native", "--device", "cpu", "--format", "q8_0"]);
    assert!(output.status.success());
    folder.ok(&["verify", "in", "native"]);
    folder.quantize("q8_0", &["--container", "gguf"]);
    let digests = |name| {
        let inspected = folder.json(&["inspect", name]);
        plain[..3].iter().map(|(_, tensor)| entry(&inspected, tensor.name)["digest"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(digests("native"), digests("out"), "the same in every container");
    folder.ok(&["dequantize", "out", "-o", "back", "--device", "cpu"]);
    folder.ok(&["dequantize", "out", "-o", "half", "--device", "cpu", "--dtype", "f16"]);
    for (name, dtype) in [("back", Dtype::F32), ("half", Dtype::F16)] {
        SafetensorsFile::open(&folder.path(name)).unwrap();
        let back = Source::open(&folder.path(name)).unwrap();
        for (_, tensor) in &plain[..3] {
            let expected = wgquant::dequantize(&packed(Format::Q8_0, tensor), dtype).unwrap();
            assert_eq!(bytes_of(&back, tensor.name), expected);
        }
        assert_eq!(bytes_of(&back, "ids"), plain[4].1.bytes);
    }
    // Blocks that wgquant has no format for can't leave GGUF.
    folder.write("in", &gguf(&model()));
    let wanted = "tensor \"output.weight\": its type is GGUF's Q6_K";
    folder.fails(1, &["quantize", "in", "-o", "x", "--device", "cpu", "--format", "q8_0"], wanted);
    folder.quantize("q8_0", &["--container", "gguf", "--force"]);
    folder.fails(1, &["dequantize", "out", "-o", "x", "--device", "cpu"], wanted);
}

#[test]
fn from_safetensors() {
    let weights = [
        floats("a.weight", "F32", &[70, 64], 1),
        floats("norm", "F32", &[5000], 2),
        tensor("ids", "I64", &[3], (0..24).collect()),
        floats("double", "F64", &[3], 3),
        tensor("none", "F32", &[0, 64], Vec::new()),
        tensor("scalar", "F32", &[], vec![0; 4]),
    ];
    let folder = Folder::with("in", &file_at(&weights, &[("format", "pt")], 0));
    let args = ["quantize", "in", "-o", "out", "--device", "cpu", "--format", "q4_0", "--container", "gguf"];
    let output = folder.run(&[&args[..], &["--verify", "full"]].concat());
    assert!(output.status.success());
    assert!(crate::common::stderr(&output).contains("llama.cpp does not load this file"));
    folder.ok(&["verify", "in", "out"]);
    let out = Source::open(&folder.path("out")).unwrap();
    assert_eq!(bytes_of(&out, "a.weight"), blocks(&packed(Format::Q4_0, &weights[0])));
    for tensor in &weights[1..] {
        assert_eq!(bytes_of(&out, tensor.name), tensor.bytes);
    }
    folder.ok(&["dequantize", "out", "-o", "back", "--device", "cpu"]);
    let back = SafetensorsFile::open(&folder.path("back")).unwrap();
    assert_eq!(back.metadata(), SafetensorsFile::open(&folder.path("in")).unwrap().metadata());
    // The same file every time.
    let first = folder.read("out");
    folder.ok(&[&args[..], &["--force", "--verify", "none"]].concat());
    assert_eq!(folder.read("out"), first);
}

#[test]
fn what_gguf_cannot_hold() {
    let weight = || floats("w", "F32", &[70, 64], 1);
    let long: &'static str = Box::leak("n".repeat(64).into_boxed_str());
    for (more, wanted) in [
        (tensor("mask", "BOOL", &[1], vec![1]), "tensor \"mask\": GGUF has no type BOOL"),
        (tensor("bytes", "U8", &[1], vec![1]), "tensor \"bytes\": GGUF has no type U8"),
        (tensor(long, "F32", &[1], vec![0; 4]), "its name has 64 bytes"),
        (floats("five", "F32", &[1, 1, 1, 1, 2], 1), "tensor \"five\": it has 5 dimensions"),
    ] {
        let folder = Folder::with("in", &file_at(&[weight(), more], &[], 0));
        let args = ["quantize", "in", "-o", "out", "--device", "cpu", "--format", "q4_0", "--container", "gguf"];
        folder.fails(1, &args, wanted);
    }
    let folder = Folder::with("in", &file_at(&[weight()], &[], 0));
    let args = ["quantize", "in", "-o", "out", "--device", "cpu", "--format", "nf4", "--container", "gguf"];
    folder.fails(1, &args, "nf4 can't be written as gguf");
    folder.write("in", &gguf(&model()));
    let args = ["quantize", "in", "-o", "out", "--device", "cpu", "--format", "nf4", "--container", "bnb"];
    folder.fails(1, &args, "in: is a GGUF file, whose names the readers of bnb don't know");
    let args = ["quantize", "in", "-o", "out", "--device", "cpu", "--format", "q4_0", "--container", "gguf"];
    folder.fails(1, &[&args[..], &["--include", "*attn_norm*"]].concat(), "because GGUF's readers take tensors of one");
}

#[test]
fn damage_is_found() {
    let folder = Folder::with("in", &gguf(&model()));
    folder.quantize("q4_0", &["--container", "gguf"]);
    let whole = folder.read("out");
    let data_start = {
        let out = Source::open(&folder.path("out")).unwrap();
        usize::try_from(out.n_bytes() - out.data_bytes()).unwrap()
    };
    for (at, wanted) in [
        (data_start + 5, "tensor \"token_embd.weight\", block 0"),
        (data_start + 18, "tensor \"token_embd.weight\", block 1"),
        (whole.len() - 100, "tensor \"output.weight\": its byte"),
    ] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        folder.write("damaged", &bytes);
        let output = folder.run(&["verify", "in", "damaged", "--quiet"]);
        crate::common::failure(&output, 1, wanted);
    }
    let mut bytes = whole.clone();
    let at = bytes.windows(5).position(|window| window == b"llama").unwrap();
    bytes[at] = b'L';
    folder.write("damaged", &bytes);
    folder.run(&["verify", "in", "damaged"]);
    let output = folder.run(&["verify", "in", "damaged", "--quiet"]);
    crate::common::failure(&output, 1, "differs from the original's at the key \"general.architecture\"");
    for n_bytes in [3, 4, 30, 200, data_start, whole.len() - 64] {
        folder.write("damaged", &whole[..n_bytes]);
        for args in [&["inspect", "damaged"][..], &["dequantize", "damaged", "-o", "x", "--device", "cpu"]] {
            folder.fails(1, args, "damaged: ");
        }
        crate::service::refuses_packed(&whole[..n_bytes], "body: ");
    }
}

#[test]
fn scales_that_are_none() {
    for (format, scale) in FORMATS.into_iter().zip([[0x00, 0x7e], [0x00, 0x7c], [0xff, 0x00]]) {
        let folder = Folder::with("in", &gguf(&model()[..1]));
        folder.quantize(format.name(), &["--container", "gguf"]);
        let mut bytes = folder.read("out");
        let out = Source::open(&folder.path("out")).unwrap();
        let data_start = usize::try_from(out.n_bytes() - out.data_bytes()).unwrap();
        bytes[data_start..data_start + 2].copy_from_slice(&scale);
        folder.write("out", &bytes);
        let wanted = "tensor \"token_embd.weight\": the scale of block 0";
        folder.fails(1, &["dequantize", "out", "-o", "x", "--device", "cpu"], wanted);
        crate::service::refuses_packed(&bytes, wanted);
    }
}
