//! `--device` with several names.

use crate::common::{Folder, file, floats};
use crate::real_checkpoint::adapters;

/// The command for devices.
fn on<'a>(devices: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let quantize = ["quantize", "in", "-o", "out", "--format", "nf4", "--verify", "full", "--force", "--device"];
    [&quantize[..], &[devices], more].concat()
}

#[test]
fn several_devices_give_the_file_of_one() {
    const NAMES: [&str; 8] = ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"];
    let tensors = NAMES.iter().zip(1..).map(|(name, seed)| floats(name, "BF16", &[256, 1024], seed));
    let folder = Folder::with("in", &file(&tensors.collect::<Vec<_>>()));
    folder.quantize("nf4", &["--verify", "full"]);
    let expected = folder.read("out");
    let all = [adapters(), vec!["cpu".to_owned()]].concat();
    let memory = format!("{}MiB", 64 * all.len());
    let devices = all.join(",");
    for more in [&[][..], &["--memory", &memory]] {
        let report = folder.json(&on(&devices, more));
        assert!(folder.read("out") == expected, "{devices}");
        let adapter = report["adapter"].as_str().unwrap();
        assert_eq!(adapter.matches(" + ").count(), all.len() - 1, "{adapter}");
        assert!(adapter.ends_with(" + CPU"), "{adapter}");
        folder.ok(&["dequantize", "out", "-o", "back", "--device", &devices, "--force"]);
    }
    let refused = |devices: &str, more: &[&str], wanted: &str| folder.fails(1, &on(devices, more), wanted);
    refused(&devices, &["--memory", "127MiB"], "bytes of memory are too few for");
    refused("cpu,CPU", &[], "the device \"CPU\" is named twice");
    refused("cpu,", &[], "has an empty name in it");
    refused("", &[], "has an empty name in it");
    refused("auto,cpu", &[], "the device auto stands alone");
    refused("cpu,no such card", &[], "no GPU adapter matches \"no such card\"");
    assert!(folder.read("out") == expected, "nothing was replaced");
}

/// The device opens while the input is read, and whichever fails first, the input's fault is told.
#[test]
fn a_bad_input_is_told_before_a_bad_device() {
    let folder = Folder::with("in", b"no checkpoint");
    let device = adapters().swap_remove(0);
    let args = on("no such card", &[]);
    let wanted = "in: ";
    folder.fails(1, &args, wanted);
    folder.fails(1, &on(&device, &[]), wanted);
    folder.write("in", &file(&[floats("w", "F32", &[64, 64], 1)]));
    folder.fails(1, &args, "no GPU adapter matches \"no such card\"");
    folder.fails(1, &on(&device, &["--memory", "1MiB"]), "bytes of memory are too few");
}

/// What the C library's own loader says that the program loaded while it ran, as every GPU library is: even what is unloaded
/// again, whatever its name.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn loaded_libraries(folder: &Folder, device: &str) -> Vec<String> {
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_wgquant"))
        .current_dir(folder.root())
        .args(on(device, &["--quiet"]))
        .env("LD_DEBUG", "files")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{device}: {said}");
    assert!(said.contains("file=libc.so.6"), "the loader says what it loads: {said}");
    said.lines().filter(|line| line.contains("dynamically loaded by")).map(str::to_owned).collect()
}

#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn the_cpu_needs_no_gpu_library() {
    let folder = Folder::with("in", &file(&[floats("w", "F32", &[64, 64], 1)]));
    assert_eq!(loaded_libraries(&folder, "cpu"), [""; 0]);
    for adapter in adapters() {
        let loaded = loaded_libraries(&folder, &adapter);
        let gpu = ["libvulkan", "libEGL"].into_iter().find(|name| loaded.iter().any(|line| line.contains(name)));
        assert!(gpu.is_some(), "{adapter}: {loaded:?}");
    }
}
