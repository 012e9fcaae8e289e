// 64 rows times 64 vectors a workgroup, for many vectors on hardware: 16 columns of both at a time go through workgroup
// memory, weights dequantized by one half of the invocations while the other loads vectors. Each invocation has four rows and four
// vectors, 16 apart.

const TILE_WG: u32 = 256u;
const TILE: u32 = 64u;
const STEP: u32 = 16u; // columns

var<workgroup> of_weights: array<f32, STEP * TILE>; // (columns, rows)
var<workgroup> of_vectors: array<f32, STEP * TILE>; // (columns, vectors)

@compute @workgroup_size(TILE_WG)
fn product_tile(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    fill_table(t);
    let first_row = wg.x * TILE;
    let first = wg.y * TILE;
    // What this invocation loads: eight columns of one row or of one vector.
    let line = t % TILE;
    let loads_weights = t < 2u * TILE;
    let of_step = (t / TILE) % 2u;
    let row = min(first_row + line, params.n_rows - 1u);
    let vector = min(first + line, params.n_vectors - 1u);
    // What it computes.
    let r = t % 16u;
    let v = t / 16u;

    var sums: array<f32, 16>;
    // Set to 0 for each strip by hand: a driver was seen to clear what is declared within a loop only once.
    var strip_sums: array<f32, 16>;
    for (var strip = 0u; strip < params.n_cols; strip += STRIP) {
        for (var k = 0u; k < 16u; k++) { // unrolled
            strip_sums[k] = 0.0;
        }
        for (var column = strip; column < strip + STRIP; column += STEP) {
            workgroupBarrier(); // what was loaded before is used up, or the table is filled
            let i = column / 8u + of_step;
            var low = vec4<f32>(0.0);
            var high = vec4<f32>(0.0);
            if i * 8u < params.n_cols {
                if loads_weights {
                    let w = eight_at(row, i);
                    low = w.low * w.scale;
                    high = w.high * w.scale;
                } else {
                    low = x4(vector, 2u * i);
                    high = x4(vector, 2u * i + 1u);
                }
            }
            for (var k = 0u; k < 4u; k++) { // unrolled
                if loads_weights {
                    of_weights[(of_step * 8u + k) * TILE + line] = low[k];
                    of_weights[(of_step * 8u + 4u + k) * TILE + line] = high[k];
                } else {
                    of_vectors[(of_step * 8u + k) * TILE + line] = low[k];
                    of_vectors[(of_step * 8u + 4u + k) * TILE + line] = high[k];
                }
            }
            workgroupBarrier();
            for (var k = 0u; k < STEP; k++) {
                var w: array<f32, 4>;
                var x: array<f32, 4>;
                for (var j = 0u; j < 4u; j++) { // unrolled
                    w[j] = of_weights[k * TILE + 16u * j + r];
                    x[j] = of_vectors[k * TILE + 16u * j + v];
                }
                for (var j = 0u; j < 4u; j++) { // unrolled
                    for (var i = 0u; i < 4u; i++) { // unrolled
                        strip_sums[4u * j + i] += w[j] * x[i];
                    }
                }
            }
        }
        for (var k = 0u; k < 16u; k++) { // unrolled
            sums[k] += strip_sums[k];
        }
    }
    for (var j = 0u; j < 4u; j++) { // unrolled
        for (var i = 0u; i < 4u; i++) { // unrolled
            if first_row + 16u * j + r < params.n_rows && first + 16u * i + v < params.n_vectors {
                finish(first + 16u * i + v, first_row + 16u * j + r, sums[4u * j + i]);
            }
        }
    }
}
