//! Files in other tools' layouts that were made to deceive.

use serde_json::json;
use wgquant::Format;
use wgquant::checkpoint::inspect;

use crate::common::{Folder, Tensor, file_at, tensor};

/// Files that were made to deceive: one sentence, whatever the command.
#[test]
fn hostile_layouts() {
    let state = |text: &str| tensor("w.quant_state.bitsandbytes__nf4", "U8", &[text.len() as u64], text.into());
    let map = || {
        let bytes = wgquant::quant::nf4::VALUES.iter().flat_map(|x| x.to_le_bytes()).collect();
        tensor("w.quant_map", "F32", &[16], bytes)
    };
    let bnb = |text: &str| {
        vec![tensor("w", "U8", &[32, 1], vec![0; 32]), tensor("w.absmax", "F32", &[1], vec![0; 4]), map(), state(text)]
    };
    let refused = |tensors: &[Tensor], wanted: &str| {
        let folder = Folder::with("in", &file_at(tensors, &[], 0));
        folder.fails(1, &["inspect", "in"], wanted);
        folder.fails(1, &["dequantize", "in", "-o", "out", "--device", "cpu"], wanted);
        crate::service::refuses_packed(&folder.read("in"), wanted);
    };
    let text = |shape: &str, size: u64, dtype: &str| {
        format!(r#"{{"quant_type": "nf4", "blocksize": {size}, "dtype": "{dtype}", "shape": {shape}}}"#)
    };
    // As bitsandbytes writes it, and with padding.
    for padding in ["", "   \n "] {
        let folder = Folder::with("in", &file_at(&bnb(&(text("[1, 64]", 64, "bfloat16") + padding)), &[], 0));
        assert_eq!(inspect(&folder.path("in")).unwrap().tensors[0].dtype.to_string(), "BF16");
        folder.ok(&["dequantize", "in", "-o", "out", "--device", "cpu"]);
    }
    refused(
        &bnb(&text("[1, 65]", 64, "float32")),
        "its codes should be U8 of shape [33, 1], and are U8 of shape [32, 1]",
    );
    refused(&bnb(&text("[4294967296, 4294967296]", 64, "float32")), "which no packed weight has");
    refused(&bnb(&text("[0]", 64, "float32")), "which no packed weight has");
    refused(&bnb(&text("[-1]", 64, "float32")), "its quant_state is damaged");
    refused(&bnb(&text("[1, 64]", 0, "float32")), "gives blocks of 0 elements");
    refused(&bnb(&text("[1, 64]", 64, "int8")), "weights of type int8");
    refused(&bnb(""), "its quant_state is damaged");
    refused(&bnb(&"[".repeat(60_000)), "its quant_state is damaged");
    refused(&bnb(&" ".repeat(70_000)), "its quant_state should be U8 of at most 65536 bytes");
    let mut tensors = bnb(&text("[1, 64]", 64, "float32"));
    tensors[2].bytes[0] ^= 1;
    refused(&tensors, "its code values (\"w.quant_map\") are others than nf4 has");
    refused(&[&tensors[..1], &tensors[2..]].concat(), "its scales (\"w.absmax\") are missing");

    // Doubly quantized.
    let nested = |more: &str| {
        let text = text("[1, 64]", 64, "float32");
        let mut tensors = bnb(&(text[..text.len() - 1].to_owned() + more));
        tensors[1] = tensor("w.absmax", "U8", &[1], vec![9]);
        let map = wgquant::quant::nested::map().iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.push(tensor("w.nested_absmax", "F32", &[1], vec![0; 4]));
        tensors.push(tensor("w.nested_quant_map", "F32", &[256], map));
        tensors
    };
    let more = r#", "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.25}"#;
    let folder = Folder::with("in", &file_at(&nested(more), &[], 0));
    assert_eq!(inspect(&folder.path("in")).unwrap().tensors[0].format, Some(Format::Nf4Dq));
    folder.ok(&["dequantize", "in", "-o", "out", "--device", "cpu"]);
    refused(&nested("}"), "its scales should be F32 of shape [1], and are U8");
    refused(
        &nested(&more.replace("256", "128")),
        "gives blocks of 128 scales of type float32, and only 256 of float32",
    );
    refused(&nested(&more.replace("float32", "float16")), "gives blocks of 256 scales of type float16");
    refused(&nested(&more.replace("0.25", "1e999")), "its quant_state is damaged");
    let mut tensors = nested(more);
    tensors[5].bytes[77] ^= 4;
    refused(&tensors, "its scale values (\"w.nested_quant_map\") are others than nf4-dq has");
    refused(&nested(more)[..5], "its scale values (\"w.nested_quant_map\") are missing");
    tensors.remove(4);
    refused(&tensors, "its second-level scales (\"w.nested_absmax\") are missing");
    let folder = Folder::with("in", &file_at(&nested(&more.replace("0.25", "-1.0")), &[], 0));
    folder.ok(&["inspect", "in"]);
    folder.ok(&["dequantize", "in", "-o", "out", "--device", "cpu"]); // slightly negative scales are everyday
    let huge = Folder::with("in", &file_at(&nested(&more.replace("0.25", "1e300")), &[], 0));
    huge.fails(1, &["dequantize", "in", "-o", "out", "--device", "cpu"], "the scale of block 0 is");

    let shape = |rows: i64, columns: i64| {
        let bytes = [rows, columns].iter().flat_map(|n| n.to_le_bytes()).collect();
        tensor("w.weight_shape", "I64", &[2], bytes)
    };
    let packed = || tensor("w.weight_packed", "I32", &[1, 8], vec![0; 32]);
    let scale = || tensor("w.weight_scale", "F32", &[1, 1], vec![0; 4]);
    refused(&[packed(), scale()], "its scales (\"w.weight_scale\") or its shape");
    refused(&[packed(), scale(), shape(1, 63)], "records the shape [1, 63]");
    refused(&[packed(), scale(), shape(-1, 64)], "which no weight in groups of 64 has");
    refused(&[packed(), scale(), shape(2, 64)], "which fits neither 4 nor 8 bits");
    refused(&[packed(), scale(), shape(0, 64)], "which no weight in groups of 64 has");
    let point = tensor("w.weight_zero_point", "I32", &[1, 1], vec![0; 4]);
    refused(&[packed(), scale(), shape(1, 64), point], "is not symmetric");
    for (dtype, shape_of, n_bytes) in [("F64", [1, 1], 8), ("BF16", [1, 2], 4), ("I16", [1, 1], 2)] {
        let scale = tensor("w.weight_scale", dtype, &shape_of, vec![0; n_bytes]);
        let wanted = format!("its scales should be F32, F16 or BF16 of shape [1, 1], and are {dtype}");
        refused(&[packed(), scale, shape(1, 64)], &wanted);
    }

    let blocks = |shape: &[u64]| tensor("w_blocks", "U8", shape, vec![0; 32]);
    let scales = || tensor("w_scales", "U8", &[2], vec![0; 2]);
    refused(&[blocks(&[32]), scales()], "its blocks should have the shape of its scales and 16 bytes each");
    refused(&[blocks(&[1, 2, 16]), scales()], "its blocks should have the shape of its scales");
    let folder = Folder::with("in", &file_at(&[blocks(&[2, 16]), scales()], &[], 0));
    assert_eq!(folder.json(&["inspect", "in"])["tensors"][0]["shape"], json!([64]));
}
