//! The real checkpoint through the package, on the browser's GPU and on its CPU, against the command line.

use std::path::Path;

use serde_json::Value;
use wgquant_browser::Page;

use crate::common::{LONG, assert_same, command_line, download, package, real_checkpoint};

/// Compresses the file that was chosen, and leaves the output in `output`.
fn quantize(page: &mut Page, format: &str, device: &str) -> Value {
    page.eval_within(
        LONG,
        &format!(
            "(async () => {{
               globalThis.output = await wgquant.quantizeFile(files.files[0],
                 {{ format: '{format}', device: '{device}', verify: 'full' }});
               return output.report;
             }})()"
        ),
    )
}

fn choose(page: &mut Page, files: &[&Path]) {
    page.choose_files("#files", files);
}

fn same_file(format: &str, device: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (original, by_command_line) = (real_checkpoint(), folder.path().join("command-line.safetensors"));
    let format_and_verify: [&dyn AsRef<std::ffi::OsStr>; 8] =
        [&"--quiet", &"quantize", &original, &"-o", &by_command_line, &"--device=cpu", &"--format", &format];
    command_line(&format_and_verify);
    let expected = std::fs::read(&by_command_line).unwrap();

    let (_server, mut page) = package();
    choose(&mut page, &[&original, &by_command_line]);
    let report = quantize(&mut page, format, device);
    println!(
        "{format} on {} in {} s, {} bytes of wasm memory",
        report["adapter"], report["seconds"], report["wasmMemoryBytes"]
    );
    assert_eq!(report["adapter"].as_str().unwrap().contains("webgpu"), device == "gpu", "{report}");
    assert_eq!(page.eval("output.isOnDisk"), true);
    let actual = download(&mut page, "output.file");
    assert_same(&actual, &expected, format);

    // Digests: the command line's file verifies here, and this one there.
    let verified = page.eval_within(LONG, "wgquant.verifyFile(files.files[0], files.files[1])");
    assert_eq!((&verified["matches"], &verified["mismatch"]), (&true.into(), &Value::Null));
    let of_weights = |report: &Value| -> Vec<Value> {
        report["tensors"].as_array().unwrap().iter().map(|tensor| tensor["digest"].clone()).collect()
    };
    assert_eq!(of_weights(&verified), of_weights(&report));
    assert!(of_weights(&report).iter().any(Value::is_string));
    let by_browser = folder.path().join("browser.safetensors");
    std::fs::write(&by_browser, &actual).unwrap();
    command_line(&[&"--quiet", &"verify", &original, &by_browser]);
    assert_eq!(page.complaints(), Vec::<String>::new());
}

#[test]
fn sym4_is_the_file_of_the_command_line() {
    same_file("sym4", "gpu");
}

#[test]
fn sym8_is_the_file_of_the_command_line() {
    same_file("sym8", "gpu");
}

#[test]
fn nf4_is_the_file_of_the_command_line() {
    same_file("nf4", "gpu");
}

#[test]
fn q8_0_is_the_file_of_the_command_line() {
    same_file("q8_0", "gpu");
}

/// Scales that depend on the whole tensor, and the CPU path in the browser's vector instructions.
#[test]
fn double_quantization_on_the_cpu_is_the_file_of_the_command_line() {
    same_file("nf4-dq", "cpu");
}

/// Another container, and back to plain weights.
#[test]
fn gguf_and_the_way_back_are_the_files_of_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let original = real_checkpoint();
    let [packed, plain] = ["packed.gguf", "plain.safetensors"].map(|name| folder.path().join(name));
    command_line(&[
        &"--quiet",
        &"quantize",
        &original,
        &"-o",
        &packed,
        &"--device=cpu",
        &"--format=q4_0",
        &"--container=gguf",
    ]);
    command_line(&[&"--quiet", &"dequantize", &packed, &"-o", &plain, &"--device=cpu", &"--dtype=f16"]);
    let (_server, mut page) = package();
    choose(&mut page, &[&original, &packed]);
    let names = page.eval_within(
        LONG,
        "(async () => {
           const [original, packed] = files.files;
           globalThis.there = await wgquant.quantizeFile(original,
             { format: 'q4_0', container: 'gguf', device: 'gpu', verify: 'none' });
           globalThis.back = await wgquant.dequantizeFile(packed, { dtype: 'f16', device: 'gpu' });
           const found = await wgquant.inspectFile(there.file);
           return [there.file.name, back.file.name, found.container, back.report.tensors[0].action];
         })()",
    );
    assert_eq!(names, serde_json::json!(["model-q4_0.gguf", "packed-f16.safetensors", "gguf", "dequantized"]));
    assert_same(&download(&mut page, "there.file"), &std::fs::read(packed).unwrap(), "gguf");
    assert_same(&download(&mut page, "back.file"), &std::fs::read(plain).unwrap(), "plain");
    assert_eq!(page.complaints(), Vec::<String>::new());
}
