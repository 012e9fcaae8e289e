// As read_packed.wgsl, with neighbouring invocations on neighbouring addresses: a row a workgroup.

struct Params {
    n_rows: u32, n_cols: u32, n_vectors: u32, y_stride: u32, skip: u32, codes_at: u32,
    scales_at: u32, x_at: u32, y_at: u32, bias_at: u32, has_bias: u32, _pad: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<atomic<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let vecs = params.n_cols / 128u * BITS;
    let blocks = params.n_cols / BLOCK;
    var all = vec4<u32>(0u);
    for (var i = t; i < vecs; i += 64u) {
        all ^= codes[wg.x * vecs + i];
    }
    var of_scales = 0u;
    for (var i = t; i < blocks; i += 64u) {
        of_scales ^= scales[wg.x * blocks + i];
    }
    atomicXor(&y[wg.x], all.x ^ all.y ^ all.z ^ all.w ^ of_scales);
}
