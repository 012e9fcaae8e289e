// Weights as binary32: one word an element.

@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // (ceil(n_elems / 4))

// The bits of elements 4·i .. 4·i+3.
fn load4(i: u32) -> vec4<u32> {
    return weights[i];
}
