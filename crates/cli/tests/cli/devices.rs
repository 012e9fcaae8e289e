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
