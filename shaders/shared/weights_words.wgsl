// Weights at any multiple of 4 bytes.

@group(0) @binding(1) var<storage, read> weights: array<u32>; // (words of weights)

// Words 4·i .. 4·i+3 of the weights. What lies past the end is anything.
fn words4(i: u32) -> vec4<u32> {
    let at = params.values_at + 4u * i;
    return vec4<u32>(weights[at], weights[at + 1u], weights[at + 2u], weights[at + 3u]);
}

// Words 8·i .. 8·i+7 of the weights.
fn words8(i: u32) -> array<vec4<u32>, 2> {
    return array<vec4<u32>, 2>(words4(2u * i), words4(2u * i + 1u));
}
