// fp4: bitsandbytes' 4-bit float. The level is how many thresholds |RN(x · RN(1/absmax))| exceeds, strictly; 8 is added
// where x < 0. The scale is absmax; a zero block has codes 0.

// Twelfths: 0, 1/16, 8, 12, 4, 6, 2, 3, and their negatives.
const VALUES = array<u32, 16>(
    0x00000000u, 0x3baaaaabu, 0x3f2aaaabu, 0x3f800000u,
    0x3eaaaaabu, 0x3f000000u, 0x3e2aaaabu, 0x3e800000u,
    0x80000000u, 0xbbaaaaabu, 0xbf2aaaabu, 0xbf800000u,
    0xbeaaaaabu, 0xbf000000u, 0xbe2aaaabu, 0xbe800000u,
);

// Exponent field of the smallest that isn't 0.
const SMALLEST_EXPONENT: u32 = 119u;

fn value_of(code: u32) -> u32 {
    var values = VALUES;
    return values[code];
}

// Codes 8 to 15 are the negatives of 0 to 7.
const MIRRORED: bool = true;

fn signs_apart(word: u32) -> u32 {
    return word;
}

// The code of each level, a nibble each from the lowest.
const CODES: u32 = 0x32547610u;

// One less than the smallest |x| bits that exceed each threshold.
fn coder(absmax: u32, scale: u32) -> Coder {
    let r = reciprocal_of(max(absmax, 1u)); // the elements of a zero block exceed nothing
    return Coder(array<u32, 7>(
        below(r, 0x3b2aaab9u, true), below(r, 0x3db00000u, true),
        below(r, 0x3e555555u, true), below(r, 0x3e955555u, true),
        below(r, 0x3ed55556u, true), below(r, 0x3f155550u, true),
        below(r, 0x3f555555u, true),
    ));
}

fn encode(c: Coder, x: u32) -> u32 {
    return ((CODES >> (4u * level(c, x & MAGNITUDE))) & 7u) | select(0u, 8u, x > SIGN);
}
