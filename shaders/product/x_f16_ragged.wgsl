// Vectors of binary16 at any multiple of 4 bytes, of any length: rows may begin in the middle of a word.
@group(0) @binding(3) var<storage, read> x: array<u32>; // (n_vectors, n_cols), two a word

fn x1(i: u32) -> f32 {
    let two = unpack2x16float(x[i / 2u]);
    return select(two.x, two.y, (i & 1u) == 1u);
}
