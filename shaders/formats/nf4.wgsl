// nf4: 4-bit NormalFloat. The code is how many midpoints between neighbouring values RN(x · RN(1/absmax)) exceeds,
// strictly; the scale is absmax. A zero block has codes 7.

const VALUES = array<u32, 16>(
    0xbf800000u, 0xbf3239b1u, 0xbf066b30u, 0xbeca32a0u,
    0xbe91a24du, 0xbe3d353fu, 0xbdba7871u, 0x00000000u,
    0x3da2faffu, 0x3e24cae3u, 0x3e7c04ddu, 0x3ead033au,
    0x3ee1a4b8u, 0x3f1007abu, 0x3f3913b3u, 0x3f800000u,
);

// Exponent field of the smallest that isn't 0.
const SMALLEST_EXPONENT: u32 = 123u;

fn value_of(code: u32) -> u32 {
    var values = VALUES;
    return values[code];
}

alias Coder = Thresholds;

fn coder(absmax: u32, scale: u32) -> Coder {
    let r = reciprocal_of(max(absmax, 1u)); // the elements of a zero block exceed nothing
    return Thresholds(array<i32, 15>(
        negative(below(r, 0x3f591cd8u, false)), negative(below(r, 0x3f1c5270u, false)),
        negative(below(r, 0x3eeb8480u, false)), negative(below(r, 0x3eadea76u, false)),
        negative(below(r, 0x3e703cecu, false)), negative(below(r, 0x3e0d38bcu, false)), negative(below(r, 0x3d3a7871u, false)),
        i32(below(r, 0x3d22faffu, true)), i32(below(r, 0x3df64862u, true)),
        i32(below(r, 0x3e5067e0u, true)), i32(below(r, 0x3e9582d4u, true)),
        i32(below(r, 0x3ec753f9u, true)), i32(below(r, 0x3f006d04u, true)),
        i32(below(r, 0x3f248dafu, true)), i32(below(r, 0x3f5c89dau, true)),
    ));
}

// How many midpoints x exceeds.
fn encode(c: Coder, x: u32) -> u32 {
    return level(c, x);
}
