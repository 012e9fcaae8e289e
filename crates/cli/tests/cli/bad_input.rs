//! Files that are not what they should be, and command lines that make no sense.

use crate::common::{Folder, file, floats, mixed, raw_file, tensor};

const QUANTIZE: [&str; 8] = ["quantize", "in", "-o", "out", "--format", "sym4", "--device", "cpu"];

/// Every command that reads this file must refuse it with the same sentence.
fn refused(bytes: &[u8], wanted: &str) {
    let folder = Folder::with("in", bytes);
    let sentence = folder.fails(1, &QUANTIZE, wanted);
    assert!(sentence.starts_with("error: in: "), "names the file: {sentence}");
    folder.fails(1, &["inspect", "in"], wanted);
    folder.fails(1, &["verify", "in", "in"], wanted);
    folder.fails(1, &["dequantize", "in", "-o", "out", "--device", "cpu"], wanted);
    crate::service::refuses(bytes, wanted);
}

fn entry(name: &str, dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
}

fn entries(list: &[String]) -> String {
    format!("{{{}}}", list.join(","))
}

#[test]
fn no_safetensors() {
    refused(b"", "is no safetensors file: it has only 0 bytes");
    refused(b"GGUF", "is cut short, or no sound GGUF file: its start would end at byte 8");
    refused(b"Dear reader, this is a letter and no model.", "is no safetensors file: its header would be");
    refused(&[0; 64], "is no safetensors file: its header does not start with '{'");
    refused(&raw_file("[1, 2]", &[], 0), "its header does not start with '{'");
    refused(&raw_file("{\"a\": nonsense}", &[], 0), "is no sound safetensors file");
    refused(&raw_file(&"{\"a\":".repeat(100_000), &[], 0), "is no sound safetensors file");
    refused(&raw_file("{\"\u{1b}[31m\": 1}", &[], 0), "is no sound safetensors file");
}

#[test]
fn header_length_2_to_the_63() {
    let mut bytes = file(&mixed());
    bytes[..8].copy_from_slice(&(1_u64 << 63).to_le_bytes());
    refused(&bytes, "its header would be 9223372036854775808 bytes long");
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&bytes, "its header would be 18446744073709551615 bytes long");
    bytes[..8].copy_from_slice(&90_000_000_u64.to_le_bytes());
    refused(&bytes, "or is cut short: its header would end at byte 90000008, and the file has");
}

#[test]
fn overlapping_offsets() {
    let header = entries(&[entry("a", "F32", "[4]", "[0,16]"), entry("b", "F32", "[4]", "[8,24]")]);
    refused(&raw_file(&header, &[0; 24], 0), "invalid offset for tensor `b`");
    refused(&raw_file(&header, &[0; 24], 0), "(tensors overlap or leave a gap)");
}

#[test]
fn offsets_and_shapes_that_lie() {
    let one = |dtype, shape, offsets| raw_file(&entries(&[entry("a", dtype, shape, offsets)]), &[0; 16], 0);
    refused(&one("F32", "[4]", "[16,0]"), "is no sound safetensors file");
    refused(&one("F32", "[5]", "[0,16]"), "is no sound safetensors file");
    refused(&one("F99", "[4]", "[0,16]"), "is no sound safetensors file");
    refused(&one("F32", "[-4]", "[0,16]"), "is no sound safetensors file");
    refused(&one("F32", "[4294967296,4294967296,2]", "[0,16]"), "is no sound safetensors file");
    refused(&one("F32", "[4]", "[0,18446744073709551615]"), "is no sound safetensors file");
    refused(&one("F32", "[2]", "[0,8]"), "is damaged: it has 8 bytes more than its header says");
}

#[test]
fn truncated() {
    let whole = file(&mixed());
    refused(&whole[..whole.len() - 7], "is cut short: 7 of its");
    refused(&whole[..100], "or is cut short");
}

#[test]
fn nan_is_named_with_its_index() {
    let mut weights = floats("layer.3.weight", "F32", &[70, 61], 1);
    weights.bytes[4 * 4099..4 * 4100].copy_from_slice(&f32::NAN.to_le_bytes());
    let mut halves = floats("half", "F16", &[70, 61], 1);
    halves.bytes[2 * 7..2 * 8].copy_from_slice(&[0x00, 0xfc]);
    for (bad, wanted) in [
        (weights, "in: tensor \"layer.3.weight\": element 4099 is NaN (bits 0x7fc00000)"),
        (halves, "in: tensor \"half\": element 7 is -Inf (bits 0xfc00)"),
    ] {
        let bytes = file(&[floats("fine", "F32", &[64, 64], 2), bad]);
        let folder = Folder::with("in", &bytes);
        folder.fails(1, &QUANTIZE, wanted);
        crate::service::refuses_to_quantize(&bytes, wanted.trim_start_matches("in: "));
    }
}

/// What is not quantized may hold anything.
#[test]
fn nan_in_a_copied_tensor_is_copied() {
    let folder = Folder::with("in", &file(&[tensor("n", "F32", &[1], f32::NAN.to_le_bytes().to_vec())]));
    folder.ok(&QUANTIZE);
    folder.ok(&["verify", "in", "out"]);
}

#[test]
fn unknown_format_and_other_usage() {
    let folder = Folder::with("in", &file(&mixed()));
    let run = |args: &[&str], wanted| folder.fails(2, args, wanted);
    run(&["quantize", "in", "-o", "out", "--format", "int3"], "there is no format \"int3\"; there are: sym4, sym8");
    run(&["quantize", "in", "-o", "out"], "--format <FORMAT>");
    run(&["quantize", "in", "--format", "sym4"], "--output <OUTPUT>");
    run(&["quantize", "in", "-o", "out", "--format", "sym4", "--verify", "most"], "there are: none, sample, full");
    run(&["quantize", "in", "-o", "out", "--format", "sym4", "--container", "zip"], "there are: native");
    run(&["quantize", "in", "-o", "out", "--format", "sym4", "--min-elements", "-3"], "'-3'");
    run(&["dequantize", "in", "-o", "out", "--dtype", "f64"], "there are: f32, f16, bf16");
    run(&["frobnicate"], "'frobnicate'");
    run(&[], "no command was given");
}

#[test]
fn unknown_device() {
    let folder = Folder::with("in", &file(&mixed()));
    let args = ["quantize", "in", "-o", "out", "--format", "sym4", "--device", "abacus"];
    folder.fails(1, &args, "no GPU adapter matches \"abacus\"");
}

#[test]
fn files_of_the_wrong_kind() {
    let folder = Folder::with("in", &file(&mixed()));
    folder.quantize("sym4", &[]);
    folder.fails(1, &["quantize", "out", "-o", "twice", "--format", "sym8", "--device", "cpu"], "already");
    folder.fails(1, &["dequantize", "in", "-o", "back", "--device", "cpu"], "was not quantized by wgquant");
    folder.fails(1, &["verify", "in", "in"], "was not quantized by wgquant");
}
