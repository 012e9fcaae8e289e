// sym4: q = round_half_away(RN(x / scale)) in −7..7, scale = RN(absmax / 7); two's-complement nibbles, the even element
// in the high one. A tie goes away from zero; a zero block has scale 0 and codes 0.

const K: u32 = 7u;
const K_BITS: u32 = 3u;
const ONES: u32 = 0x11111111u;

// Where element e of the block stands, in nibbles from the lowest.
fn slot_of(e: u32) -> u32 {
    return e ^ 1u;
}

// One less than the smallest |x| bits whose code is at least 1, 2, … 7.
fn coder(absmax: u32, scale: u32) -> Coder {
    let z = 23u - min(firstLeadingBit(significand(scale) | 1u), 23u);
    let m = significand(scale) << z;
    let e = i32(exponent(scale)) - i32(z) - 2;
    return Coder(array<u32, 7>(
        below(m, e, 1u), below(m, e, 3u), below(m, e, 5u), below(m, e, 7u),
        below(m, e, 9u), below(m, e, 11u), below(m, e, 13u),
    ));
}

// One less than the smallest |x| whose quotient by the scale, m · 2^e in units of 2^-148, rounds to odd/2 or more: it
// reaches odd/2 less half of the quotient's last place, m >> (24 − f). The significand loses `shift` bits, more where the
// result is subnormal. A scale of 0 gives more than any element of its block.
fn below(m: u32, e: i32, odd: u32) -> u32 {
    let f = firstLeadingBit(odd);
    let product = m * odd;
    let shift = max(i32(f + (product >> (24u + f))), -e);
    return (u32(e + shift) << 23u) + ((product - (m >> (24u - f)) - 1u) >> u32(shift));
}

// The magnitude, with x's sign in bit 3.
fn encode(c: Coder, x: u32) -> u32 {
    return ((x & SIGN) >> 28u) | level(c, x & MAGNITUDE);
}

// Codes 8 to 15 become the negatives of 0 to 7: two's complement to sign and magnitude.
const MIRRORED: bool = true;

fn signs_apart(word: u32) -> u32 {
    let negative = (word >> 3u) & ONES;
    return (((word & 0x77777777u) ^ (7u * negative)) + negative) | (8u * negative);
}

// Whether one of the word's codes is one that no writer makes (the nibble 8): a borrow-free test of all eight at once.
fn has_invalid(word: u32) -> bool {
    let low_bits = word | (word >> 1u) | (word >> 2u);
    return ((word >> 3u) & ~low_bits & ONES) != 0u;
}
