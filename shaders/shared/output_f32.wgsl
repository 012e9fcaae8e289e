// Values as binary32.
const OUT_PRECISION: i32 = 24;
// A subnormal's unit is 2^(OUT_MIN_EXPONENT − 150).
const OUT_MIN_EXPONENT: i32 = 1;
const OUT_INFINITY: u32 = 0x7f800000u;
// No finite value is as large as 2^OUT_LIMIT.
const OUT_LIMIT: i32 = 128;
const OUT_SIGN: u32 = 0x80000000u;
// Elements a word; the first one stands low.
const OUT_PER_WORD: u32 = 1u;

// `round_to` this type for an e of at least −6.
fn round_near_to_output(product: u32, e: i32) -> u32 {
    return round_near(product, e, OUT_PRECISION, OUT_MIN_EXPONENT, OUT_INFINITY);
}

// The same of a product that `held_as_f32` takes.
fn round_held_to_output(product: u32, e: i32) -> u32 {
    return held_as_f32(product, e);
}

// The same of a product whose leading bit is known as `round_from` wants it.
fn round_from_to_output(product: u32, leading: i32, e: i32) -> u32 {
    return round_from(product, leading, e, OUT_PRECISION, OUT_MIN_EXPONENT, OUT_INFINITY);
}
