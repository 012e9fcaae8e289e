//! A bitsandbytes file whose quant_state, the JSON in a tensor, is anything; the tensors beside it are sound, so that
//! readers go on for as long as they can.
#![no_main]

use wgquant::quant::{nested, nf4};
use wgquant_fuzz::{read_hostile, safetensors};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    // What nested scales need stands there where the JSON speaks of them.
    let is_nested = input.windows(6).any(|word| word == b"nested");
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let mut tensors = vec![
        ("w.quant_state.bitsandbytes__nf4", "U8", vec![input.len()], input.to_vec()),
        ("w", "U8", vec![32, 1], vec![0x5a; 32]),
        ("w.quant_map", "F32", vec![16], bytes(&nf4::VALUES)),
    ];
    if is_nested {
        tensors.push(("w.absmax", "U8", vec![1], vec![200]));
        tensors.push(("w.nested_absmax", "F32", vec![1], bytes(&[0.5])));
        tensors.push(("w.nested_quant_map", "F32", vec![256], bytes(&nested::map())));
    } else {
        tensors.push(("w.absmax", "F32", vec![1], bytes(&[1.0])));
    }
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":{offsets:?}}}"#));
        data.extend(bytes);
    }
    let header = format!("{{{}}}", header.join(","));
    read_hostile("model.safetensors", &safetensors(header.as_bytes(), &data));
});
