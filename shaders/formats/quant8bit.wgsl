// sym8: q = round_half_away(RN(x / scale)) in −127..127, scale = RN(absmax / 127); one two's-complement byte an element.
// A tie goes away from zero; a zero block has scale 0 and codes 0.

const K: u32 = 127u;
const K_BITS: u32 = 7u;
const ONES: u32 = 0x01010101u;

// Where element e of the block stands, in bytes from the lowest.
fn slot_of(e: u32) -> u32 {
    return e;
}

// The scale with its significand normalised to 24 bits, and a 16-bit reciprocal that is a little too small.
struct Coder {
    significand: u32,
    reciprocal: u32,
    exponent: u32, // of the largest elements there can be
    shift: u32, // brings their significand into units of half the scale
}

fn coder(absmax: u32, scale: u32) -> Coder {
    // A zero block has nothing to divide; any scale gives its codes 0.
    let m = select(significand(scale), 0x800000u, scale == 0u);
    let z = 23u - firstLeadingBit(m);
    let q = m << z;
    // Elements have less than 256 units, so 8 bits more, or what there is down to the subnormals.
    let e = max(i32(exponent(scale) + 7u - z), 1);
    return Coder(q, min(0x80000000u / (q >> 8u), 65535u) - 2u, u32(e), u32(e + 1 - i32(exponent(scale) - z)));
}

// |x| in units of half the scale, y / q, gives a guess that is the code or one less; an exact comparison settles it. The
// term added to y is the half unit in the last place that RN(x / scale) may round up.
fn encode(c: Coder, x: u32) -> u32 {
    let field = (x & MAGNITUDE) >> 23u;
    let m = (x & 0x7fffffu) | (min(field, 1u) << 23u);
    let y = (m << c.shift) >> min(c.exponent - max(field, 1u), 31u);
    let guess = ((y >> 16u) * c.reciprocal + 0x800000u) >> 24u;
    let odd = 2u * guess + 1u;
    let up = select(0u, 1u, y + (c.significand >> (countLeadingZeros(odd) - 7u)) >= c.significand * odd);
    return ((x & SIGN) >> 24u) | (guess + up);
}

// Whether one of the word's codes is one that no writer makes (the byte 0x80).
fn has_invalid(word: u32) -> bool {
    let low_bits = word & 0x7f7f7f7fu;
    // Adding 0x7f carries into bit 7 exactly where a lower bit is set.
    return ((word & ~(low_bits + 0x7f7f7f7fu)) & 0x80808080u) != 0u;
}
