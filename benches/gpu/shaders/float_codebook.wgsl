// What nf4 and fp4 are dequantized by, in floating point, for comparison: WGSL promises no rounding, so its bytes may be others.

fn slot_of(e: u32) -> u32 {
    return e ^ 1u;
}

fn decoder(scale: u32) -> Decoder {
    let d = decoder_of(scale);
    return Decoder(scale, d.exponent, d.sign);
}

fn decode(d: Decoder, code: u32) -> u32 {
    return bitcast<u32>(bitcast<f32>(value_of(code)) * bitcast<f32>(d.significand));
}

fn may_overflow(d: Decoder) -> bool {
    return d.exponent >= OUT_LIMIT + 126;
}

fn has_invalid(word: u32) -> bool {
    return false;
}

fn is_invalid(code: u32) -> bool {
    return false;
}
