//! A bitsandbytes file whose quant_state, the JSON in a tensor, is anything.
#![no_main]

use wgquant_fuzz::{read_hostile, safetensors};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let n = input.len();
    let (absmax, map) = (n + 32, n + 36);
    let header = format!(
        r#"{{"w.quant_state.bitsandbytes__nf4":{{"dtype":"U8","shape":[{n}],"data_offsets":[0,{n}]}},
"w":{{"dtype":"U8","shape":[32,1],"data_offsets":[{n},{absmax}]}},
"w.absmax":{{"dtype":"F32","shape":[1],"data_offsets":[{absmax},{map}]}},
"w.quant_map":{{"dtype":"F32","shape":[16],"data_offsets":[{map},{}]}}}}"#,
        map + 64
    );
    let mut data = input.to_vec();
    data.extend([0x5a; 32]);
    data.extend(1.0_f32.to_le_bytes());
    data.extend([0; 64]);
    read_hostile("model.safetensors", &safetensors(header.as_bytes(), &data));
});
