// What dequantize_serial reads and writes.

@group(0) @binding(1) var<storage, read> codes: array<vec4<u32>>; // (n_blocks, WORDS / 4)
@group(0) @binding(3) var<storage, read_write> values: array<vec4<u32>>; // (n_blocks, OUT_WORDS / 4)

// Words 4·i .. 4·i+3 of the codes.
fn codes4(i: u32) -> vec4<u32> {
    return codes[params.codes_at / 4u + i];
}

// Words 4·i .. 4·i+3 of the values.
fn store4(i: u32, four: vec4<u32>) {
    values[params.values_at / 4u + i] = four;
}
