// Results and bias as binary16, two elements a word. Rows of one word are written by invocations that don't know of each
// other, so each clears and sets its own half.
@group(0) @binding(5) var<storage, read_write> y: array<atomic<u32>>; // (n_vectors, y_stride)

// Rounded to nearest even; beyond the largest binary16, infinity.
fn store_y(i: u32, value: f32) {
    let bits = bitcast<u32>(value);
    let magnitude = select(round_to_f16(significand(bits), i32(exponent(bits))), 0x7e00u, (bits & MAGNITUDE) > INFINITY);
    let half = ((bits >> 16u) & 0x8000u) | magnitude;
    let shift = 16u * (i & 1u);
    atomicAnd(&y[i / 2u], ~(0xffffu << shift));
    atomicOr(&y[i / 2u], half << shift);
}

fn bias_of(i: u32) -> f32 {
    return bitcast<f32>(widen_f16((bias[i / 2u] >> (16u * (i & 1u))) & 0xffffu));
}
