// ROWS rows and VECTORS vectors a workgroup, for a few vectors on hardware: invocations take eight neighbouring columns in
// turn, with each vector's numbers loaded once for all rows, and what they have is added up in workgroup memory.

const ROWS_WG: u32 = 128u;
const ROWS: u32 = 4u;
const SUMS: u32 = ROWS * VECTORS;

var<workgroup> partial: array<f32, SUMS * ROWS_WG>;

@compute @workgroup_size(ROWS_WG)
fn product_rows(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    fill_table(t);
    workgroupBarrier();
    let first_row = wg.x * ROWS;
    let first = wg.y * VECTORS;
    let last = params.n_vectors - 1u;
    var sums: array<f32, SUMS>;
    for (var i = t; i * 8u < params.n_cols; i += ROWS_WG) {
        var low: array<vec4<f32>, VECTORS>;
        var high: array<vec4<f32>, VECTORS>;
        for (var v = 0u; v < VECTORS; v++) { // unrolled
            low[v] = x4(min(first + v, last), 2u * i);
            high[v] = x4(min(first + v, last), 2u * i + 1u);
        }
        for (var r = 0u; r < ROWS; r++) { // unrolled
            let w = eight_at(min(first_row + r, params.n_rows - 1u), i);
            for (var v = 0u; v < VECTORS; v++) { // unrolled
                sums[r * VECTORS + v] += w.scale * (dot(w.low, low[v]) + dot(w.high, high[v]));
            }
        }
    }
    for (var k = 0u; k < SUMS; k++) { // unrolled
        partial[k * ROWS_WG + t] = sums[k];
    }
    for (var stride = ROWS_WG / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if t < stride {
            for (var k = 0u; k < SUMS; k++) {
                partial[k * ROWS_WG + t] += partial[k * ROWS_WG + t + stride];
            }
        }
    }
    workgroupBarrier();
    let row = first_row + t / VECTORS;
    let v = first + t % VECTORS;
    if t < SUMS && row < params.n_rows && v < params.n_vectors {
        finish(v, row, partial[t * ROWS_WG]);
    }
}
