// Sixteen levels by the fifteen thresholds between them, of either sign: how many of them x exceeds, by bisection.

struct Thresholds {
    below: array<i32, 15>, // ascending, in integers that order like the floats
}

// For a threshold −t, where `below` is one less than the smallest magnitude that reaches t: −|x| is above −t where |x| is
// below that.
fn negative(below: u32) -> i32 {
    return -2 - i32(below);
}

fn level(c: Thresholds, x: u32) -> u32 {
    let t = c.below;
    let a = bitcast<i32>(x) ^ ((bitcast<i32>(x) >> 31u) & 0x7fffffff);
    let b3 = a > t[7];
    let b2 = a > select(t[3], t[11], b3);
    let b1 = a > select(select(t[1], t[5], b2), select(t[9], t[13], b2), b3);
    let low = select(select(t[0], t[2], b1), select(t[4], t[6], b1), b2);
    let high = select(select(t[8], t[10], b1), select(t[12], t[14], b1), b2);
    let b0 = a > select(low, high, b3);
    return select(0u, 8u, b3) | select(0u, 4u, b2) | select(0u, 2u, b1) | select(0u, 1u, b0);
}
