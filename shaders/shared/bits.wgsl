// The fields of a binary32, and the one rounding that dequantizing needs. Everything is an integer: WGSL promises no
// particular rounding for floating-point operations, so none of them may touch a byte of the result.

const SIGN: u32 = 0x80000000u;
const MAGNITUDE: u32 = 0x7fffffffu;
const INFINITY: u32 = 0x7f800000u;

// |x| = significand · 2^(exponent − 150), subnormals included.
fn exponent(x: u32) -> u32 {
    return max((x & INFINITY) >> 23u, 1u);
}

fn significand(x: u32) -> u32 {
    return (x & 0x7fffffu) | select(0u, 0x800000u, (x & INFINITY) != 0u);
}

// product · 2^(e − 150), rounded once, to nearest, ties to even, gradual underflow, no sign: to a type with `n_significant`
// significant bits, whose smallest subnormal is 2^(min_exponent − 150) and whose infinity is `infinity`. product < 2^31.
// What rounds beyond the largest finite value gives `infinity`.
fn round_to(product: u32, e: i32, n_significant: i32, min_exponent: i32, infinity: u32) -> u32 {
    if product == 0u {
        return 0u;
    }
    // The unit of the result is 2^shift of the product's: enough to leave `n_significant` bits, and no finer than a subnormal's.
    let n_bits = i32(firstLeadingBit(product)) + 1;
    let shift = max(n_bits - n_significant, min_exponent - e);
    let exponent_field = u32(e + shift - min_exponent) << u32(n_significant - 1);
    if shift <= 0 {
        return min(exponent_field + (product << u32(-shift)), infinity);
    }
    if shift > 31 {
        return exponent_field; // less than half of the smallest subnormal
    }
    let kept = product >> u32(shift);
    let rest = product & ((1u << u32(shift)) - 1u);
    let half = 1u << u32(shift - 1);
    // A carry out of the significand moves the exponent on by itself.
    let up = select(0u, 1u, rest > half || (rest == half && (kept & 1u) == 1u));
    return min(exponent_field + kept + up, infinity);
}

fn round_to_output(product: u32, e: i32) -> u32 {
    return round_to(product, e, OUT_PRECISION, OUT_MIN_EXPONENT, OUT_INFINITY);
}

fn round_to_f32(product: u32, e: i32) -> u32 {
    return round_to(product, e, 24, 1, INFINITY);
}

fn round_to_f16(product: u32, e: i32) -> u32 {
    return round_to(product, e, 11, 126, 0x7c00u);
}

// binary16 to binary32, exactly; infinities and NaN stay what they are.
fn widen_f16(x: u32) -> u32 {
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
