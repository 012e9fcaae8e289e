// The same traffic with neighbouring invocations on neighbouring addresses: an invocation reads one vector of codes.

struct Params { n_elems: u32, n_blocks: u32, _pad0: u32, _pad1: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read_write> values: array<vec4<u32>>;
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
    let scale = scales[first + t];
    for (var v = 0u; v < IN_VECS; v++) {
        let some = codes[first * IN_VECS + v * 64u + t] ^ vec4<u32>(scale);
        for (var i = 0u; i < OUT_VECS / IN_VECS; i++) {
            values[first * OUT_VECS + (v * (OUT_VECS / IN_VECS) + i) * 64u + t] = some;
        }
    }
}
