// The same traffic with neighbouring invocations on neighbouring addresses: an invocation writes one vector of codes.

struct Params { n_elems: u32, n_blocks: u32, _pad0: u32, _pad1: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> codes: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> scales: array<u32>;
@group(0) @binding(4) var<storage, read_write> status: array<u32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wg: vec3<u32>,
    @builtin(num_workgroups) n_wg: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let tile = wg.x + wg.y * n_wg.x;
    let first = tile * 64u; // block
    if first + t >= params.n_blocks {
        return; // the traffic of whole workgroups is measured
    }
    for (var v = 0u; v < OUT_VECS; v++) {
        let o = first * OUT_VECS + v * 64u + t;
        var some = vec4<u32>(0u);
        for (var i = 0u; i < IN_VECS / OUT_VECS; i++) {
            some ^= weights[first * IN_VECS + (v * (IN_VECS / OUT_VECS) + i) * 64u + t];
        }
        codes[o] = some;
        if v == 0u {
            scales[first + t] = some.x;
        }
    }
}
