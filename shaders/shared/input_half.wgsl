// Weights of 16 bits: two elements a word, the first one low. `words4`, `words8` and `widen` stand in files of their
// own.

const WIDE: u32 = 16u; // elements that `load_wide` gives

fn widen4(four: vec2<u32>) -> vec4<u32> {
    return vec4<u32>(widen(four.x & 0xffffu), widen(four.x >> 16u), widen(four.y & 0xffffu), widen(four.y >> 16u));
}

// The bits of elements 4·i .. 4·i+3, widened to binary32.
fn load4(i: u32) -> vec4<u32> {
    let eight = words4(i >> 1u);
    return widen4(select(eight.xy, eight.zw, (i & 1u) == 1u));
}

// The bits of elements WIDE·i .. WIDE·i+15, widened.
fn load_wide(i: u32) -> array<vec4<u32>, 4> {
    let w = words8(i);
    return array<vec4<u32>, 4>(widen4(w[0].xy), widen4(w[0].zw), widen4(w[1].xy), widen4(w[1].zw));
}
