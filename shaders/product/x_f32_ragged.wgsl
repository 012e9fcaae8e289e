// Vectors of binary32 at any multiple of 4 bytes, of any length.
@group(0) @binding(3) var<storage, read> x: array<u32>; // (n_vectors, n_cols)

fn x1(i: u32) -> f32 {
    return bitcast<f32>(x[i]);
}
