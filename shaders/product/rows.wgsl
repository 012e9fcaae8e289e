// ROWS rows and VECTORS vectors a workgroup, for a few vectors on hardware: invocations take eight neighbouring columns in
// turn, with each vector's numbers loaded once for all rows. Then what they have is added up.

const ROWS_WG: u32 = 128u;

var<workgroup> partial: array<f32, SUMS * ROWS_WG>;

// What invocation t has of each sum.
fn sums_of(wg: vec3<u32>, t: u32) -> array<f32, SUMS> {
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
    return sums;
}

// Invocation t stores sum t, if there is one.
fn finish_sum(wg: vec3<u32>, t: u32, sum: f32) {
    let row = wg.x * ROWS + t / VECTORS;
    let v = wg.y * VECTORS + t % VECTORS;
    if t < SUMS && row < params.n_rows && v < params.n_vectors {
        finish(v, row, sum);
    }
}
