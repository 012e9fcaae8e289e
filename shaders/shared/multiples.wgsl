// What formats share whose values are whole multiples of the scale.

// The scale's magnitude, significand · 2^(exponent − 150), and its sign in the output's type.
struct Decoder {
    significand: u32,
    exponent: i32,
    sign: u32,
}

// Of a scale that is a binary32 in bits.
fn decoder_of(scale: u32) -> Decoder {
    return Decoder(significand(scale), i32(exponent(scale)), select(0u, OUT_SIGN, (scale & SIGN) != 0u));
}

// RN(±magnitude · scale) in the output's type.
fn multiple(d: Decoder, magnitude: u32, negative: bool) -> u32 {
    return select(d.sign, d.sign ^ OUT_SIGN, negative) | round_to_output(magnitude * d.significand, d.exponent);
}

// Whether a code could give infinity: products with the significand are less than 2^31. Mostly false, and cheap.
fn may_overflow(d: Decoder) -> bool {
    return d.exponent >= OUT_LIMIT + 119;
}
