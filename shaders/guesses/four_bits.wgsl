// Quotients that round to integers in -8..8: between 128 and 256 a number has 16 bits of fraction.

const STEPS: f32 = f32(K);
const FRACTION_BITS: u32 = 16u;
const OFFSET: f32 = 192.5 + f32(DOUBT) / 65536.0;
const DOUBTFUL_OFFSET: f32 = 192.0 + f32(DOUBT) / 65536.0;

fn guess(told: Told, x: u32) -> u32 {
    return sum(told, x);
}

fn prepare(i: u32) {
}

fn finish_guesses(word: u32) -> u32 {
    return word;
}
