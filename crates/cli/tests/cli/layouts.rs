//! The layouts that other tools read: their bytes, what they refuse, and the way back.

use serde_json::{Value, json};
use wgquant::Format;
use wgquant::checkpoint::{Source, verify};

use crate::common::{Folder, Tensor, file_at, floats, stderr, tensor};

const FILE: &str = "out/model.safetensors";

/// Container, format, and the file that holds the weights.
const LAYOUTS: [(&str, &str, &str); 7] = [
    ("bnb", "nf4", FILE),
    ("bnb", "fp4", FILE),
    ("bnb", "nf4-dq", FILE),
    ("bnb", "fp4-dq", FILE),
    ("compressed-tensors", "sym4", FILE),
    ("compressed-tensors", "sym8", FILE),
    ("mxfp4", "mxfp4", "out"),
];

/// A model of three Linears, an embedding, a head, a small Linear and a norm.
fn model() -> Vec<Tensor> {
    vec![
        floats("embeddings.word.weight", "F32", &[64, 64], 1),
        floats("layer.0.a.weight", "F32", &[64, 128], 2),
        floats("layer.0.b.weight", "F16", &[3, 1408], 3),
        floats("layer.1.a.weight", "BF16", &[128, 64], 4),
        floats("layer.1.small.weight", "F32", &[4, 64], 5),
        floats("layer.1.norm.weight", "F32", &[64], 6),
        floats("lm_head.weight", "F32", &[64, 64], 7),
        tensor("ids", "I64", &[2], vec![7; 16]),
    ]
}

const PACKED: [&str; 3] = ["layer.0.a.weight", "layer.0.b.weight", "layer.1.a.weight"];

/// A model's folder `in` with these tensors, a config, a tokenizer and what is not carried along.
fn folder_of(tensors: &[Tensor]) -> Folder {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("in/sub")).unwrap();
    folder.write("in/model.safetensors", &file_at(tensors, &[("format", "pt")], 0));
    folder.write("in/config.json", br#"{"model_type": "bert", "eps": 1e-12, "dtype": "float32"}"#);
    folder.write("in/tokenizer.json", b"{}");
    folder.write("in/pytorch_model.bin", b"old");
    folder
}

fn quantize(folder: &Folder, container: &str, format: &str, more: &[&str]) -> Value {
    folder.quantize(format, &[&["--container", container, "--verify", "full"], more].concat())
}

fn bytes_of(file: &Source, name: &str) -> (Vec<u64>, String, Vec<u8>) {
    let tensor = file.find(name).unwrap_or_else(|| panic!("no {name}"));
    let mut bytes = vec![0; usize::try_from(tensor.n_bytes).unwrap()];
    file.read_at(tensor.offset, &mut bytes).unwrap();
    (tensor.shape.clone(), tensor.dtype.to_string(), bytes)
}

/// A file with one weight of these values, as a container has it.
fn one(container: &str, format: &str, values: &[f32]) -> (Folder, Source) {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let folder = folder_of(&[tensor("l.weight", "F32", &[1, values.len() as u64], bytes)]);
    quantize(&folder, container, format, &["--min-elements", "1"]);
    let file = Source::open(&folder.path("out")).unwrap();
    (folder, file)
}

#[test]
fn compressed_tensors_bytes() {
    let values: Vec<f32> = (0..64_i8).map(|j| f32::from(j % 15 - 7)).collect(); // scale 1, so that they are the codes
    let (_folder, file) = one("compressed-tensors", "sym4", &values);
    let (shape, dtype, bytes) = bytes_of(&file, "l.weight_packed");
    assert_eq!((shape, dtype.as_str()), (vec![1, 8], "I32"));
    assert_eq!(bytes[..8], [0x21, 0x43, 0x65, 0x87, 0xa9, 0xcb, 0xed, 0x1f], "-7 is 1, and the first is lowest");
    assert_eq!(bytes_of(&file, "l.weight_scale"), (vec![1, 1], "F32".to_owned(), 1_f32.to_le_bytes().to_vec()));
    let wanted = [1_i64, 64].iter().flat_map(|n| n.to_le_bytes()).collect();
    assert_eq!(bytes_of(&file, "l.weight_shape"), (vec![2], "I64".to_owned(), wanted));

    let mut values: Vec<f32> = (0..64_i8).map(|j| f32::from(2 - j)).collect();
    values[63] = 127.0;
    let (_folder, file) = one("compressed-tensors", "sym8", &values);
    let (shape, _, bytes) = bytes_of(&file, "l.weight_packed");
    assert_eq!((shape, &bytes[..4], bytes[63]), (vec![1, 16], &[0x82, 0x81, 0x80, 0x7f][..], 255));
}

#[test]
fn mxfp4_bytes() {
    let magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let values: Vec<f32> = (0..32).map(|j| if j < 16 { magnitudes[j % 8] } else { -magnitudes[7] }).collect();
    let (_folder, file) = one("mxfp4", "mxfp4", &values);
    let (shape, dtype, bytes) = bytes_of(&file, "l.weight_blocks");
    assert_eq!((shape, dtype.as_str()), (vec![1, 1, 16], "U8"));
    assert_eq!(bytes[..8], [0x10, 0x32, 0x54, 0x76, 0x10, 0x32, 0x54, 0x76], "the even element is low");
    assert_eq!(bytes[8..], [0xff; 8]);
    assert_eq!(bytes_of(&file, "l.weight_scales"), (vec![1, 1], "U8".to_owned(), vec![127]));
}

#[test]
fn bnb_bytes() {
    let values: Vec<f32> = (0..66_i8).map(|j| f32::from(j % 3 - 1) * 2.0).collect();
    for (format, first, zero) in [("nf4", 0x07, 7), ("fp4", 0xb0, 0)] {
        let (_folder, file) = one("bnb", format, &values);
        let (shape, dtype, bytes) = bytes_of(&file, "l.weight");
        assert_eq!((shape, dtype.as_str(), bytes[0]), (vec![33, 1], "U8", first), "-1, 0");
        let scales = [2_f32.to_le_bytes(), 2_f32.to_le_bytes()].concat();
        assert_eq!(bytes_of(&file, "l.weight.absmax"), (vec![2], "F32".to_owned(), scales));
        let (shape, _, map) = bytes_of(&file, "l.weight.quant_map");
        assert_eq!((shape, &map[4 * zero..4 * zero + 4]), (vec![16], &[0; 4][..]));
        assert_eq!(map[32..36] == [0; 4], format == "fp4", "code 8 of fp4 stands as +0.0");
        let (_, dtype, state) = bytes_of(&file, &format!("l.weight.quant_state.bitsandbytes__{format}"));
        let wanted = json!({ "quant_type": format, "blocksize": 64, "dtype": "float32", "shape": [1, 66] });
        assert_eq!((dtype.as_str(), serde_json::from_slice::<Value>(&state).unwrap()), ("U8", wanted));
    }
}

/// Four blocks whose largest values have the mean 2.5; the JSON has room for any offset.
#[test]
fn nested_bnb_bytes() {
    let values: Vec<f32> = (0..256_u16).map(|j| f32::from(j / 64 + 1)).collect();
    for (format, name) in [("nf4-dq", "nf4"), ("fp4-dq", "fp4")] {
        let (folder, file) = one("bnb", format, &values);
        assert_eq!(bytes_of(&file, "l.weight.absmax"), (vec![4], "U8".to_owned(), vec![0, 47, 207, 255]));
        let absmax = 1.5_f32.to_le_bytes().to_vec();
        assert_eq!(bytes_of(&file, "l.weight.nested_absmax"), (vec![1], "F32".to_owned(), absmax));
        let (shape, dtype, map) = bytes_of(&file, "l.weight.nested_quant_map");
        assert_eq!((shape, dtype.as_str(), &map[127 * 4..128 * 4]), (vec![256], "F32", &[0; 4][..]));
        let (_, _, state) = bytes_of(&file, &format!("l.weight.quant_state.bitsandbytes__{name}"));
        let wanted = json!({
            "quant_type": name, "blocksize": 64, "dtype": "float32", "shape": [1, 256],
            "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 2.5,
        });
        assert_eq!(serde_json::from_slice::<Value>(&state).unwrap(), wanted);
        let config: Value = serde_json::from_slice(&folder.read("out/config.json")).unwrap();
        assert_eq!(config["quantization_config"]["bnb_4bit_quant_type"], name);
        assert_eq!(config["quantization_config"]["bnb_4bit_use_double_quant"], true);
    }
}

/// The same weights have the same digests everywhere, and come back as the same floats.
#[test]
fn digests_and_values_are_those_of_the_native_container() {
    for (container, format, _) in LAYOUTS {
        let folder = folder_of(&model());
        let report = quantize(&folder, container, format, &["--include", "layer.?.[ab].*"]);
        folder.ok(&["verify", "in", "out"]);
        folder.ok(&["dequantize", "out", "-o", "back", "--device", "cpu"]);
        let found = folder.json(&["inspect", "out"]);
        assert_eq!(found["container"], container);
        std::fs::rename(folder.path("out"), folder.path("other")).unwrap();
        let native = quantize(&folder, "native", format, &["--include", "layer.?.[ab].*"]);
        assert_eq!(report["tensors"], native["tensors"], "{container}");
        let native = folder.json(&["inspect", "out"]);
        for name in PACKED {
            let digest = |report: &Value| {
                report["tensors"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap()["digest"].clone()
            };
            assert!(digest(&found).is_string());
            assert_eq!(digest(&found), digest(&native), "{container} {format} {name}");
        }
        folder.ok(&["dequantize", "out", "-o", "native-back", "--device", "cpu"]);
        let (back, native) = (folder.read("back"), folder.read("native-back"));
        assert!(back == native, "{container} {format} comes back as native does");
    }
}

/// Whatever byte of the tensors' data is changed, it is found, and of a weight it is named with its block.
#[test]
fn a_flipped_byte_is_found() {
    let tensors = [
        floats("l.a.weight", "F32", &[2, 64], 1),
        floats("l.b.weight", "BF16", &[1, 128], 2),
        floats("l.norm.weight", "F32", &[3], 3),
    ];
    for (container, format, file) in LAYOUTS {
        let folder = folder_of(&tensors);
        quantize(&folder, container, format, &["--min-elements", "1"]);
        let (original, packed) = (folder.path("in"), folder.path("out"));
        let whole = folder.read(file);
        let source = Source::open(&packed).unwrap();
        let data_start = source.n_bytes() - source.data_bytes();
        for tensor in source.tensors() {
            for at in 0..tensor.n_bytes {
                let position = usize::try_from(data_start + tensor.offset + at).unwrap();
                let mut bytes = whole.clone();
                bytes[position] ^= 1 << (position % 7);
                folder.write(file, &bytes);
                if same_state(&whole, &bytes, (position, at), tensor.n_bytes) {
                    continue;
                }
                let found = match verify(&original, &packed, &mut |_| {}) {
                    Err(error) => error.to_string(),
                    Ok(report) => report.first_mismatch().unwrap_or("nothing").to_owned(),
                };
                let info = Format::from_name(format).unwrap().info();
                let weight = tensor.name.split_inclusive(".weight").next().unwrap();
                let rest = &tensor.name[weight.len()..];
                let wanted = match rest {
                    _ if weight == "l.norm.weight" => format!("tensor {weight:?}: its byte {at}"),
                    "" | "_packed" | "_blocks" => {
                        format!("tensor {weight:?}, block {}: the code byte", at / info.block_codes_bytes() as u64)
                    }
                    ".absmax" | "_scale" | "_scales" => {
                        format!("tensor {weight:?}, block {}: the scale byte", at / info.scale.stored_bytes() as u64)
                    }
                    _ => format!("tensor {weight:?}"),
                };
                assert!(found.contains(&wanted), "{container} {format} {}: {found}; wanted {wanted}", tensor.name);
            }
        }
        folder.write(file, &whole);
        folder.ok(&["verify", "in", "out"]);
    }
}

/// Whether a tensor that holds JSON says the same still: an offset has more digits than an `f32`.
fn same_state(whole: &[u8], changed: &[u8], (position, at): (usize, u64), n_bytes: u64) -> bool {
    let start = position - usize::try_from(at).unwrap();
    let range = start..start + usize::try_from(n_bytes).unwrap();
    let said = |bytes: &[u8]| {
        let mut state: Value = serde_json::from_slice(&bytes[range.clone()]).ok()?;
        let offset = state.as_object_mut()?.remove("nested_offset")?.as_f64()?;
        #[expect(clippy::cast_possible_truncation, reason = "as readers do")]
        Some((state, offset as f32))
    };
    said(whole).is_some() && said(whole) == said(changed)
}

#[test]
fn configs_and_what_is_carried_along() {
    let folder = folder_of(&model());
    quantize(&folder, "bnb", "nf4", &[]);
    let names = |name: &str| {
        let entries = std::fs::read_dir(folder.path(name)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names("out"), ["config.json", "model.safetensors", "tokenizer.json"]);
    let config: Value = serde_json::from_slice(&folder.read("out/config.json")).unwrap();
    let left = json!(["embeddings.word", "layer.1.small", "lm_head"]);
    let wanted = json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": true,
        "load_in_8bit": false,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": false,
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": left,
    });
    assert_eq!(config["quantization_config"], wanted);
    assert_eq!((&config["model_type"], &config["eps"]), (&json!("bert"), &json!(1e-12)));

    quantize(&folder, "compressed-tensors", "sym8", &["--force"]);
    let config: Value = serde_json::from_slice(&folder.read("out/config.json")).unwrap();
    let scheme = json!({
        "num_bits": 8, "type": "int", "symmetric": true, "strategy": "group", "group_size": 64, "dynamic": false,
    });
    let wanted = json!({
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": { "group_0": { "targets": ["Linear"], "weights": scheme } },
        "ignore": left,
    });
    assert_eq!(config["quantization_config"], wanted);

    // A file alone has no config: one is written, and a person is told.
    folder.write("alone", &file_at(&model(), &[], 0));
    let args = ["quantize", "alone", "-o", "new", "--format", "nf4", "--container", "bnb", "--device", "cpu"];
    let output = folder.run(&args);
    assert!(output.status.success() && stderr(&output).contains("the input has no config.json"), "{output:?}");
    assert_eq!(names("new"), ["config.json", "model.safetensors"]);
    folder.ok(&["verify", "alone", "new"]);
    folder.ok(&["verify", "alone", "new/model.safetensors"]);
}

/// A head that shares an embedding's weight is not in the file, and readers must be told to leave it all the same.
#[test]
fn tied_heads_are_left() {
    for (tensors, head) in [
        (vec![floats("model.embed_tokens.weight", "F32", &[64, 64], 1)], "lm_head"),
        (vec![floats("cls.predictions.transform.dense.weight", "F32", &[64, 64], 1)], "cls.predictions.decoder"),
    ] {
        let folder = folder_of(&[tensors, vec![floats("model.l.weight", "F32", &[64, 64], 2)]].concat());
        for (container, format, key) in
            [("bnb", "nf4", "llm_int8_skip_modules"), ("compressed-tensors", "sym4", "ignore")]
        {
            quantize(&folder, container, format, &["--force"]);
            let config: Value = serde_json::from_slice(&folder.read("out/config.json")).unwrap();
            let left = config["quantization_config"][key].as_array().unwrap();
            assert!(left.contains(&json!(head)), "{container}: {left:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = folder_of(&model());
    let run = |container: &str, format: &str, more: &[&str], wanted: &str| {
        let args = ["quantize", "in", "-o", "out", "--device", "cpu", "--format", format, "--container", container];
        folder.fails(1, &[&args[..], more].concat(), wanted)
    };
    run(
        "bnb",
        "sym4",
        &[],
        "sym4 can't be written as bnb: sym4 can be as native, compressed-tensors, and bnb holds nf4",
    );
    run("gguf", "nf4-dq", &[], "nf4-dq can't be written as gguf: nf4-dq can be as native, bnb, and gguf holds q4_0");
    run("mxfp4", "nf4", &[], "nf4 can't be written as mxfp4: nf4 can be as native, bnb, and mxfp4 holds mxfp4");
    for (container, format) in [("bnb", "nf4"), ("compressed-tensors", "sym4")] {
        run(container, format, &["--include", "emb*"], "because it is an embedding, and transformers refuses");
        run(container, format, &["--include", "lm*"], "because it is an output head");
        run(container, format, &["--include", "*norm*"], "because only tensors of two dimensions are");
        run(container, format, &["--include", "ids"], "whose type I64 can't be quantized");
        run(container, format, &["--min-elements", "99999"], "has no tensor to pack in");
        folder.write("in/config.json", br#"{"model_type": "gpt2"}"#);
        run(container, format, &[], "in: is a model of type \"gpt2\", whose weights are stored transposed");
        folder.write("in/config.json", b"{}");
    }
    let mut tensors = model();
    tensors[2].name = "layer.0.b";
    tensors.push(floats("l.c.weight", "F32", &[100, 100], 1));
    folder.write("in/model.safetensors", &file_at(&tensors, &[], 0));
    run("bnb", "nf4", &["--include", "layer.0.b"], "because only tensors are whose names end in .weight");
    let wanted = "tensor \"l.c.weight\" has rows of 100 elements, and the container compressed-tensors takes multiples of 64: \
                  use --container native";
    run("compressed-tensors", "sym4", &[], wanted);
    quantize(&folder, "compressed-tensors", "sym4", &["--copy-unfit"]);
    folder.ok(&["verify", "in", "out"]);

    // transformers matches the start and the end of names, and takes them as regular expressions.
    for (packed, left, wanted) in [
        ("l.fc10.weight", "l.fc1.weight", "\"l.fc1\" as it is, because it would then leave \"l.fc10\" too"),
        ("l.fc1.weight", "fc1.weight", "\"fc1\" as it is, because it would then leave \"l.fc1\" too"),
        ("l_1.weight", "l.1.weight", "\"l.1\" as it is, because it would then leave \"l_1\" too"),
        ("a.weight", "l(1.weight", "\"l(1\" as it is, because it reads the name as a regular expression"),
    ] {
        let tensors = [floats(packed, "F32", &[64, 64], 1), floats(left, "F32", &[2, 64], 2)];
        folder.write("in/model.safetensors", &file_at(&tensors, &[], 0));
        let args = ["quantize", "in", "-o", "new", "--device", "cpu", "--format", "nf4", "--container", "bnb"];
        folder.fails(1, &args, &format!("transformers can't be told to leave {wanted}"));
    }
    let tensors = [floats("w", "F32", &[64, 64], 1), tensor("w_scales", "U8", &[1], vec![0])];
    folder.write("in/model.safetensors", &file_at(&tensors, &[], 0));
    let args = ["quantize", "in", "-o", "new", "--device", "cpu", "--format", "mxfp4", "--container", "mxfp4"];
    folder.fails(1, &args, "the input has a tensor \"w_scales\" already");
}

#[test]
fn inputs_that_are_folders() {
    let folder = folder_of(&model());
    let args = ["quantize", "in", "-o", "out", "--format", "nf4", "--device", "cpu"];
    folder.fails(1, &["quantize", "in/sub", "-o", "out", "--format", "nf4"], "in/sub: is a folder, and has no model");
    folder.write("in/config.json", b"[1]");
    folder.fails(1, &args, "in/config.json: is no JSON object");
    folder.write("in/config.json", b"{}");
    folder.quantize("nf4", &[]);
    let into = ["quantize", "in", "-o", "in/model.safetensors", "--format", "nf4", "--device", "cpu", "--force"];
    folder.fails(1, &into, "the output is the input");
}

/// A folder is there whole or not at all, and `--force` replaces nothing but a model's folder.
#[test]
fn folders_are_all_or_nothing() {
    let folder = folder_of(&model());
    let args = ["quantize", "in", "-o", "out", "--format", "nf4", "--container", "bnb", "--device", "cpu"];
    let force = [&args[..], &["--force"]].concat();
    folder.ok(&args);
    let first = folder.read(FILE);
    folder.fails(1, &args, "out: exists already");
    folder.write("out/stale", b"old");
    folder.ok(&[&force[..], &["--sync"]].concat());
    assert!(folder.read(FILE) == first, "the same every time");
    assert!(!folder.path("out/stale").exists());
    assert_eq!(folder.names(), ["in", "out"]);
    folder.fails(1, &["quantize", "out", "-o", "twice", "--format", "nf4", "--device", "cpu"], "quantized already");

    // A weight that can't be quantized leaves everything as it was.
    let mut tensors = model();
    tensors[3].bytes[..2].copy_from_slice(&[0xff, 0x7f]);
    folder.write("in/model.safetensors", &file_at(&tensors, &[], 0));
    folder.fails(1, &force, "tensor \"layer.1.a.weight\": element 0 is NaN");
    assert!(folder.read(FILE) == first);

    let to = |output: &str, wanted: &str| {
        let args =
            ["quantize", "in", "--format", "nf4", "--container", "bnb", "--device", "cpu", "--force", "-o", output];
        folder.fails(1, &args, wanted);
    };
    to("in", "in: the output is the input");
    to(".", ".: is a folder without a model, so it is not replaced");
    folder.write("config.json", b"{}");
    to(".", ".: holds the input, so it can't be replaced");
    to("config.json", "config.json: is no folder, and the output is one");
    to("in/sub", "in/sub: is a folder without a model");
}

/// Other writers give scales the model's type: they widen exactly, and the digest is that of the same scales as f32.
#[test]
fn narrow_scales_of_compressed_tensors() {
    const ROWS: u64 = 3;
    let shape = || {
        let bytes = [ROWS, 128].iter().flat_map(|n| n.to_le_bytes()).collect();
        tensor("w.weight_shape", "I64", &[2], bytes)
    };
    for (format, n_words) in [("sym4", 16), ("sym8", 32)] {
        let codes = || {
            let bytes = (0..ROWS * n_words * 4).map(|j| 0x11 + (j * 5 % 0xe0) as u8 / 16 * 0x11);
            tensor("w.weight_packed", "I32", &[ROWS, n_words], bytes.collect())
        };
        for dtype in ["F16", "BF16"] {
            let narrow = floats("w.weight_scale", dtype, &[ROWS, 2], 5);
            let positive: Vec<_> = narrow.bytes.chunks(2).flat_map(|bits| [bits[0], bits[1] & 0x7f]).collect();
            let wide: Vec<_> = positive
                .chunks(2)
                .map(|bits| match dtype {
                    "F16" => half::f16::from_le_bytes([bits[0], bits[1]]).to_f32(),
                    _ => half::bf16::from_le_bytes([bits[0], bits[1]]).to_f32(),
                })
                .flat_map(f32::to_le_bytes)
                .collect();
            let folder = Folder::new();
            let narrow = tensor("w.weight_scale", dtype, &[ROWS, 2], positive);
            let wide = tensor("w.weight_scale", "F32", &[ROWS, 2], wide);
            folder.write("narrow", &file_at(&[codes(), narrow, shape()], &[], 0));
            folder.write("wide", &file_at(&[codes(), wide, shape()], &[], 0));
            let of = |name: &str| folder.json(&["inspect", name])["tensors"][0].clone();
            assert_eq!((&of("narrow")["format"], &of("narrow")["digest"]), (&json!(format), &of("wide")["digest"]));
            for name in ["narrow", "wide"] {
                folder.ok(&["dequantize", name, "-o", &format!("{name}-back"), "--device", "cpu"]);
            }
            assert!(folder.read("narrow-back") == folder.read("wide-back"), "{format} {dtype}");
        }
    }
}
