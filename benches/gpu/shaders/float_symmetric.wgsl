// What sym4 and sym8 are dequantized by, in floating point, for comparison: WGSL promises no rounding, so its bytes may be others.

fn decoder(scale: u32) -> Decoder {
    let d = decoder_of(scale);
    return Decoder(scale, d.exponent, d.sign);
}

fn decode(d: Decoder, code: u32) -> u32 {
    let level = i32(code << (32u - BITS)) >> (32u - BITS);
    return bitcast<u32>(f32(level) * bitcast<f32>(d.significand));
}

fn is_invalid(code: u32) -> bool {
    return code == K + 1u;
}
