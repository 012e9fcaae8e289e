// The fields of a binary32, and the one rounding that dequantizing needs. Everything is an integer: WGSL promises no
// particular rounding for floating-point operations, so none of them may decide a byte of the result.

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
    // The leading bit goes to 30, so that a normal result drops as many bits whatever the product; a subnormal one drops more.
    let top = firstLeadingBit(product); // −1 where there is none
    let aligned = product << (30u - top);
    let field = i32(top) + (e + (1 - n_significant - min_exponent));
    // One less than what is dropped: more than 32 bits leave nothing.
    let dropped = u32(min(30 - n_significant - min(field, 0), 31));
    let odd = ((aligned >> dropped) >> 1u) & 1u;
    let rounded = ((aligned + ((1u << dropped) - 1u) + odd) >> dropped) >> 1u;
    // A carry out of the significand moves the exponent on by itself.
    let value = (u32(max(field, 0)) << u32(n_significant - 1)) + rounded;
    return select(0u, min(value, infinity), product != 0u);
}

// The same for an e of at least −6 and a type with n_significant + min_exponent ≤ 25, as binary32 and bfloat16 are.
fn round_near(product: u32, e: i32, n_significant: i32, min_exponent: i32, infinity: u32) -> u32 {
    return round_from(product, i32(firstLeadingBit(product)), e, n_significant, min_exponent, infinity);
}

// The same where the product's leading bit is known. Where the result is subnormal, any bit will do that isn't beyond the one that
// a normal result would have there.
fn round_from(product: u32, leading: i32, e: i32, n_significant: i32, min_exponent: i32, infinity: u32) -> u32 {
    let offset = e + (1 - n_significant - min_exponent);
    // Where the result is subnormal, the bit that a normal one would need goes to 30: what is dropped is always as much.
    let top = max(leading, -offset);
    let aligned = product << u32(30 - top);
    let odd = (aligned >> u32(31 - n_significant)) & 1u;
    let rounded = (aligned + ((1u << u32(30 - n_significant)) - 1u) + odd) >> u32(31 - n_significant);
    let value = (u32(top + offset) << u32(n_significant - 1)) + rounded;
    return select(0u, min(value, infinity), product != 0u);
}

// product · 2^(e − 150) as a binary32 that holds it: product < 2^24, and no result is subnormal.
fn held_as_f32(product: u32, e: i32) -> u32 {
    let top = firstLeadingBit(product);
    let value = (u32(i32(top) + (e - 24)) << 23u) + (product << (23u - top));
    return select(0u, min(value, INFINITY), product != 0u);
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

// The scale's magnitude, significand · 2^(exponent − 150), and its sign in the output's type. Where a compiler could tell that
// sign, LLVM would put the sign of each element together by shifts and masks, which is slower than to select it.
struct Decoder {
    significand: u32,
    exponent: i32,
    sign: u32,
}

// Of a scale that is a binary32 in bits.
fn decoder_of(scale: u32) -> Decoder {
    return Decoder(significand(scale), i32(exponent(scale)), select(0u, OUT_SIGN, (scale & SIGN) != 0u));
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
