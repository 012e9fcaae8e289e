// Weights as binary32: one word an element.

@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // (ceil(n_elems / 4))

// The bits of elements 4·i .. 4·i+3.
fn load4(i: u32) -> vec4<u32> {
    return weights[i];
}

// The bits of elements 8·i .. 8·i+7.
fn load8(i: u32) -> array<vec4<u32>, 2> {
    return array<vec4<u32>, 2>(weights[2u * i], weights[2u * i + 1u]);
}
