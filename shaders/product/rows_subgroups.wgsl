// Sums are added up within subgroups, and then from one to the next. Which invocations make a subgroup doesn't matter.

@compute @workgroup_size(ROWS_WG)
fn product_rows_subgroups(
    @builtin(workgroup_id) wg: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
    @builtin(num_subgroups) n_subgroups: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    var sums = sums_of(wg, t);
    for (var k = 0u; k < SUMS; k++) { // unrolled
        let sum = subgroupAdd(sums[k]);
        if lane == 0u {
            partial[k * ROWS_WG + subgroup] = sum;
        }
    }
    workgroupBarrier();
    var sum = 0.0;
    if t < SUMS {
        for (var s = 0u; s < n_subgroups; s++) {
            sum += partial[t * ROWS_WG + s];
        }
    }
    finish_sum(wg, t, sum);
}
