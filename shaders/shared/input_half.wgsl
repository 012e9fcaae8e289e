// Weights of 16 bits: two elements a word, the first one low. `widen` stands in the type's own file.

@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // (ceil(n_elems / 8))

// The bits of elements 4·i .. 4·i+3, widened to binary32.
fn load4(i: u32) -> vec4<u32> {
    let eight = weights[i >> 1u];
    let four = select(eight.xy, eight.zw, (i & 1u) == 1u);
    return vec4<u32>(widen(four.x & 0xffffu), widen(four.x >> 16u), widen(four.y & 0xffffu), widen(four.y >> 16u));
}
