// Vectors of binary32 whose rows begin at multiples of 16 bytes.
@group(0) @binding(3) var<storage, read> x: array<vec4<u32>>; // (n_vectors, n_cols / 4)

// Elements 4·i .. 4·i+3 of vector v.
fn x4(v: u32, i: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(x[(params.x_at + v * params.n_cols) / 4u + i]);
}
