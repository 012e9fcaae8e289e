// nf4: 4-bit NormalFloat. The code is how many midpoints between neighbouring values RN(x · RN(1/absmax)) exceeds,
// strictly; the scale is absmax. A zero block has codes 7.

const LARGEST_CODE: u32 = 15u;

const VALUES = array<u32, 16>(
    0xbf800000u, 0xbf3239b1u, 0xbf066b30u, 0xbeca32a0u,
    0xbe91a24du, 0xbe3d353fu, 0xbdba7871u, 0x00000000u,
    0x3da2faffu, 0x3e24cae3u, 0x3e7c04ddu, 0x3ead033au,
    0x3ee1a4b8u, 0x3f1007abu, 0x3f3913b3u, 0x3f800000u,
);

fn value_of(code: u32) -> u32 {
    var values = VALUES;
    return values[code];
}

// The thresholds between codes in order, in integers that order like the floats of either sign.
struct Coder {
    below: array<i32, 15>,
}

fn coder(absmax: u32, scale: u32) -> Coder {
    let r = reciprocal_of(max(absmax, 1u)); // the elements of a zero block exceed nothing
    return Coder(array<i32, 15>(
        negative(r, 0x3f591cd8u), negative(r, 0x3f1c5270u),
        negative(r, 0x3eeb8480u), negative(r, 0x3eadea76u),
        negative(r, 0x3e703cecu), negative(r, 0x3e0d38bcu), negative(r, 0x3d3a7871u),
        positive(r, 0x3d22faffu), positive(r, 0x3df64862u),
        positive(r, 0x3e5067e0u), positive(r, 0x3e9582d4u),
        positive(r, 0x3ec753f9u), positive(r, 0x3f006d04u),
        positive(r, 0x3f248dafu), positive(r, 0x3f5c89dau),
    ));
}

// For a midpoint −t: −|x| is above it where |x| is below all that reach t.
fn negative(r: Reciprocal, t: u32) -> i32 {
    return -2 - i32(below(r, t, false));
}

fn positive(r: Reciprocal, t: u32) -> i32 {
    return i32(below(r, t, true));
}

// How many thresholds x exceeds, by bisection.
fn encode(c: Coder, x: u32) -> u32 {
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
