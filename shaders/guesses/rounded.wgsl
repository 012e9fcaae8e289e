// Quotients by the scale, rounded to the integers of BITS bits: between 128 and 256 a number has room for 4 bits and 16 of
// fraction, between 256 and 512 for 8 bits and 15.

const STEPS: f32 = f32((1u << (BITS - 1u)) - 1u);
const FRACTION_BITS: u32 = 16u - BITS / 8u;
const MIDDLE: f32 = f32(3u << (22u - FRACTION_BITS));
const OFFSET: f32 = MIDDLE + 0.5 + DOUBT_OF_ONE;
const DOUBTFUL_OFFSET: f32 = MIDDLE + DOUBT_OF_ONE;

fn prepare(i: u32) {
}

fn guess(told: Told, x: u32) -> u32 {
    return sum(told, x);
}

// Of 8 bits the middle is 128.
fn finish_guesses(word: u32) -> u32 {
    return word ^ (0x80808080u * (BITS / 8u));
}
