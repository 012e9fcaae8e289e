// What formats share whose values are whole multiples of the scale.

// RN(±magnitude · scale) in the output's type.
fn multiple(d: Decoder, magnitude: u32, negative: bool) -> u32 {
    let value = d.sign | round_near_to_output(magnitude * d.significand, d.exponent);
    return select(value, value ^ OUT_SIGN, negative);
}

// Whether a code could give infinity: products with the significand are less than 2^31. Mostly false, and cheap.
fn may_overflow(d: Decoder) -> bool {
    return d.exponent >= OUT_LIMIT + 119;
}
