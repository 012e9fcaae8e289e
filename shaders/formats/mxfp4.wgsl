// mxfp4 (OCP microscaling): the scale is 2^(e − 127), e = floor(log2 absmax) − 2 + 127, at least 0; codes are E2M1, the
// nearest value, ties to the even code, 6 for everything beyond. Element j stands in the low nibble of byte j, element
// j + 16 in the high one. A value that rounds to zero has code 0.

fn slot_of(e: u32) -> u32 {
    return 2u * (e & 15u) + (e >> 4u);
}

fn scale_of(absmax: u32) -> u32 {
    return max(absmax >> 23u, 2u) - 2u;
}

// The largest exponent is 252.
fn overflows(scale: u32) -> bool {
    return false;
}

// One less than the smallest |x| bits that reach each code.
fn coder(absmax: u32, scale: u32) -> Coder {
    // The middles between neighbouring values, in quarters. One belongs to the even code of the two.
    let e = i32(scale) + 21;
    return Coder(array<u32, 7>(
        round_to_f32(1u, e), round_to_f32(3u, e) - 1u, round_to_f32(5u, e), round_to_f32(7u, e) - 1u,
        round_to_f32(10u, e), round_to_f32(14u, e) - 1u, round_to_f32(20u, e),
    ));
}

fn encode(c: Coder, x: u32) -> u32 {
    let magnitude = level(c, x & MAGNITUDE);
    return magnitude | select(0u, 8u, x >= SIGN && magnitude > 0u);
}

fn finish_word(word: u32) -> u32 {
    return word;
}

// Twice the magnitude of codes 0 to 7, a nibble each from the lowest: 0, 1, 2, 3, 4, 6, 8, 12.
const HALVES: u32 = 0xc8643210u;

// Of half the scale, 2^(e − 128). Its word has no other bits, so its sign is 0; see `Decoder`.
fn decoder(scale: u32) -> Decoder {
    return Decoder(0x800000u, i32(scale & 0xffu) - 1, scale & OUT_SIGN);
}

// Code 8, which no writer makes, is 0 without a sign.
fn decode(d: Decoder, code: u32) -> u32 {
    return multiple(d, (HALVES >> (4u * (code & 7u))) & 15u, code > 8u);
}

// Codes 8 to 15 are the negatives of 0 to 7, but for 8, which is 0 without a sign.
const MIRRORED: bool = true;

fn signs_apart(word: u32) -> u32 {
    let not_zero = (word | (word >> 1u) | (word >> 2u)) & 0x11111111u;
    return word & (15u * not_zero);
}

fn has_invalid(word: u32) -> bool {
    return false;
}

fn is_invalid(code: u32) -> bool {
    return false;
}

// Half the scale, 2^(e − 128), as a binary32; products take it.
fn scale_bits(scale: u32) -> u32 {
    return select((scale - 1u) << 23u, 0x200000u << scale, scale < 2u);
}

// What a code stands for, in halves of the scale; products take it.
fn level_of(code: u32) -> i32 {
    let halves = i32((HALVES >> (4u * (code & 7u))) & 15u);
    return select(halves, -halves, code > 8u);
}
