// Quotients that round to integers in -127..=127: between 256 and 512 a number has 15 bits of fraction.

const STEPS: f32 = 127.0;
const FRACTION_BITS: u32 = 15u;
const OFFSET: f32 = 384.5 + f32(DOUBT) / 32768.0;
const DOUBTFUL_OFFSET: f32 = 384.0 + f32(DOUBT) / 32768.0;

fn guess(told: Told, x: u32) -> u32 {
    return sum(told, x);
}

fn prepare(i: u32) {
}

// Codes are 128 too large.
fn finish_guesses(word: u32) -> u32 {
    return word ^ 0x80808080u;
}
