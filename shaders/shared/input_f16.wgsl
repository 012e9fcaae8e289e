// binary16 to binary32, exactly; infinities and NaN stay what they are.
fn widen(x: u32) -> u32 {
    let sign = (x & 0x8000u) << 16u;
    let magnitude = x & 0x7fffu;
    if magnitude >= 0x7c00u {
        return sign | INFINITY | ((magnitude & 0x3ffu) << 13u);
    }
    if magnitude >= 0x400u {
        return sign | ((magnitude << 13u) + (112u << 23u));
    }
    if magnitude == 0u {
        return sign;
    }
    // A subnormal magnitude · 2^-24: its leading bit becomes the hidden one, and the exponent field says which it was.
    let top = firstLeadingBit(magnitude);
    return sign | (((top + 102u) << 23u) + (magnitude << (23u - top)));
}
