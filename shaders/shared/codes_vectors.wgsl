// What dequantize_serial reads and writes.

@group(0) @binding(1) var<storage, read> codes: array<vec4<u32>>; // (n_blocks, WORDS / 4)
@group(0) @binding(3) var<storage, read_write> values: array<vec4<u32>>; // (n_blocks, OUT_WORDS / 4)

// Words 4·i .. 4·i+3 of the codes.
fn codes4(i: u32) -> vec4<u32> {
    return codes[params.codes_at / 4u + i];
}

// Words 8·i .. 8·i+7 of the values.
fn store8(i: u32, eight: array<u32, 8>) {
    let w = eight;
    let at = params.values_at / 4u + 2u * i;
    values[at] = vec4<u32>(w[0], w[1], w[2], w[3]);
    values[at + 1u] = vec4<u32>(w[4], w[5], w[6], w[7]);
}
