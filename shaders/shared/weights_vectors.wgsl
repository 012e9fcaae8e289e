// Weights at a multiple of 16 bytes, in a buffer with room for whole vectors.

@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // (ceil(words of weights / 4))

// Words 4·i .. 4·i+3 of the weights.
fn words4(i: u32) -> vec4<u32> {
    return weights[params.values_at / 4u + i];
}
