// Values as bfloat16.
const OUT_PRECISION: i32 = 8;
// A subnormal's unit is 2^(OUT_MIN_EXPONENT − 150).
const OUT_MIN_EXPONENT: i32 = 17;
const OUT_INFINITY: u32 = 0x7f80u;
// No finite value is as large as 2^OUT_LIMIT.
const OUT_LIMIT: i32 = 128;
const OUT_SIGN: u32 = 0x8000u;
// Elements a word; the first one stands low.
const OUT_PER_WORD: u32 = 2u;

// `round_to` this type for an e of at least −6.
fn round_near_to_output(product: u32, e: i32) -> u32 {
    return round_near(product, e, OUT_PRECISION, OUT_MIN_EXPONENT, OUT_INFINITY);
}

// The same of a product that `held_as_f32` takes: bfloat16 is the upper half of a binary32, subnormals included.
fn round_held_to_output(product: u32, e: i32) -> u32 {
    let value = held_as_f32(product, e);
    return (value + 0x7fffu + ((value >> 16u) & 1u)) >> 16u;
}

// The same of a product whose leading bit is known as `round_from` wants it.
fn round_from_to_output(product: u32, leading: i32, e: i32) -> u32 {
    return round_from(product, leading, e, OUT_PRECISION, OUT_MIN_EXPONENT, OUT_INFINITY);
}
