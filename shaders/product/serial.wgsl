// One row and VECTORS vectors an invocation: no barrier, no shared memory. For software adapters.

const SERIAL_WG: u32 = 64u;

@compute @workgroup_size(SERIAL_WG)
fn product_serial(@builtin(global_invocation_id) gid: vec3<u32>) {
    let row = gid.x;
    if row >= params.n_rows {
        return;
    }
    let first = gid.y * VECTORS;
    let last = params.n_vectors - 1u;
    var sums: array<f32, VECTORS>;
    for (var s = 0u; s * STRIP < params.n_cols; s++) {
        let strip = strip_at(row, s);
        var dots: array<f32, VECTORS>;
        for (var q = 0u; q < 8u; q++) { // unrolled
            let w = vec4<f32>(
                value_at(strip, 4u * q), value_at(strip, 4u * q + 1u),
                value_at(strip, 4u * q + 2u), value_at(strip, 4u * q + 3u),
            );
            for (var v = 0u; v < VECTORS; v++) { // unrolled
                dots[v] += dot(w, x4(min(first + v, last), s * (STRIP / 4u) + q));
            }
        }
        for (var v = 0u; v < VECTORS; v++) { // unrolled
            sums[v] += strip.scale * dots[v];
        }
    }
    for (var v = 0u; v < VECTORS; v++) { // unrolled
        if first + v < params.n_vectors {
            finish(first + v, row, sums[v]);
        }
    }
}
