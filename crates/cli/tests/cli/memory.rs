//! Memory that the size of the model does not touch.

use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Folder, file, floats, raw_file, stderr};
use crate::real_checkpoint::adapters;

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
    let device = adapters().swap_remove(0);
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

/// A model in shards of 300 MiB (holes, so it costs no disk) with a cap of 64 MiB: what the system says of the whole process
/// stays within the cap and 150 MiB, which are what a GPU's driver takes for itself. Without a cap, a GPU takes more.
#[cfg(target_os = "linux")]
#[test]
fn peak_memory_is_the_cap_and_not_the_model() {
    const CAP: u64 = 64 << 20;
    const ALLOWANCE: u64 = 150 << 20;
    const SHARD_BYTES: u64 = 100 << 20;
    let folder = Folder::new();
    std::fs::create_dir(folder.path("in")).unwrap();
    let mut weight_map = json!({});
    for shard in 0..3 {
        let (name, tensor) = (format!("model-{shard}.safetensors"), format!("w{shard}"));
        let rows = SHARD_BYTES / 2048;
        let header =
            format!(r#"{{"{tensor}":{{"dtype":"BF16","shape":[{rows},1024],"data_offsets":[0,{SHARD_BYTES}]}}}}"#);
        let header = raw_file(&header, &[], 0);
        let file = std::fs::File::create(folder.path("in").join(&name)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &header, 0).unwrap();
        file.set_len(header.len() as u64 + SHARD_BYTES).unwrap();
        weight_map[tensor] = json!(name);
    }
    folder.write("in/model.safetensors.index.json", json!({ "weight_map": weight_map }).to_string().as_bytes());
    // What the process says of itself, and what the system says of it when it has ended.
    let script = "import json, resource, subprocess, sys\n\
        done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, check=True)\n\
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024\n\
        print(json.dumps([json.loads(done.stdout)['peak_memory'], peak]))";
    let peak = |device: &str, more: &[&str]| {
        let mut command = Command::new("python3");
        command.args([
            "-c",
            script,
            env!("CARGO_BIN_EXE_wgquant"),
            "quantize",
            "in",
            "-o",
            "out",
            "--force",
            "--quiet",
        ]);
        command.args(["--json", "--format", "sym4", "--device", device]).args(more).current_dir(folder.root());
        let output = command.output().expect("this test needs Python 3");
        assert!(output.status.success(), "{device}: {}", stderr(&output));
        let peaks: [u64; 2] =
            serde_json::from_slice::<Value>(&output.stdout).and_then(serde_json::from_value).expect("two numbers");
        // The system's two counters are not exact; and what starts the process takes some 10 MiB itself.
        assert!(peaks[1] < 40 << 20 || peaks[0].abs_diff(peaks[1]) < 4 << 20, "{device}: {peaks:?}");
        peaks[1].max(peaks[0])
    };
    for device in ["cpu", &adapters()[0]] {
        let capped = peak(device, &["--memory", "64MiB"]);
        assert!(capped < CAP + ALLOWANCE, "{device}: {} MiB", capped >> 20);
        if device != "cpu" {
            let uncapped = peak(device, &[]);
            assert!(uncapped > capped + (64 << 20), "{device}: {} and {} MiB", uncapped >> 20, capped >> 20);
        }
    }
}
