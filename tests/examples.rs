//! The examples run on every adapter, and say what they promise.

mod common;

use std::path::PathBuf;
use std::process::Command;

/// What an example prints on an adapter. Cargo builds examples beside the tests.
fn run(example: &str, adapter: &str) -> String {
    let mut path: PathBuf = std::env::current_exe().expect("this test's own path");
    path.pop();
    path.pop();
    let path = path.join("examples").join(example);
    let output =
        Command::new(&path).arg(adapter).output().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(output.status.success(), "{example} on {adapter}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn quantize_on_device_gives_the_references_bytes() {
    let outputs: Vec<String> = common::adapter_names().iter().map(|name| run("quantize_on_device", name)).collect();
    for output in &outputs {
        assert!(output.contains("4000000 bytes became 562500"), "{output}");
        assert!(output.contains("equal to the CPU reference: true"), "{output}");
    }
}

#[test]
fn dequantize_on_device_gives_a_small_error() {
    for name in common::adapter_names() {
        let output = run("dequantize_on_device", &name);
        let error: f32 = output.trim().rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number");
        // Weights in -1..1.1 have scales of at most 1.1 / 127; the error is at most half of one.
        assert!(error > 0.0 && error <= 1.1 / 127.0 / 2.0 * 1.001, "{output}");
    }
}

#[test]
fn product_on_device_is_near_the_product_of_the_weights() {
    for name in common::adapter_names() {
        let output = run("product_on_device", &name);
        assert!(output.contains("786432 bytes of weights became 110600"), "{output}");
        let numbers: Vec<f32> = output
            .lines()
            .last()
            .expect("a line")
            .split(['=', ','])
            .filter_map(|part| part.trim().rsplit(' ').next()?.parse().ok())
            .collect();
        // 384 errors of at most half the widest gap between nf4's values, 0.152.
        assert!(
            numbers.len() == 2 && (numbers[0] - numbers[1]).abs() < 384.0 * 0.16 && numbers[0] != numbers[1],
            "{output}"
        );
    }
}
