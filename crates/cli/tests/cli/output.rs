//! What is printed, and where.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Folder, file, file_at, floats, mixed, stderr};

const QUANTIZE: [&str; 8] = ["quantize", "in", "-o", "out", "--format", "sym4", "--device", "cpu"];

pub(crate) fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

const FIGURES: [&str; 3] = ["max_abs_error", "mse", "sqnr_db"];

#[test]
fn quantize_json() {
    let folder = Folder::with("in", &file(&mixed()));
    for verify in ["none", "sample", "full"] {
        let report = folder.quantize("sym4", &["--force", "--verify", verify]);
        assert_eq!(
            keys(&report),
            ["adapter", "bytes_in", "bytes_out", "container", "format", "peak_memory", "resumed", "seconds", "tensors"],
            "{verify}"
        );
        assert_eq!(report["adapter"], "CPU");
        assert_eq!((&report["format"], &report["container"]), (&json!("sym4"), &json!("native")));
        assert_eq!(report["bytes_in"], folder.read("in").len());
        assert_eq!(report["bytes_out"], folder.read("out").len());
        assert!(report["seconds"].as_f64().unwrap() >= 0.0);
        for tensor in report["tensors"].as_array().unwrap() {
            let wanted =
                ["action", "digest", "dtype", "format", "max_abs_error", "mse", "name", "shape", "sqnr_db", "verified"];
            assert_eq!(keys(tensor), wanted);
            let quantized = tensor["action"] == "quantized";
            assert_eq!(tensor["digest"].is_null(), !quantized);
            for figure in FIGURES {
                assert_eq!(tensor[figure].is_number(), quantized && verify != "none", "{verify}: {tensor}");
            }
            let copied = if verify == "full" { "full" } else { "none" };
            assert_eq!(tensor["verified"], if quantized { verify } else { copied });
        }
        assert_eq!(report["tensors"][0]["shape"], json!([70, 61]));
        assert_eq!(report["tensors"][0]["dtype"], "F32");
    }
}

#[test]
fn verify_json() {
    let folder = Folder::with("in", &file(&mixed()));
    let quantized = folder.quantize("sym8", &["--verify", "full"]);
    let verified = folder.json(&["verify", "in", "out"]);
    assert_eq!(verified["matches"], true);
    let pairs = quantized["tensors"].as_array().unwrap().iter().zip(verified["tensors"].as_array().unwrap());
    for (ours, found) in pairs {
        assert_eq!(found["matches"], true);
        for key in [&FIGURES[..], &["name", "action", "shape", "dtype", "digest", "verified"]].concat() {
            assert_eq!(ours[key], found[key], "{key}");
        }
        assert_eq!(found["worst_block"].is_number(), found["action"] == "quantized");
    }
}

#[test]
fn dequantize_json() {
    let folder = Folder::with("in", &file(&mixed()));
    folder.quantize("sym8", &[]);
    let report = folder.json(&["dequantize", "out", "-o", "back", "--device", "cpu", "--dtype", "bf16"]);
    assert_eq!(keys(&report), ["adapter", "bytes_in", "bytes_out", "seconds", "tensors"]);
    assert_eq!(report["bytes_out"], folder.read("back").len());
    assert_eq!(report["tensors"][0]["action"], "dequantized");
    assert_eq!(report["tensors"][0]["dtype"], "BF16");
}

#[test]
fn inspect_native_and_plain() {
    let folder = Folder::with("in", &file_at(&mixed(), &[("format", "pt")], 0));
    let quantized = folder.quantize("sym4", &[]);
    let plain = folder.json(&["inspect", "in"]);
    let native = folder.json(&["inspect", "out"]);
    assert_eq!((&plain["container"], &native["container"]), (&Value::Null, &json!("native")));
    assert_eq!(plain["metadata"], json!({ "format": "pt" }));
    assert_eq!(native["metadata"], plain["metadata"]);
    assert_eq!(native["bytes"], folder.read("out").len());
    assert_eq!(plain["tensors"].as_array().unwrap().len(), mixed().len());
    assert_eq!(native["tensors"].as_array().unwrap().len(), mixed().len());
    let weight = &native["tensors"][0];
    assert_eq!(weight["name"], "a.weight");
    assert_eq!(
        (&weight["format"], &weight["dtype"], &weight["shape"]),
        (&json!("sym4"), &json!("F32"), &json!([70, 61]))
    );
    assert_eq!(weight["digest"], quantized["tensors"][0]["digest"]);
    assert_eq!(weight["bytes"], 4270 / 2 + 67 * 4 + 32);
    assert!(folder.ok(&["inspect", "out"]).contains("a.weight"));
}

#[test]
fn formats_adapters_and_demo() {
    let folder = Folder::new();
    let formats = folder.json(&["formats"]);
    assert_eq!(formats["formats"][0]["name"], "sym4");
    assert_eq!(formats["formats"][0]["bits_per_weight"], 4.5);
    assert_eq!(formats["formats"][0]["containers"], json!(["native", "compressed-tensors"]));
    assert!(folder.ok(&["formats"]).contains("sym8"));
    assert!(folder.json(&["adapters"])["adapters"].is_array());
    folder.ok(&["adapters"]);
    let demo = folder.json(&["demo", "--device", "cpu"]);
    let n_writable = wgquant::Format::ALL.len();
    assert_eq!(demo["formats"].as_array().unwrap().len(), n_writable);
    for row in demo["formats"].as_array().unwrap() {
        assert_eq!(row["verified"], "full");
        assert!(row["sqnr_db"].as_f64().unwrap() > 15.0);
    }
    assert!(folder.ok(&["demo", "--device", "cpu"]).contains("SQNR"));
    assert_eq!(folder.names(), [""; 0], "the demo leaves nothing here");
}

/// Without `--json` a person gets a line; with `--quiet` nobody gets anything.
#[test]
fn quiet() {
    let folder = Folder::with("in", &file(&[&mixed()[..], &[floats("double", "F64", &[64, 64], 1)]].concat()));
    let loud = folder.run(&QUANTIZE);
    assert!(String::from_utf8(loud.stdout).unwrap().starts_with("out: 3 tensors to sym4, 5 copied; "));
    let quiet = ["--quiet", "--force"];
    for args in [
        &[&QUANTIZE[..], &quiet].concat(),
        &[&QUANTIZE[..6], &quiet].concat(),
        &["dequantize", "out", "-o", "back", "--device", "cpu", "--quiet"][..],
        &["verify", "in", "out", "--quiet"],
        &["inspect", "out", "--quiet"],
        &["demo", "--device", "cpu", "--quiet"],
    ] {
        let output = folder.run(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        assert_eq!((output.stdout.as_slice(), stderr(&output).as_str()), (&b""[..], ""), "{args:?}");
    }
    let both = folder.run(&[&QUANTIZE[..], &quiet, &["--json"]].concat());
    serde_json::from_slice::<Value>(&both.stdout).unwrap();
    assert_eq!(stderr(&both), "");
}

/// What `auto` found is said when work begins, and an error before that stands alone.
#[test]
fn auto_says_when_it_takes_the_cpu() {
    let folder = Folder::with("in", &file(&mixed()));
    let args = &QUANTIZE[..6];
    let output = folder.run(&[args, &["--json"]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let said = stderr(&output).contains("note: no hardware GPU was found, so the CPU does the work");
    assert_eq!(said, report["adapter"] == "CPU", "{}", stderr(&output));
    folder.fails(1, args, "out: exists already");
}

/// A reader that goes away is no error, and no panic.
#[test]
fn broken_pipe() {
    let folder = Folder::with("in", &file(&mixed()));
    for args in [&["inspect", "in"][..], &["formats", "--json"], &["--help"], &["verify", "--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_wgquant"));
        command.current_dir(folder.root()).args(args).stdout(writer).stderr(Stdio::piped());
        let output = command.output().unwrap();
        assert_eq!(stderr(&output), "", "{args:?}");
        assert!(output.status.success(), "{args:?}: {:?}", output.status);
    }
}

/// A result that can't be printed is a failure, not a silence.
#[test]
fn full_standard_output() {
    let folder = Folder::with("in", &file(&mixed()));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgquant"));
    let output = command.current_dir(folder.root()).args(["inspect", "in"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: the result can't be written to standard output: No space left"));
}

/// Names from a file can't draw on the terminal.
#[test]
fn control_characters_in_names_stay_in_the_file() {
    let folder = Folder::with("in", &file(&[floats("w\u{1b}[31m\nerror: no", "F32", &[64, 64], 1)]));
    for args in [&["inspect", "in"][..], &QUANTIZE, &["verify", "in", "out"]] {
        assert!(!folder.ok(args).contains('\u{1b}'), "{args:?}");
    }
    folder.fails(1, &[&QUANTIZE[..], &["--force", "--include", "x\u{1b}\n"]].concat(), "matches no tensor");
}

/// In a log, progress is lines with bytes, rate, time left and the tensor; as often as is asked for, and never with
/// `--quiet`.
#[test]
fn lines_of_progress() {
    let folder =
        Folder::with("in", &file(&[floats("a", "F32", &[3000, 1000], 1), floats("b", "F32", &[3000, 1000], 2)]));
    let run = |more: &[&str]| {
        let output = folder.run(&[&QUANTIZE[..], &["--force", "--verify", "full"], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    let text = run(&["--progress-interval", "0"]);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() > 10, "{text}");
    assert!(lines[0].contains(" MB of 48.0 MB, time left unknown: a"), "{text}");
    let last = lines[lines.len() - 1];
    assert!(last.starts_with("100 % 48.0 MB of 48.0 MB, ") && last.ends_with("B/s, 0 s left: b"), "{text}");
    for line in &lines[1..] {
        assert!(line.contains(" % ") && line.contains("B/s, ") && line.contains(" s left: "), "{line}");
    }
    // It takes less than a minute.
    assert_eq!(run(&["--progress-interval", "60"]), "");
    assert_eq!(run(&["--progress-interval", "0", "--quiet"]), "");
    for bad in ["-1", "x", "inf", ""] {
        let args = ["inspect", "in", &format!("--progress-interval={bad}")];
        folder.fails(2, &args, "an interval is a number of seconds");
    }
}
