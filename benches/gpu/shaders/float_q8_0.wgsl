// q8_0 in floating point, both ways, for comparison: WGSL promises no rounding, so its bytes may be others.

fn slot_of(e: u32) -> u32 {
    return e;
}

fn scale_of(absmax: u32) -> u32 {
    return pack2x16float(vec2<f32>(bitcast<f32>(absmax) / 127.0, 0.0));
}

fn overflows(scale: u32) -> bool {
    return scale == 0x7c00u;
}

alias Coder = f32;

fn coder(absmax: u32, scale: u32) -> Coder {
    return select(0.0, 127.0 / bitcast<f32>(absmax), absmax != 0u);
}

fn encode(c: Coder, x: u32) -> u32 {
    return ((x & SIGN) >> 24u) | u32(min(abs(bitcast<f32>(x)) * c + 0.5, 127.0));
}

fn finish_word(word: u32) -> u32 {
    let negative = (word >> 7u) & 0x01010101u;
    return (((word & 0x7f7f7f7fu) ^ (0x7fu * negative)) + negative) ^ (0x80u * negative);
}

fn decoder(scale: u32) -> Decoder {
    let d = bitcast<u32>(unpack2x16float(scale).x);
    return Decoder(d, i32(exponent(d)), 0u);
}

fn decode(d: Decoder, code: u32) -> u32 {
    return bitcast<u32>(f32(i32(code << 24u) >> 24u) * bitcast<f32>(d.significand));
}

fn has_invalid(word: u32) -> bool {
    return false;
}

fn is_invalid(code: u32) -> bool {
    return false;
}
