// Only reads what a product reads of its weights: codes and scales, a row an invocation. BITS, BLOCK as in the product.

struct Params {
    n_rows: u32, n_cols: u32, n_vectors: u32, y_stride: u32, skip: u32, codes_at: u32,
    scales_at: u32, x_at: u32, y_at: u32, bias_at: u32, has_bias: u32, _pad: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
    if gid.x >= params.n_rows {
        return;
    }
    let vecs = params.n_cols / 128u * BITS;
    let blocks = params.n_cols / BLOCK;
    var all = vec4<u32>(0u);
    for (var i = 0u; i < vecs; i++) {
        all ^= codes[gid.x * vecs + i];
    }
    var of_scales = 0u;
    for (var i = 0u; i < blocks; i++) {
        of_scales ^= scales[gid.x * blocks + i];
    }
    y[gid.x] = all.x ^ all.y ^ all.z ^ all.w ^ of_scales;
}
