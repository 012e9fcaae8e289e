//! Memory that the size of the model does not touch.

use std::process::Command;

use crate::common::{Folder, file, floats, raw_file};

/// A tensor of 256 MiB (a hole in the file, so it costs no disk) goes through all jobs in 48 MiB of address space.
#[test]
fn a_tensor_larger_than_the_memory_there_is() {
    const N_BYTES: u64 = 256 << 20;
    const LIMIT_KIB: u64 = 48 << 10;
    let header = format!(r#"{{"w":{{"dtype":"F32","shape":[{},1024],"data_offsets":[0,{N_BYTES}]}}}}"#, N_BYTES / 4096);
    let folder = Folder::with("in", &raw_file(&header, &[], 0));
    let input = std::fs::OpenOptions::new().append(true).open(folder.path("in")).unwrap();
    input.set_len(input.metadata().unwrap().len() + N_BYTES).unwrap();
    let limited = |args: &str| {
        let script = format!("ulimit -v {LIMIT_KIB} || exit 99; exec {} {args} --quiet", env!("CARGO_BIN_EXE_wgquant"));
        Command::new("sh").args(["-c", &script]).current_dir(folder.root()).output().unwrap()
    };
    for args in [
        "quantize in -o out --format sym4 --device cpu --verify full",
        "verify in out --report out.html",
        "compare in --formats sym8,nf4-dq,q4_0 --report formats.html",
        "dequantize out -o back --device cpu",
        "inspect out",
    ] {
        let output = limited(args);
        assert!(output.status.success(), "{args}: {output:?}");
    }
    assert_eq!(folder.names(), ["back", "formats.html", "in", "out", "out.html"]);
}

/// The cap changes no byte, and one that nothing would fit is refused.
#[test]
fn a_cap_on_memory() {
    let folder = Folder::with("in", &file(&[floats("w", "F32", &[2048, 1500], 1)]));
    let device = crate::real_checkpoint::adapters().swap_remove(0);
    folder.quantize("nf4", &[]);
    let expected = folder.read("out");
    for device in ["cpu", &device] {
        let args = ["quantize", "in", "-o", "out", "--format", "nf4", "--force", "--device", device, "--memory"];
        let report = folder.json(&[&args[..], &["64MiB"]].concat());
        assert!(folder.read("out") == expected, "{device}");
        assert!(!cfg!(target_os = "linux") || report["peak_memory"].as_u64().unwrap() > 1 << 20);
        folder.fails(1, &[&args[..], &["63MiB"]].concat(), "bytes of memory are too few: at least 64 MiB are needed");
    }
}
