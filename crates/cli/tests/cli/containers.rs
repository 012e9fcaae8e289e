//! Native files that were made to deceive: each is refused with a sentence that names file and weight.

use serde_json::{Value, json};

use crate::common::{Folder, Tensor, file_at, tensor};

/// The parts of a sym4 weight `w` of 65 elements.
fn parts() -> Vec<Tensor> {
    vec![
        tensor("w.scales", "F32", &[2], vec![0; 8]),
        tensor("w", "U8", &[33], vec![0; 33]),
        tensor("w.blake3", "U8", &[32], vec![0; 32]),
    ]
}

fn metadata() -> Value {
    json!({ "version": 1, "weights": { "w": { "format": "sym4", "shape": [5, 13], "dtype": "F32", "block": 64 } } })
}

fn refused(tensors: &[Tensor], metadata: &str, wanted: &str) {
    let folder = Folder::with("in", &file_at(tensors, &[("wgquant", metadata)], 0));
    let sentence = folder.fails(1, &["inspect", "in"], wanted);
    assert!(sentence.starts_with("error: in: "), "{sentence}");
    folder.fails(1, &["dequantize", "in", "-o", "out", "--device", "cpu"], wanted);
    folder.fails(1, &["verify", "in", "in"], wanted);
    crate::service::refuses_packed(&folder.read("in"), wanted);
}

/// The metadata with one field of the weight changed.
fn with(key: &str, value: Value) -> String {
    let mut metadata = metadata();
    metadata["weights"]["w"][key] = value;
    metadata.to_string()
}

#[test]
fn the_sound_one_is_read() {
    let folder = Folder::with("in", &file_at(&parts(), &[("wgquant", &metadata().to_string())], 0));
    folder.ok(&["inspect", "in"]);
    folder.fails(
        1,
        &["dequantize", "in", "-o", "out", "--device", "cpu"],
        "in: tensor \"w\": its codes and scales have",
    );
}

#[test]
fn metadata_that_is_damaged() {
    refused(&parts(), "", "its metadata \"wgquant\" is damaged");
    refused(&parts(), "[1]", "its metadata \"wgquant\" is damaged");
    refused(&parts(), "{\"version\":1}", "its metadata \"wgquant\" is damaged: missing field `weights`");
    refused(&parts(), "{\"version\":2,\"shards\":[]}", "has layout version 2, and this wgquant reads version 1");
    refused(&parts(), "{\"version\":1,\"weights\":{},\"more\":0}", "unknown field `more`");
    refused(&parts(), &with("zero_point", json!(0)), "unknown field `zero_point`");
    refused(&parts(), &with("shape", json!([-1])), "is damaged: invalid value");
}

#[test]
fn metadata_that_lies() {
    refused(&parts(), &with("format", json!("int3")), "tensor \"w\": there is no format \"int3\"");
    refused(&parts(), &with("dtype", json!("I32")), "tensor \"w\": weights of type I32 can't be quantized");
    refused(&parts(), &with("dtype", json!("f32")), "tensor \"w\": weights of type f32 can't be quantized");
    refused(&parts(), &with("block", json!(32)), "its metadata gives a block of 32 elements, and sym4 has 64");
    refused(&parts(), &with("block", json!(0)), "its metadata gives a block of 0 elements");
    refused(&parts(), &with("shape", json!([5, 0])), "which has no elements");
    refused(&parts(), &with("shape", json!([1_u64 << 32, 1_u64 << 32])), "which no file can hold");
    refused(&parts(), &with("shape", json!([u64::MAX])), "which no file can hold");
    refused(&parts(), &with("shape", json!([1_u64 << 60])), "its codes should be U8 of shape [576460752303423488]");
    refused(&parts(), &with("shape", json!([5, 14])), "its codes should be U8 of shape [35], and are U8 of shape [33]");
    refused(&parts(), &with("format", json!("sym8")), "its codes should be I8 of shape [65], and are U8 of shape [33]");
}

#[test]
fn parts_that_are_missing_or_wrong() {
    let good = metadata().to_string();
    let change = |ix: usize, to: Option<Tensor>, wanted| {
        let mut parts = parts();
        parts.splice(ix..=ix, to);
        refused(&parts, &good, wanted);
    };
    change(0, None, "tensor \"w\": its scales (\"w.scales\") are missing");
    change(1, None, "tensor \"w\": its codes (\"w\") are missing");
    change(2, None, "tensor \"w\": its digest bytes (\"w.blake3\") are missing");
    change(0, Some(tensor("w.scales", "F32", &[3], vec![0; 12])), "its scales should be F32 of shape [2]");
    change(0, Some(tensor("w.scales", "I32", &[2], vec![0; 8])), "its scales should be F32 of shape [2], and are I32");
    change(1, Some(tensor("w", "U8", &[11, 3], vec![0; 33])), "and are U8 of shape [11, 3]");
    change(2, Some(tensor("w.blake3", "U8", &[31], vec![0; 31])), "its digest bytes should be U8 of shape [32]");
}

#[test]
fn a_part_that_belongs_to_two_weights() {
    let mut metadata = metadata();
    metadata["weights"]["w.blake3"] = json!({ "format": "sym4", "shape": [64], "dtype": "F32", "block": 64 });
    let more =
        [tensor("w.blake3.scales", "F32", &[1], vec![0; 4]), tensor("w.blake3.blake3", "U8", &[32], vec![0; 32])];
    let tensors = [&parts()[..], &more].concat();
    refused(&tensors, &metadata.to_string(), "the tensor \"w.blake3\" belongs to two weights");
}

/// Codes and scales that no writer makes, under a digest that fits.
#[test]
fn bytes_that_no_writer_makes() {
    for (byte, scale, wanted) in [
        (0x80, 1.0_f32, "tensor \"w\": block 0 holds the code 8 at element 4"),
        (0, f32::NAN, "tensor \"w\": the scale of block 0 is NaN"),
        (0, -1.0, "tensor \"w\": the scale of block 0 is -1"),
    ] {
        let mut parts = parts();
        parts[0].bytes[..4].copy_from_slice(&scale.to_le_bytes());
        parts[1].bytes[2] = byte;
        let packed =
            wgquant::Packed::from_parts(wgquant::Format::Sym4, 65, parts[1].bytes.clone(), parts[0].bytes.clone());
        parts[2].bytes = packed.unwrap().digest().to_vec();
        let folder = Folder::with("in", &file_at(&parts, &[("wgquant", &metadata().to_string())], 0));
        folder.fails(1, &["dequantize", "in", "-o", "out", "--device", "cpu"], wanted);
    }
}
