//! Any GGUF file behind its magic.
#![no_main]

use wgquant_fuzz::read_hostile;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut file = b"GGUF".to_vec();
    file.extend(input);
    read_hostile("model.gguf", &file);
});
