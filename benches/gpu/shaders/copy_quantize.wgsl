// Moves a quantize kernel's bytes: reads all weights of a block, writes its codes and its scale. What it writes depends on
// all that it reads. IN_VECS, OUT_VECS: Bytes16 a block.

struct Params { n_elems: u32, n_blocks: u32, _pad0: u32, _pad1: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<Loaded>;
@group(0) @binding(2) var<storage, read_write> codes: array<Bytes16>;
@group(0) @binding(3) var<storage, read_write> scales: array<u32>;
@group(0) @binding(4) var<storage, read_write> status: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) gid: vec3<u32>, @builtin(num_workgroups) n_wg: vec3<u32>) {
    let block = gid.x + gid.y * n_wg.x * 64u;
    if block >= params.n_blocks {
        return;
    }
    let n = IN_VECS / LOADED;
    var all = Loaded();
    for (var i = 0u; i < n; i++) {
        all ^= weights[block * n + nth(i, n)];
    }
    let some = halves(all);
    for (var v = 0u; v < OUT_VECS; v++) {
        codes[block * OUT_VECS + v] = some;
    }
    scales[block] = folded(some);
}
