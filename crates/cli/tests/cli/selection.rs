//! What is quantized and what is left alone.

use serde_json::Value;

use crate::common::{Folder, Tensor, file, floats, mixed, stderr, tensor};

const QUANTIZE: [&str; 8] = ["quantize", "in", "-o", "out", "--format", "sym4", "--device", "cpu"];

/// Names of the tensors that were quantized.
fn quantized(tensors: &[Tensor], more: &[&str]) -> Vec<String> {
    let folder = Folder::with("in", &file(tensors));
    let report = folder.quantize("sym4", more);
    folder.ok(&["verify", "in", "out"]);
    let list = report["tensors"].as_array().unwrap().iter();
    list.filter(|tensor| tensor["action"] == "quantized").map(|tensor| name(tensor).to_owned()).collect()
}

fn name(tensor: &Value) -> &str {
    tensor["name"].as_str().unwrap()
}

#[test]
fn default_is_large_float_matrices() {
    let tensors = [
        floats("f32", "F32", &[64, 64], 1),
        floats("f16", "F16", &[4, 32, 32], 2),
        floats("bf16", "BF16", &[4096, 1], 3),
        floats("small", "F32", &[63, 65], 4),
        floats("vector", "F32", &[8192], 5),
        floats("double", "F64", &[64, 64], 6),
        tensor("integers", "I32", &[64, 64], vec![1; 4 * 4096]),
        tensor("scalar", "F32", &[], vec![0; 4]),
        tensor("empty", "F32", &[0, 9000], Vec::new()),
    ];
    assert_eq!(quantized(&tensors, &[]), ["f32", "f16", "bf16"]);
    assert_eq!(quantized(&tensors, &["--min-elements", "4095"]), ["f32", "f16", "bf16", "small"]);
    assert_eq!(quantized(&tensors, &["--min-elements", "4097"]), [""; 0]);
    assert_eq!(quantized(&tensors, &["--exclude", "*f16"]), ["f32"]);
    assert_eq!(quantized(&tensors, &["--include", "vec*", "--include", "f32"]), ["f32", "vector"]);
    assert_eq!(quantized(&tensors, &["--include", "s*"]), ["small", "scalar"]);
    assert_eq!(quantized(&tensors, &["--include", "{s,f}*", "--min-elements", "4096"]), ["f32", "f16"]);
    assert_eq!(
        quantized(&tensors, &["--include", "*", "--exclude", "{double,integers}"]).len(),
        6,
        "all but the empty one"
    );
}

#[test]
fn stars_match_dots_and_slashes() {
    let tensors = [floats("a.b/c.weight", "F32", &[64, 64], 1), floats("d", "F32", &[64, 64], 1)];
    assert_eq!(quantized(&tensors, &["--include", "a*weight"]), ["a.b/c.weight"]);
}

#[test]
fn a_pattern_that_matches_nothing_is_refused() {
    let folder = Folder::with("in", &file(&mixed()));
    let run = |more: &[&str], wanted| folder.fails(1, &[&QUANTIZE[..], more].concat(), wanted);
    run(&["--include", "a.wieght"], "in: --include \"a.wieght\" matches no tensor");
    run(&["--exclude", "head*"], "in: --exclude \"head*\" matches no tensor");
    run(&["--include", "[a"], "in: --include \"[a\" is no pattern");
}

#[test]
fn including_what_cannot_be_quantized_is_refused() {
    let folder = Folder::with("in", &file(&mixed()));
    let run = |more: &[&str], wanted| folder.fails(1, &[&QUANTIZE[..], more].concat(), wanted);
    run(&["--include", "*"], "matches tensor \"ids\", whose type I64 can't be quantized (F32, F16 and BF16 can)");
    run(&["--include", "mask"], "matches tensor \"mask\", whose type U8 can't be quantized");
}

#[test]
fn other_float_types_are_copied_with_a_notice() {
    let tensors = [
        floats("double", "F64", &[64, 64], 1),
        tensor("eight", "F8_E4M3", &[64, 64], vec![3; 4096]),
        floats("w", "F32", &[64, 64], 1),
        floats("tiny", "F64", &[2, 2], 1),
    ];
    let folder = Folder::with("in", &file(&tensors));
    let output = folder.run(&QUANTIZE);
    assert!(output.status.success());
    let wanted =
        "note: copied as they are, because only F32, F16 and BF16 are quantized: double (F64), eight (F8_E4M3)\n";
    assert!(stderr(&output).contains(wanted), "{}", stderr(&output));
    folder.ok(&["verify", "in", "out"]);
}

#[test]
fn nothing_to_quantize_is_copied_with_a_notice() {
    let folder = Folder::with("in", &file(&[floats("norm", "F32", &[64], 1)]));
    let output = folder.run(&QUANTIZE);
    assert!(output.status.success());
    assert!(stderr(&output).contains("note: no tensor was quantized"), "{}", stderr(&output));
    folder.ok(&["verify", "in", "out"]);
    folder.ok(&["dequantize", "out", "-o", "back", "--device", "cpu"]);
    assert_eq!(folder.read("back"), folder.read("in"));
}

#[test]
fn a_file_without_tensors() {
    let folder = Folder::with("in", &file(&[]));
    folder.ok(&QUANTIZE);
    folder.ok(&["verify", "in", "out"]);
    folder.ok(&["inspect", "out"]);
}

#[test]
fn names_that_clash_are_refused_before_any_work() {
    for part in ["w.scales", "w.blake3"] {
        let tensors = [floats("w", "F32", &[64, 64], 1), tensor(part, "U8", &[1], vec![0])];
        let folder = Folder::with("in", &file(&tensors));
        let sentence =
            folder.fails(1, &QUANTIZE, "in: tensor \"w\" can't be quantized, because the input has a tensor");
        assert!(sentence.contains(part), "{sentence}");
        let report = folder.quantize("sym4", &["--exclude", "w"]);
        assert_eq!(report["tensors"][0]["action"], "copied");
    }
}

/// Name and format of what was quantized.
fn formats(folder: &Folder, more: &[&str]) -> Vec<(String, String)> {
    let args = ["quantize", "in", "-o", "out", "--device", "cpu", "--force", "--verify", "full"];
    let report = folder.json(&[&args[..], more].concat());
    folder.ok(&["verify", "in", "out"]);
    let list = report["tensors"].as_array().unwrap().iter().filter(|tensor| tensor["action"] == "quantized");
    list.map(|tensor| (name(tensor).to_owned(), tensor["format"].as_str().unwrap().to_owned())).collect()
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(name, format)| ((*name).to_owned(), (*format).to_owned())).collect()
}

#[test]
fn formats_of_their_own() {
    let tensors = [
        floats("lm_head", "F32", &[64, 64], 1),
        floats("a.weight", "F32", &[64, 64], 2),
        floats("b.weight", "BF16", &[64, 64], 3),
        floats("norm", "F32", &[64], 4),
        tensor("ids", "I64", &[1], vec![0; 8]),
    ];
    let folder = Folder::with("in", &file(&tensors));
    let nf4 = ["--format", "nf4", "--override", "lm*=sym8", "--override", "b.*=keep"];
    assert_eq!(formats(&folder, &nf4), pairs(&[("lm_head", "sym8"), ("a.weight", "nf4")]));
    // The last that matches counts; a small tensor may be named; --exclude stands above all.
    let last = [&nf4[..], &["--override", "*=q8_0", "--override", "ids=keep", "--exclude", "a*"]].concat();
    assert_eq!(formats(&folder, &last), pairs(&[("lm_head", "q8_0"), ("b.weight", "q8_0"), ("norm", "q8_0")]));
    folder.ok(&["dequantize", "out", "-o", "back", "--device", "cpu"]);

    let args = ["quantize", "in", "-o", "new", "--device", "cpu"];
    let fails = |more: &[&str], wanted: &str| {
        folder.fails(1, &[&args[..], more].concat(), wanted);
    };
    fails(&["--format", "nf4", "--override", "x*=sym8"], "--override \"x*\" matches no tensor");
    fails(&["--format", "nf4", "--override", "id*=sym8"], "--override \"id*\" matches tensor \"ids\", whose type I64");
    let bnb = ["--container", "bnb", "--format", "nf4", "--override", "a.weight=fp4"];
    fails(&bnb, "bnb names one format for a whole model, so fp4 can't be beside nf4: use --container native");
    fails(&[&bnb[..5], &["a.weight=sym4"]].concat(), "sym4 can't be written as bnb");
    folder.fails(2, &[&args[..], &["--format", "nf4", "--override", "a"]].concat(), "PATTERN=FORMAT or PATTERN=keep");

    // GGUF holds several types, and says the one of most.
    let gguf = ["--format", "q4_0", "--container", "gguf", "--override", "{lm_head,a.weight}=q8_0", "--exclude", "ids"];
    let gguf = [&args[..], &gguf, &["--json"]].concat();
    folder.ok(&gguf);
    folder.ok(&["verify", "in", "new"]);
    let bytes = folder.read("new");
    let key = b"general.file_type";
    let at = bytes.windows(key.len()).position(|bytes| bytes == key).unwrap() + key.len() + 4;
    assert_eq!(bytes[at..at + 4], 7_u32.to_le_bytes(), "MOSTLY_Q8_0");
}

#[test]
fn options_from_a_file() {
    let tensors = [floats("lm_head", "F32", &[64, 64], 1), floats("a.weight", "F32", &[64, 64], 2)];
    let folder = Folder::with("in", &file(&tensors));
    let text = "format = \"nf4\"\nverify = \"full\"\nmin-elements = 1\nshard-size = \"1GB\"\n\n\
                [[override]]\npattern = \"lm*\"\nformat = \"sym8\"\n";
    folder.write("options.toml", text.as_bytes());
    let config = ["--config", "options.toml"];
    assert_eq!(formats(&folder, &config), pairs(&[("lm_head", "sym8"), ("a.weight", "nf4")]));
    assert!(folder.path("out/model.safetensors").exists(), "cut into files, of which there is one");
    std::fs::remove_dir_all(folder.path("out")).unwrap();
    folder.write("options.toml", text.replace("shard-size = \"1GB\"\n", "").as_bytes());
    // The command line wins, and its overrides come last.
    let more = [&config[..], &["--format", "fp4", "--override", "lm_head=keep"]].concat();
    assert_eq!(formats(&folder, &more), pairs(&[("a.weight", "fp4")]));

    let args = ["quantize", "in", "-o", "new", "--device", "cpu", "--config", "bad.toml"];
    for (text, wanted) in [
        ("formt = \"nf4\"", "bad.toml: line 1: unknown field `formt`"),
        ("\nformat = \"int3\"", "bad.toml: line 2: there is no format \"int3\""),
        ("format = ", "bad.toml: line 1: "),
        ("include = []", "bad.toml: names no format, and neither does the command line: add --format"),
        ("format = \"nf4\"\n[[override]]\npattern = \"a*\"", "bad.toml: line 2: missing field `format`"),
        ("format = \"nf4\"\n[[override]]\npattern = \"a*\"\nformat = \"x\"", "bad.toml: there is no format \"x\""),
        ("format = \"nf4\"\nshard-size = \"0\"", "bad.toml: line 2: a size is a number above 0"),
    ] {
        folder.write("bad.toml", text.as_bytes());
        folder.fails(1, &args, wanted);
    }
    folder.fails(1, &[&args[..7], &["gone.toml"]].concat(), "gone.toml: No such file");
    folder.fails(2, &args[..6], "--format");
}

/// The sizes that a dry run gives are those that come out, and nothing is written.
#[test]
fn a_dry_run_is_right() {
    let folder = Folder::with("in", &file(&mixed()));
    for more in [&["--format", "nf4-dq"][..], &["--format", "sym8", "--shard-size", "4KiB", "--override", "c*=nf4"]] {
        let args = [&["quantize", "in", "-o", "out", "--device", "cpu"], more].concat();
        let dry = [&args[..], &["--dry-run"]].concat();
        let planned = folder.json(&dry);
        assert!(folder.ok(&dry).ends_with("nothing was written\n"));
        assert_eq!(folder.names(), ["in"]);
        let report = folder.json(&args);
        assert_eq!((&planned["bytes_in"], &planned["bytes_out"]), (&report["bytes_in"], &report["bytes_out"]));
        for (planned, done) in planned["tensors"].as_array().unwrap().iter().zip(report["tensors"].as_array().unwrap())
        {
            for key in ["name", "action", "format", "shape", "dtype"] {
                assert_eq!(planned[key], done[key]);
            }
        }
        folder.fails(1, &dry, "out: exists already");
        let path = folder.path("out");
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    }
}
