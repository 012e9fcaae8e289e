// What dequantize_serial reads and writes, by 64-bit integers: a software adapter takes as long for one as for a word.

@group(0) @binding(1) var<storage, read> codes: array<vec2<u64>>; // (n_blocks, WORDS / 4)
@group(0) @binding(3) var<storage, read_write> values: array<vec4<u64>>; // (n_blocks, OUT_WORDS / 8)

// Words 4·i .. 4·i+3 of the codes.
fn codes4(i: u32) -> vec4<u32> {
    let pairs = codes[params.codes_at / 4u + i];
    return vec4<u32>(u32(pairs.x), u32(pairs.x >> 32u), u32(pairs.y), u32(pairs.y >> 32u));
}

// Words 8·i .. 8·i+7 of the values: the driver takes vectors apart, but tests and bounds are by vectors.
fn store8(i: u32, eight: array<u32, 8>) {
    let w = eight;
    values[params.values_at / 8u + i] = vec4<u64>(pair(w[0], w[1]), pair(w[2], w[3]), pair(w[4], w[5]), pair(w[6], w[7]));
}
