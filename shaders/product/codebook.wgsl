// Codes that stand for one of sixteen values, found by bisection: an index of its own for each invocation would put the
// table into memory.
fn value(code: u32) -> f32 {
    let b0 = (code & 1u) != 0u;
    let b1 = (code & 2u) != 0u;
    let b2 = (code & 4u) != 0u;
    let q0 = select(select(VALUES[0], VALUES[1], b0), select(VALUES[2], VALUES[3], b0), b1);
    let q1 = select(select(VALUES[4], VALUES[5], b0), select(VALUES[6], VALUES[7], b0), b1);
    let q2 = select(select(VALUES[8], VALUES[9], b0), select(VALUES[10], VALUES[11], b0), b1);
    let q3 = select(select(VALUES[12], VALUES[13], b0), select(VALUES[14], VALUES[15], b0), b1);
    return bitcast<f32>(select(select(q0, q1, b2), select(q2, q3, b2), (code & 8u) != 0u));
}
