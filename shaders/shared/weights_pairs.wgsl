// Weights at a multiple of 16 bytes, in a buffer with room for whole vectors, by 64-bit integers: a software adapter takes as
// long for one as for a word.

@group(0) @binding(1) var<storage, read> weights: array<vec2<u64>>; // (ceil(words of weights / 4))

// Words 4·i .. 4·i+3 of the weights.
fn words4(i: u32) -> vec4<u32> {
    let pairs = weights[params.values_at / 4u + i];
    return vec4<u32>(u32(pairs.x), u32(pairs.x >> 32u), u32(pairs.y), u32(pairs.y >> 32u));
}
