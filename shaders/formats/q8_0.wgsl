// q8_0 (GGUF): d = RN(absmax / 127); id = RN(1/d), 0 where that is not finite; code = RN(x · id) rounded half away from
// zero. The scale is d as an f16. One two's-complement byte an element.

const LARGEST_CODE: u32 = 128u; // −128, which other writers may make

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

// RN(1/d); significand 0 where that is not finite.
struct Coder {
    significand: u32,
    exponent: i32,
}

fn coder(absmax: u32, scale: u32) -> Coder {
    let r = reciprocal_of(max(divided(absmax), 1u));
    return Coder(select(r.reciprocal.significand, 0u, r.infinite), r.reciprocal.exponent);
}

// The magnitude, with x's sign in bit 7.
fn encode(c: Coder, x: u32) -> u32 {
    let y = scaled(significand(x), i32(exponent(x)));
    let product = multiply(y.significand, c.significand);
    // |x| · id = product · 2^e. Its leading 24 bits, rounded to nearest even, are RN(|x| · id).
    let e = y.exponent - 150 + c.exponent;
    let leading = (product.x << 16u) | (product.y >> 16u); // at least 2^30, at most 2^32
    let cut = firstLeadingBit(leading | 1u) - 23u;
    let kept = leading >> cut;
    let below_kept = leading & ((1u << cut) - 1u);
    let half = (1u << cut) >> 1u;
    let sticky = (product.y & 0xffffu) != 0u;
    let up = below_kept > half || (below_kept == half && (sticky || (kept & 1u) == 1u));
    let n = kept + select(0u, 1u, up);
    // n · 2^(e + 16 + cut), to an integer, halves away from zero.
    let shift = u32(clamp(-(e + 16 + i32(cut)), 1, 31));
    let magnitude = (n + (1u << (shift - 1u))) >> shift;
    return ((x & SIGN) >> 24u) | select(magnitude, 0u, leading == 0u);
}

fn finish_word(word: u32) -> u32 {
    let negative = (word >> 7u) & 0x01010101u;
    return (((word & 0x7f7f7f7fu) ^ (0x7fu * negative)) + negative) ^ (0x80u * negative);
}

// RN(code · d) in the output's type.
fn decode(scale: u32, code: u32) -> u32 {
    let d = widen_f16(scale);
    let negative = code >= 128u;
    let magnitude = select(code, 256u - code, negative);
    let sign = select(0u, OUT_SIGN, negative != ((d & SIGN) != 0u));
    return sign | round_to_output(magnitude * significand(d), i32(exponent(d)));
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
