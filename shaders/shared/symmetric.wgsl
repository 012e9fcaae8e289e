// What sym4 (K = 7) and sym8 (K = 127) share. K and K_BITS, the bits that K needs, stand in the format's file.

// scale = RN(absmax / K); where that is subnormal, rounded up to a multiple of 2^-149; where K · scale would overflow,
// the next lower float. One integer division: K is odd, so the quotient never lies halfway.
fn scale_of(absmax: u32) -> u32 {
    let m = significand(absmax);
    let field = absmax >> 23u;
    let shift = K_BITS - select(0u, 1u, m >= (K << (24u - K_BITS)));
    if field <= shift {
        return ((m << (exponent(absmax) - 1u)) + (K - 1u)) / K;
    }
    let scale = ((m << shift) + (K - 1u) / 2u) / K + ((field - shift - 1u) << 23u);
    // Of all finite maxima, only the largest one at K = 127 makes K · scale overflow.
    return scale - select(0u, 1u, K == 127u && absmax == 0x7f7fffffu);
}

// The code's sign and magnitude apart, as `encode` leaves them in each field of a word, to two's complement in all
// fields at once. ONES has a 1 in the lowest bit of every field.
fn finish_word(word: u32) -> u32 {
    let negative = (word >> (BITS - 1u)) & ONES;
    return (((word & (K * ONES)) ^ (K * negative)) + negative) ^ ((K + 1u) * negative);
}

fn decoder(scale: u32) -> Decoder {
    return decoder_of(scale);
}

// RN(code · scale) in the output's type; `code` is two's complement in BITS bits.
fn decode(d: Decoder, code: u32) -> u32 {
    let negative = code > K;
    return multiple(d, select(code, (K + K + 2u) - code, negative), negative);
}

// An f32 scale always fits.
fn overflows(scale: u32) -> bool {
    return false;
}

// The code −K−1, which no writer makes.
fn is_invalid(code: u32) -> bool {
    return code == K + 1u;
}

// The scale as a binary32, exactly; products take it.
fn scale_bits(scale: u32) -> u32 {
    return scale;
}

// What a code stands for, in scales; products take it.
fn level_of(code: u32) -> i32 {
    return i32(code << (32u - BITS)) >> (32u - BITS);
}
