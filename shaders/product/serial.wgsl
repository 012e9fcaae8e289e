// ROWS rows and VECTORS vectors an invocation: no barrier, no shared memory. For software adapters, where every load costs,
// so that each number of a vector is loaded once for all rows, and each weight once for all vectors.

const SERIAL_WG: u32 = 32u;

@compute @workgroup_size(SERIAL_WG)
fn product_serial(@builtin(global_invocation_id) gid: vec3<u32>) {
    let first_row = gid.x * ROWS;
    if first_row >= params.n_rows {
        return;
    }
    let first = gid.y * VECTORS;
    let last = params.n_vectors - 1u;
    var sums: array<f32, SUMS>;
    // Set to 0 for each strip by hand: a driver was seen to clear what is declared within a loop only once.
    var dots: array<f32, SUMS>;
    for (var s = 0u; s * STRIP < params.n_cols; s++) {
        var strips: array<Strip, ROWS>;
        for (var r = 0u; r < ROWS; r++) { // unrolled
            strips[r] = strip_at(min(first_row + r, params.n_rows - 1u), s);
        }
        for (var d = 0u; d < SUMS; d++) { // unrolled
            dots[d] = 0.0;
        }
        for (var q = 0u; q < 8u; q++) { // unrolled
            var x: array<vec4<f32>, VECTORS>;
            for (var v = 0u; v < VECTORS; v++) { // unrolled
                x[v] = x4(min(first + v, last), s * (STRIP / 4u) + q);
            }
            for (var r = 0u; r < ROWS; r++) { // unrolled
                let w = vec4<f32>(
                    value_at(strips[r], 4u * q), value_at(strips[r], 4u * q + 1u),
                    value_at(strips[r], 4u * q + 2u), value_at(strips[r], 4u * q + 3u),
                );
                for (var v = 0u; v < VECTORS; v++) { // unrolled
                    dots[r * VECTORS + v] += dot(w, x[v]);
                }
            }
        }
        for (var r = 0u; r < ROWS; r++) { // unrolled
            for (var v = 0u; v < VECTORS; v++) { // unrolled
                sums[r * VECTORS + v] += strips[r].scale * dots[r * VECTORS + v];
            }
        }
    }
    for (var r = 0u; r < ROWS; r++) { // unrolled
        for (var v = 0u; v < VECTORS; v++) { // unrolled
            if first_row + r < params.n_rows && first + v < params.n_vectors {
                finish(first + v, first_row + r, sums[r * VECTORS + v]);
            }
        }
    }
}
