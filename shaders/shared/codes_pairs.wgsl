// What dequantize_serial reads and writes, by 64-bit integers: a software adapter takes as long for one as for a word.

@group(0) @binding(1) var<storage, read> codes: array<vec2<u64>>; // (n_blocks, WORDS / 4)
@group(0) @binding(3) var<storage, read_write> values: array<vec2<u64>>; // (n_blocks, OUT_WORDS / 4)

// Words 4·i .. 4·i+3 of the codes.
fn codes4(i: u32) -> vec4<u32> {
    let pairs = codes[params.codes_at / 4u + i];
    return vec4<u32>(u32(pairs.x), u32(pairs.x >> 32u), u32(pairs.y), u32(pairs.y >> 32u));
}

// Words 4·i .. 4·i+3 of the values.
fn store4(i: u32, four: vec4<u32>) {
    values[params.values_at / 4u + i] =
        vec2<u64>(u64(four.x) | (u64(four.y) << 32u), u64(four.z) | (u64(four.w) << 32u));
}
