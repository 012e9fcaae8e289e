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
