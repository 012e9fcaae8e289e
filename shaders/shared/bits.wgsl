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

// product · 2^(e − 150), rounded once to the output's type: to nearest, ties to even, gradual underflow, no sign.
// product < 2^31, 1 ≤ e ≤ 254. What rounds beyond the largest finite value gives OUT_INFINITY.
fn round_to_output(product: u32, e: u32) -> u32 {
    if product == 0u {
        return 0u;
    }
    // The unit of the result is 2^shift of the product's: enough to leave OUT_PRECISION bits, and no finer than a
    // subnormal's.
    let n_bits = i32(firstLeadingBit(product)) + 1;
    let shift = max(n_bits - OUT_PRECISION, OUT_MIN_EXPONENT - i32(e));
    let exponent_field = u32(i32(e) + shift - OUT_MIN_EXPONENT) << u32(OUT_PRECISION - 1);
    if shift <= 0 {
        return min(exponent_field + (product << u32(-shift)), OUT_INFINITY);
    }
    if shift > 31 {
        return exponent_field; // less than half of the smallest subnormal
    }
    let kept = product >> u32(shift);
    let rest = product & ((1u << u32(shift)) - 1u);
    let half = 1u << u32(shift - 1);
    // A carry out of the significand moves the exponent on by itself.
    let up = select(0u, 1u, rest > half || (rest == half && (kept & 1u) == 1u));
    return min(exponent_field + kept + up, OUT_INFINITY);
}
