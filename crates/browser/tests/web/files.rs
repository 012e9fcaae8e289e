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
