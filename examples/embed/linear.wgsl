// y = x · Wᵀ + bias from f32 weights: what the packed formats are compared with. One invocation four vectors and four
// rows of W, so that each load is used four times; a tile that sticks out works on the last vector again.
struct Params { n_vectors: u32, n_rows4: u32, n_cols4: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>; // [n_rows4 · 4, n_cols4]
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>; // [n_vectors, n_cols4]
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>; // [n_rows4]
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>; // [n_vectors, n_rows4]

/// A vector's products with four rows of W, four columns of each.
fn products(v: vec4<f32>, w0: vec4<f32>, w1: vec4<f32>, w2: vec4<f32>, w3: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(dot(v, w0), dot(v, w1), dot(v, w2), dot(v, w3));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
    let n = params.n_cols4;
    let rows = gid.x % params.n_rows4;
    let first = gid.x / params.n_rows4 * 4u;
    if first >= params.n_vectors {
        return;
    }
    let last = params.n_vectors - 1u;
    let vector = min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(last));
    var sum0 = bias[rows];
    var sum1 = sum0;
    var sum2 = sum0;
    var sum3 = sum0;
    for (var col = 0u; col < n; col++) {
        let row = rows * 4u * n + col;
        let w0 = w[row];
        let w1 = w[row + n];
        let w2 = w[row + 2u * n];
        let w3 = w[row + 3u * n];
        sum0 += products(x[vector.x * n + col], w0, w1, w2, w3);
        sum1 += products(x[vector.y * n + col], w0, w1, w2, w3);
        sum2 += products(x[vector.z * n + col], w0, w1, w2, w3);
        sum3 += products(x[vector.w * n + col], w0, w1, w2, w3);
    }
    // The last vector may be written more than once, by one invocation and with the same value.
    y[vector.x * params.n_rows4 + rows] = sum0;
    y[vector.y * params.n_rows4 + rows] = sum1;
    y[vector.z * params.n_rows4 + rows] = sum2;
    y[vector.w * params.n_rows4 + rows] = sum3;
}
