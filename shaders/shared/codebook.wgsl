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

fn decoder(scale: u32) -> Decoder {
    return decoder_of(scale);
}

// RN(value · scale) in the output's type, from the exact 48-bit product. Values are normal or 0.
fn decode(d: Decoder, code: u32) -> u32 {
    let value = value_of(code);
    let sign = select(d.sign, d.sign ^ OUT_SIGN, (value & SIGN) != 0u);
    let product = multiply(significand(value), d.significand);
    // Its leading 27 or 28 bits; the last of them stands for all that is cut off, far below the one that decides the rounding.
    // Of a subnormal scale it has fewer, but then the result is subnormal, and what is cut off is as far below.
    let cut = product.y & 0xfffffu;
    var leading = (product.x << 12u) | (product.y >> 20u) | select(0u, 1u, cut != 0u);
    var e = i32(exponent(value)) + d.exponent - 150 + 20;
    if SMALLEST_EXPONENT < 123u {
        // Tiny results of tiny values lose more, to have an e of at least −6.
        let more = u32(max(-6 - e, 0));
        leading = (leading >> more) | select(0u, 1u, (leading & ((1u << more) - 1u)) != 0u);
        e = max(e, -6);
    }
    return sign | round_from_to_output(leading, i32(26u + (leading >> 27u)), e);
}

// Whether a code could give infinity: values are at most 1.
fn may_overflow(d: Decoder) -> bool {
    return d.exponent >= OUT_LIMIT + 126;
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
