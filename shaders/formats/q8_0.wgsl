// q8_0 (GGUF): d = RN(absmax / 127); id = RN(1/d), 0 where that is not finite; code = RN(x · id) rounded half away from
// zero. The scale is d as an f16. One two's-complement byte an element.

fn slot_of(e: u32) -> u32 {
    return e;
}

// RN(absmax / 127) as a binary32. 127 is odd, so the quotient never lies halfway.
fn divided(absmax: u32) -> u32 {
    let m = significand(absmax);
    let field = absmax >> 23u;
    let shift = 7u - select(0u, 1u, m >= (127u << 17u));
    if field <= shift {
        return ((m << (exponent(absmax) - 1u)) + 63u) / 127u;
    }
    return ((m << shift) + 63u) / 127u + ((field - shift - 1u) << 23u);
}

fn scale_of(absmax: u32) -> u32 {
    let d = divided(absmax);
    return round_to_f16(significand(d), i32(exponent(d)));
}

fn overflows(scale: u32) -> bool {
    return scale == 0x7c00u;
}

// RN(1/d) as a significand of 24 bits, 0 where that is not finite; and the exponent of the largest elements there can be.
struct Coder {
    reciprocal: u32,
    exponent: u32,
}

fn coder(absmax: u32, scale: u32) -> Coder {
    let r = reciprocal_of(max(divided(absmax), 1u));
    return Coder(select(r.reciprocal.significand, 0u, r.infinite), u32(110 - r.reciprocal.exponent));
}

// The magnitude, with x's sign in bit 7. RN(|x| · id) reaches c + 1/2, which has few bits, where |x| · id lies no more than half
// a unit in its last place below.
fn encode(c: Coder, x: u32) -> u32 {
    let m = significand(x);
    let low = m & 0xffffu;
    // |x| · id in 2^-40 of a code for the largest elements, less its lowest 16 bits: none of the sums overflows.
    let product = (m >> 16u) * c.reciprocal
        + ((low * (c.reciprocal >> 8u) + ((low * (c.reciprocal & 0xffu)) >> 8u)) >> 8u);
    // Half a unit is 2^24 less than the leading bit. Where there is none in the product, the code is 0.
    let slack = 0x80u >> countLeadingZeros(product | 1u);
    let units = (product + slack) >> min(c.exponent - exponent(x), 31u);
    return ((x & SIGN) >> 24u) | ((units + 0x800000u) >> 24u);
}

fn finish_word(word: u32) -> u32 {
    let negative = (word >> 7u) & 0x01010101u;
    return (((word & 0x7f7f7f7fu) ^ (0x7fu * negative)) + negative) ^ (0x80u * negative);
}

fn decoder(scale: u32) -> Decoder {
    return decoder_of(widen_f16(scale));
}

// RN(code · d) in the output's type.
fn decode(d: Decoder, code: u32) -> u32 {
    let negative = code >= 128u;
    // The scale has 11 bits, and the magnitude 8. As an f16, it is far from a binary32's subnormals.
    let product = select(code, 256u - code, negative) * (d.significand >> 13u);
    let value = d.sign | round_held_to_output(product, d.exponent + 13);
    return select(value, value ^ OUT_SIGN, negative);
}

fn has_invalid(word: u32) -> bool {
    return false;
}

fn is_invalid(code: u32) -> bool {
    return false;
}

// The scale as a binary32, exactly; products take it.
fn scale_bits(scale: u32) -> u32 {
    return widen_f16(scale);
}

// What a code stands for, in scales; products take it.
fn level_of(code: u32) -> i32 {
    return i32(code << 24u) >> 24u;
}
