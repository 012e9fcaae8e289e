// Weights at a multiple of 16 bytes, in a buffer with room for whole vectors.

@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // (ceil(words of weights / 4))

// Words 4·i .. 4·i+3 of the weights.
fn words4(i: u32) -> vec4<u32> {
    return weights[params.values_at / 4u + i];
}

// Words 8·i .. 8·i+7 of the weights.
fn words8(i: u32) -> array<vec4<u32>, 2> {
    return array<vec4<u32>, 2>(words4(2u * i), words4(2u * i + 1u));
}
