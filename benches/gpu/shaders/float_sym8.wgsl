// sym8's codes in floating point, for comparison: a product with the reciprocal, rounded. Its bytes are near the kernel's.

const K: u32 = 127u;
const K_BITS: u32 = 7u;
const ONES: u32 = 0x01010101u;

fn slot_of(e: u32) -> u32 {
    return e;
}

alias Coder = f32;

fn coder(absmax: u32, scale: u32) -> Coder {
    return select(0.0, 1.0 / bitcast<f32>(scale), scale != 0u);
}

fn encode(c: Coder, x: u32) -> u32 {
    return ((x & SIGN) >> 24u) | u32(min(abs(bitcast<f32>(x)) * c + 0.5, 127.0));
}

fn has_invalid(word: u32) -> bool {
    let low_bits = word & 0x7f7f7f7fu;
    return ((word & ~(low_bits + 0x7f7f7f7fu)) & 0x80808080u) != 0u;
}
