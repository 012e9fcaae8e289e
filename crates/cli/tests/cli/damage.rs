//! One byte is changed, and it is found and named.

use std::fs;

use wgquant::checkpoint::{PackedFile, SafetensorsFile, verify};

use crate::common::{Folder, Tensor, failure, file_at, floats, tensor};

/// Small tensors with rows that are cut short, or whole where the format asks for that.
fn small(whole: bool) -> Vec<Tensor> {
    let rows = |cut| if whole { 64 } else { cut };
    vec![
        floats("a", "F32", &[3, rows(65)], 1),
        tensor("ids", "I64", &[3], (0..24).collect()),
        floats("b", "F16", &[2, rows(129)], 2),
        tensor("mask", "BOOL", &[5], vec![1, 0, 1, 0, 1]),
        floats("c", "BF16", &[2, 64], 4),
    ]
}

/// A folder with `small` as `in` and quantized as `out`.
fn quantized(format: &str) -> Folder {
    let whole = wgquant::Format::from_name(format).unwrap().info().whole_blocks;
    let folder = Folder::with("in", &file_at(&small(whole), &[("format", "pt")], 0));
    folder.quantize(format, &["--min-elements", "1"]);
    folder
}

/// What must be named for a damaged byte at distance `at` from the start of tensor `name`.
fn expected(name: &str, format: wgquant::Format, at: u64) -> String {
    let info = format.info();
    let (weight, part) = name.rsplit_once('.').unwrap_or((name, "codes"));
    match part {
        _ if ["ids", "mask"].contains(&name) => format!("tensor {name:?}: its byte {at} is "),
        "codes" => format!("tensor {weight:?}, block {}: the code byte", at / info.block_codes_bytes() as u64),
        "scales" => format!("tensor {weight:?}, block {}: the scale byte", at / info.scale.stored_bytes() as u64),
        "nested_absmax" => format!("tensor {weight:?}, block {}: the second-level scale byte", at / 4 * 256),
        "nested_offset" => format!("tensor {weight:?}, block 0: the scale offset byte"),
        _ => format!("tensor {weight:?}: its codes and scales have the digest"),
    }
}

/// Every byte of a file, header and all, by what the command runs.
#[test]
fn every_flipped_byte_is_found_and_named() {
    for &format in wgquant::Format::ALL {
        let folder = quantized(format.name());
        let (original, damaged) = (folder.path("in"), folder.path("out"));
        let whole = folder.read("out");
        let opened = SafetensorsFile::open(&damaged).unwrap();
        let data_start = opened.n_bytes() - opened.data_bytes();
        let tensors = opened.tensors().to_vec();
        assert!(verify(&original, &damaged, &mut |_| {}).unwrap().first_mismatch().is_none());

        for position in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[position] ^= 1 << (position % 5);
            // The padding's spaces are white space still.
            if serde_json::from_slice::<serde_json::Value>(&bytes[8..usize::try_from(data_start).unwrap()]).is_ok()
                && whole[position] == b' '
                && bytes[position].is_ascii_whitespace()
            {
                continue;
            }
            fs::write(&damaged, &bytes).unwrap();
            let found = verify(&original, &damaged, &mut |_| {});
            let Some(at) = (position as u64).checked_sub(data_start) else {
                let noticed =
                    found.map_or_else(|error| Some(error.to_string()), |r| r.first_mismatch().map(str::to_owned));
                assert!(noticed.is_some(), "{format}: header byte {position} went unnoticed");
                continue;
            };
            let hit = tensors.iter().find(|t| (t.offset..t.offset + t.n_bytes).contains(&at)).unwrap();
            let report = found.unwrap();
            let sentence = report.first_mismatch().unwrap_or("nothing");
            let wanted = expected(&hit.name, format, at - hit.offset);
            assert!(
                sentence.contains(&wanted),
                "{format}: byte {position} ({}): {sentence}; wanted {wanted}",
                hit.name
            );
            assert_eq!(report.tensors.iter().filter(|tensor| tensor.mismatch.is_some()).count(), 1);
        }
    }
}

/// Dequantizing looks at digests first; a changed byte of a weight, its scales or its digest is refused.
#[test]
fn damaged_weights_are_not_dequantized() {
    let folder = quantized("sym4");
    let whole = folder.read("out");
    let native = PackedFile::open(&folder.path("out")).unwrap();
    let data_start = native.source().n_bytes() - native.source().data_bytes();
    for tensor in native.source().tensors() {
        if ["ids", "mask"].contains(&tensor.name.as_str()) {
            continue;
        }
        let mut bytes = whole.clone();
        bytes[usize::try_from(data_start + tensor.offset + tensor.n_bytes / 2).unwrap()] ^= 0x10;
        folder.write("damaged", &bytes);
        let weight = tensor.name.split('.').next().unwrap();
        let wanted = format!("damaged: tensor {weight:?}: its codes and scales have the digest");
        folder.fails(1, &["dequantize", "damaged", "-o", "back", "--device", "cpu"], &wanted);
        crate::service::refuses_packed(&bytes, wanted.trim_start_matches("damaged: "));
    }
}

/// The whole command: exit code, sentence, and the document with all that was found.
#[test]
fn the_command_says_what_and_where() {
    let folder = quantized("sym4");
    let mut bytes = folder.read("out");
    let native = PackedFile::open(&folder.path("out")).unwrap();
    let data_start = native.source().n_bytes() - native.source().data_bytes();
    for name in ["a", "ids"] {
        let tensor = native.source().tensors().iter().find(|tensor| tensor.name == name).unwrap();
        bytes[usize::try_from(data_start + tensor.offset).unwrap()] ^= 0x10;
    }
    folder.write("out", &bytes);

    let quiet = folder.run(&["verify", "in", "out", "--quiet"]);
    let sentence = failure(&quiet, 1, "error: tensor \"a\", block 0: the code byte of element 0 (input bits 0x");
    assert!(sentence.ends_with("(1 more tensor differs)\n"), "{sentence}");

    let output = folder.run(&["verify", "in", "out", "--json", "--quiet"]);
    assert_eq!(output.status.code(), Some(1));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["matches"], false);
    let matches: Vec<_> =
        document["tensors"].as_array().unwrap().iter().map(|t| t["matches"].as_bool().unwrap()).collect();
    assert_eq!(matches, [false, false, true, true, true]);
    assert_eq!(document["tensors"][0]["mse"], serde_json::Value::Null);
    assert!(document["tensors"][2]["mse"].as_f64().unwrap() > 0.0);
}

/// Tensors that are missing, too many or of another kind, and metadata that is not the original's.
#[test]
fn another_original_does_not_match() {
    let folder = quantized("sym4");
    let fails = |tensors: &[Tensor], metadata: &[(&str, &str)], wanted: &str| {
        folder.write("other", &file_at(tensors, metadata, 0));
        let output = folder.run(&["verify", "other", "out", "--quiet"]);
        failure(&output, 1, wanted);
    };
    let (pt, mut tensors) = ([("format", "pt")], small(false));
    fails(&tensors, &[("format", "tf")], "out: its __metadata__ differs from the original's");
    fails(&tensors, &[], "out: its __metadata__ differs from the original's");
    fails(&tensors[1..], &pt, "tensor \"a\": is not in the original");
    fails(&[&tensors[..1], &tensors[2..]].concat(), &pt, "tensor \"ids\": is not in the original");
    tensors.push(floats("d", "F32", &[2, 64], 9));
    fails(&tensors, &pt, "tensor \"d\": is missing from the quantized file");
    tensors.pop();
    tensors[0].shape = vec![65, 3];
    fails(
        &tensors,
        &pt,
        "tensor \"a\": the quantized file records F32 of shape [3, 65], and the original has F32 of shape [65, 3]",
    );
    tensors = small(false);
    tensors[2].dtype = "BF16";
    fails(&tensors, &pt, "tensor \"b\": the quantized file records F16");
    tensors = small(false);
    tensors[1].dtype = "U64";
    fails(&tensors, &pt, "tensor \"ids\": the quantized file has I64 of shape [3], and the original has U64");
    tensors = small(false);
    tensors[4].bytes[2] ^= 0x40;
    fails(&tensors, &pt, "tensor \"c\", block 0: the ");
}
