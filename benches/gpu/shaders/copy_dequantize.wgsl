// Moves a dequantize kernel's bytes: reads the codes and the scale of a block, writes its weights. IN_VECS, OUT_VECS: Bytes16
// a block.

struct Params { n_elems: u32, n_blocks: u32, _pad0: u32, _pad1: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> codes: array<Bytes16>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read_write> values: array<Stored>;
@group(0) @binding(4) var<storage, read_write> status: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) gid: vec3<u32>, @builtin(num_workgroups) n_wg: vec3<u32>) {
    let block = gid.x + gid.y * n_wg.x * 64u;
    if block >= params.n_blocks {
        return;
    }
    let scale = scales[block];
    for (var v = 0u; v < IN_VECS; v++) {
        let some = codes[block * IN_VECS + v] ^ bytes16(scale);
        for (var i = 0u; i < OUT_VECS / IN_VECS / STORED; i++) {
            values[(block * OUT_VECS + v * (OUT_VECS / IN_VECS)) / STORED + i] = stored(some);
        }
    }
}
