// q4_0 (GGUF): d = extreme / −8, where extreme is the first element of largest |x|; id = RN(1/d), 0 where that is not
// finite; code = min(15, trunc(RN(RN(x · id) + 8.5))). The scale is d as an f16. Element j stands in the low nibble of byte
// j, element j + 16 in the high one.

fn slot_of(e: u32) -> u32 {
    return 2u * (e & 15u) + (e >> 4u);
}

fn seen(x: u32) -> u32 {
    return x;
}

// Of two elements the one of larger magnitude, the first of equals.
fn larger(a: u32, b: u32) -> u32 {
    return select(a, b, (b & MAGNITUDE) > (a & MAGNITUDE));
}

fn extreme_of(seen: u32) -> u32 {
    return seen;
}

// RN(extreme / −8) as a binary32.
fn divided(extreme: u32) -> u32 {
    return ((extreme ^ SIGN) & SIGN) | round_to_f32(significand(extreme), i32(exponent(extreme)) - 3);
}

fn scale_of(extreme: u32) -> u32 {
    let d = divided(extreme);
    return ((d >> 16u) & 0x8000u) | round_to_f16(significand(d), i32(exponent(d)));
}

fn overflows(scale: u32) -> bool {
    return (scale & 0x7fffu) == 0x7c00u;
}

// Where the code changes: upwards from 8 where x · id is positive, downwards where it is negative. The sum with 8.5 rounds,
// too, so that some thresholds lie a little beyond the halves.
struct Coder {
    thresholds: Thresholds,
    turn: u32, // gives an element the sign of its product
}

fn threshold(r: Reciprocal, t: u32, strict: bool) -> u32 {
    // Without a finite reciprocal every code is 8.
    return select(below(r, t, strict), MAGNITUDE - 1u, r.infinite);
}

fn coder(extreme: u32, scale: u32) -> Coder {
    let r = reciprocal_of(max(divided(extreme) & MAGNITUDE, 1u));
    return Coder(
        Thresholds(array<i32, 15>(
            negative(threshold(r, 0x40f00000u, true)), negative(threshold(r, 0x40d00000u, true)),
            negative(threshold(r, 0x40b00000u, true)), negative(threshold(r, 0x40900000u, true)),
            negative(threshold(r, 0x40600001u, true)), negative(threshold(r, 0x40200001u, true)),
            negative(threshold(r, 0x3fc00002u, true)), negative(threshold(r, 0x3f000004u, true)),
            i32(threshold(r, 0x3efffff0u, false)), i32(threshold(r, 0x3fbffffcu, false)),
            i32(threshold(r, 0x401ffffeu, false)), i32(threshold(r, 0x405ffffeu, false)),
            i32(threshold(r, 0x408fffffu, false)), i32(threshold(r, 0x40afffffu, false)),
            i32(threshold(r, 0x40cfffffu, false)),
        )),
        (extreme & SIGN) ^ SIGN,
    );
}

fn encode(c: Coder, x: u32) -> u32 {
    return level(c.thresholds, x ^ c.turn);
}

fn finish_word(word: u32) -> u32 {
    return word;
}

fn decoder(scale: u32) -> Decoder {
    return decoder_of(widen_f16(scale));
}

// RN((code − 8) · d) in the output's type.
fn decode(d: Decoder, code: u32) -> u32 {
    let negative = code < 8u;
    let magnitude = select(code - 8u, 8u - code, negative);
    // The significand of an f16 has 24 bits as a binary32, so that the product's leading bit is one of two, which are known where
    // the code is.
    let product = magnitude * d.significand;
    let least = 23u + firstLeadingBit(magnitude | 1u);
    let value = d.sign | round_from_to_output(product, i32(least + (product >> (least + 1u))), d.exponent);
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
    return i32(code) - 8;
}
