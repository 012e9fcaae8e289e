// sym4's codes in floating point, for comparison: a product with the reciprocal, rounded. Its bytes are near the kernel's.

const K: u32 = 7u;
const K_BITS: u32 = 3u;
const ONES: u32 = 0x11111111u;

fn slot_of(e: u32) -> u32 {
    return e ^ 1u;
}

alias Coder = f32;

fn coder(absmax: u32, scale: u32) -> Coder {
    return select(0.0, 1.0 / bitcast<f32>(scale), scale != 0u);
}

fn encode(c: Coder, x: u32) -> u32 {
    return ((x & SIGN) >> 28u) | u32(min(abs(bitcast<f32>(x)) * c + 0.5, 7.0));
}

fn has_invalid(word: u32) -> bool {
    let low_bits = word | (word >> 1u) | (word >> 2u);
    return ((word >> 3u) & ~low_bits & ONES) != 0u;
}
