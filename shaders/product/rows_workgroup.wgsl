// Sums are added up in workgroup memory.

@compute @workgroup_size(ROWS_WG)
fn product_rows(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    var sums = sums_of(wg, t);
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
    finish_sum(wg, t, partial[min(t, SUMS - 1u) * ROWS_WG]);
}
