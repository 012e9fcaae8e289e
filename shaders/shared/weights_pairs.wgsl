// Weights at a multiple of 32 bytes, in a buffer with room for whole vectors, by 64-bit integers: a software adapter takes as
// long for one as for a word, and a vector of four saves it half of what it does for each lane besides.

@group(0) @binding(1) var<storage, read> weights: array<vec4<u64>>; // (ceil(words of weights / 8))

fn words_of(low: u64, high: u64) -> vec4<u32> {
    return vec4<u32>(u32(low), u32(low >> 32u), u32(high), u32(high >> 32u));
}

// Words 8·i .. 8·i+7 of the weights.
fn words8(i: u32) -> array<vec4<u32>, 2> {
    let w = weights[params.values_at / 8u + i];
    return array<vec4<u32>, 2>(words_of(w.x, w.y), words_of(w.z, w.w));
}

// Words 4·i .. 4·i+3 of the weights.
fn words4(i: u32) -> vec4<u32> {
    let w = weights[params.values_at / 8u + i / 2u];
    let odd = (i & 1u) == 1u;
    return words_of(select(w.x, w.z, odd), select(w.y, w.w, odd));
}
