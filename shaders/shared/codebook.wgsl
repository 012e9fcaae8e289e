// What nf4 and fp4 share: the scale is the block's largest |x|, elements are normalised by its rounded reciprocal, the
// even element stands in the high nibble. `value_of`, the binary32 bits of a code's value, stands in the format's file.

fn slot_of(e: u32) -> u32 {
    return e ^ 1u;
}

fn scale_of(absmax: u32) -> u32 {
    return absmax;
}

// An f32 scale always fits.
fn overflows(scale: u32) -> bool {
    return false;
}

fn finish_word(word: u32) -> u32 {
    return word;
}

// The scale with its significand in 24 bits, and its sign in the output's type.
struct Decoder {
    scale: Scaled,
    sign: u32,
}

fn decoder(scale: u32) -> Decoder {
    let sign = select(0u, OUT_SIGN, (scale & SIGN) != 0u);
    return Decoder(scaled(significand(scale), i32(exponent(scale))), sign);
}

// RN(value · scale) in the output's type, from the exact 48-bit product. Values are normal or 0.
fn decode(d: Decoder, code: u32) -> u32 {
    let value = value_of(code);
    let sign = select(d.sign, d.sign ^ OUT_SIGN, (value & SIGN) != 0u);
    let product = multiply(significand(value), d.scale.significand);
    // Its leading 31 bits; the last of them stands for all that is cut off, far below the one that decides the rounding.
    let cut = product.y & 0x1ffffu;
    let leading = (product.x << 15u) | (product.y >> 17u) | select(0u, 1u, cut != 0u);
    return sign | round_to_output(leading, i32(exponent(value)) + d.scale.exponent - 150 + 17);
}

// Whether a code could give infinity: values are at most 1.
fn may_overflow(d: Decoder) -> bool {
    return d.scale.exponent >= OUT_LIMIT + 126;
}

// Every code is one that writers make.
fn has_invalid(word: u32) -> bool {
    return false;
}

fn is_invalid(code: u32) -> bool {
    return false;
}

// The scale as a binary32, exactly; products take it.
fn scale_bits(scale: u32) -> u32 {
    return scale;
}
