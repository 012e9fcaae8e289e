// Values as binary16.
const OUT_PRECISION: i32 = 11;
// A subnormal's unit is 2^(OUT_MIN_EXPONENT − 150).
const OUT_MIN_EXPONENT: i32 = 126;
const OUT_INFINITY: u32 = 0x7c00u;
// No finite value is as large as 2^OUT_LIMIT.
const OUT_LIMIT: i32 = 16;
const OUT_SIGN: u32 = 0x8000u;
// Elements a word; the first one stands low.
const OUT_PER_WORD: u32 = 2u;

// `round_to` this type for an e of at least −6.
fn round_near_to_output(product: u32, e: i32) -> u32 {
    return round_to(product, e, OUT_PRECISION, OUT_MIN_EXPONENT, OUT_INFINITY);
}

// The same of a product that `held_as_f32` takes, which is of no use here.
fn round_held_to_output(product: u32, e: i32) -> u32 {
    return round_near_to_output(product, e);
}

// The same of a product whose leading bit is known, which is of no use here.
fn round_from_to_output(product: u32, leading: i32, e: i32) -> u32 {
    return round_near_to_output(product, e);
}
