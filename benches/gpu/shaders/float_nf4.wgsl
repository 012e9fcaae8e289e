// nf4's codes in floating point, for comparison: a product with the reciprocal, and the same bisection between constants.

const LARGEST_CODE: u32 = 15u;

const VALUES = array<u32, 16>(
    0xbf800000u, 0xbf3239b1u, 0xbf066b30u, 0xbeca32a0u,
    0xbe91a24du, 0xbe3d353fu, 0xbdba7871u, 0x00000000u,
    0x3da2faffu, 0x3e24cae3u, 0x3e7c04ddu, 0x3ead033au,
    0x3ee1a4b8u, 0x3f1007abu, 0x3f3913b3u, 0x3f800000u,
);

const SMALLEST_EXPONENT: u32 = 123u;

fn value_of(code: u32) -> u32 {
    var values = VALUES;
    return values[code];
}

alias Coder = f32;

fn coder(absmax: u32, scale: u32) -> Coder {
    return select(0.0, 1.0 / bitcast<f32>(absmax), absmax != 0u);
}

fn encode(c: Coder, x: u32) -> u32 {
    let a = bitcast<f32>(x) * c;
    let b3 = a > 0.03979014977812767;
    let b2 = a > select(-0.33967941999435425, 0.3893125355243683, b3);
    let b1 = a > select(select(-0.6106328964233398, -0.13791173696517944, b2), select(0.2035212516784668, 0.6427869200706482, b2), b3);
    let low = select(select(-0.8480963706970215, -0.4599952697753906, b1), select(-0.23460739850997925, -0.045525018125772476, b1), b2);
    let high = select(select(0.120255246758461, 0.2920137643814087, b1), select(0.5016634464263916, 0.8614784479141235, b1), b2);
    let b0 = a > select(low, high, b3);
    return select(0u, 8u, b3) | select(0u, 4u, b2) | select(0u, 2u, b1) | select(0u, 1u, b0);
}
