// Results and bias as binary32.
@group(0) @binding(5) var<storage, read_write> y: array<u32>; // (n_vectors, y_stride)

fn store_y(i: u32, value: f32) {
    y[i] = bitcast<u32>(value);
}

fn bias_of(i: u32) -> f32 {
    return bitcast<f32>(bias[i]);
}
