//! Any header with a length that fits, and any file at all.
#![no_main]

use wgquant_fuzz::{read_hostile, safetensors};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    // The header ends at the first zero byte; what follows is data. Its length is right, or the fuzzer would never get in.
    let header = input.iter().position(|&byte| byte == 0).unwrap_or(input.len());
    let data = input.get(header + 1..).unwrap_or_default();
    read_hostile("model.safetensors", &safetensors(&input[..header], data));
    read_hostile("model.safetensors", input);
});
