// What formats share whose values are whole multiples of the scale.

// The scale's magnitude, significand · 2^(exponent − 150), and its sign in the output's type. Where a compiler could tell that
// sign, LLVM would put the sign of each element together by shifts and masks, which is slower than to select it.
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
    let value = d.sign | round_near_to_output(magnitude * d.significand, d.exponent);
    return select(value, value ^ OUT_SIGN, negative);
}

// Whether a code could give infinity: products with the significand are less than 2^31. Mostly false, and cheap.
fn may_overflow(d: Decoder) -> bool {
    return d.exponent >= OUT_LIMIT + 119;
}
