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
struct Coder {
    below: array<u32, 7>,
}

fn coder(absmax: u32, scale: u32) -> Coder {
    let m = significand(scale);
    let e = exponent(scale);
    return Coder(array<u32, 7>(
        below(m, e, 1u), below(m, e, 3u), below(m, e, 5u), below(m, e, 7u),
        below(m, e, 9u), below(m, e, 11u), below(m, e, 13u),
    ));
}

// One less than the smallest |x| whose quotient by the scale rounds to odd/2 or more. A scale of 0 gives all ones, which
// nothing exceeds.
fn below(m: u32, e: u32, odd: u32) -> u32 {
    let product = m * odd;
    let shift = max(firstLeadingBit(product | 1u), select(23u, 24u, e < 2u)) - 23u;
    let rest = product & ((1u << shift) - 1u);
    let up = select(0u, 1u, (rest << (24u - firstLeadingBit(odd))) > m);
    return ((e + shift - 2u) << 23u) + (product >> shift) + up - 1u;
}

// How many thresholds |x| exceeds, with x's sign in bit 3.
fn encode(c: Coder, x: u32) -> u32 {
    let a = x & MAGNITUDE;
    return ((x & SIGN) >> 28u)
        + select(0u, 1u, a > c.below[0]) + select(0u, 1u, a > c.below[1]) + select(0u, 1u, a > c.below[2])
        + select(0u, 1u, a > c.below[3]) + select(0u, 1u, a > c.below[4]) + select(0u, 1u, a > c.below[5])
        + select(0u, 1u, a > c.below[6]);
}

// Whether one of the word's codes is one that no writer makes (the nibble 8): a borrow-free test of all eight at once.
fn has_invalid(word: u32) -> bool {
    let low_bits = word | (word >> 1u) | (word >> 2u);
    return ((word >> 3u) & ~low_bits & ONES) != 0u;
}
