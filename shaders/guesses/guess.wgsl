// Codes of the tile shape, guessed in floating point. A guess is the sum of x · multiplier and a number of such a size that
// its last FRACTION_BITS bits are a fraction and a code stands above them. Boundaries are where the fraction is DOUBT: as far
// as a guess can be off, by WGSL's accuracy, it stays below 2 · DOUBT if the boundary lies between it and the truth. So where
// a fraction is greater, the code is right whatever the device made of the sum; all others are settled by `encode`, in integers.
//
// The error: `/` may be off by 2.5 units in the last place, and a product and a sum may be rounded either way, one unit each.
// Of the largest guess that is less than 3 units of the fraction's; what the format's own operations are off is less than 1/2.

const DOUBT: u32 = 6u;
const DOUBT_OF_ONE: f32 = f32(DOUBT) / f32(1u << FRACTION_BITS);
const DOUBTFUL: u32 = 2u * DOUBT;

// What is added to each guess, in units of its fraction. Tests push it to both ends of what WGSL allows.
const PUSH: u32 = 0u;

struct Told {
    multiplier: u32, // bits of a float
    offset: u32, // likewise
    // For those in doubt.
    extreme: u32,
    scale: u32,
}

fn tell(extreme: u32, scale: u32) -> Told {
    let magnitude = extreme & MAGNITUDE;
    // Where reciprocals could be flushed or overflow, everything is in doubt.
    let ordinary = magnitude - (27u << 23u) < (200u << 23u);
    let multiplier = select(0.0, STEPS / bitcast<f32>(max(magnitude, 0x00800000u)), ordinary);
    let offset = select(DOUBTFUL_OFFSET, OFFSET, ordinary || magnitude == 0u);
    return Told(bitcast<u32>(multiplier), bitcast<u32>(offset), extreme, scale);
}

fn sum(told: Told, x: u32) -> u32 {
    return bitcast<u32>(fma(bitcast<f32>(x), bitcast<f32>(told.multiplier), bitcast<f32>(told.offset))) + PUSH;
}

fn fraction(guess: u32) -> u32 {
    return guess & ((1u << FRACTION_BITS) - 1u);
}

// The words of an invocation's codes.
fn codes_of(told: Told, x: array<vec4<u32>, 2>) -> array<u32, LANE_WORDS> {
    var words: array<u32, LANE_WORDS>;
    var least = 0xffffffffu;
    for (var v = 0u; v < 2u; v++) { // unrolled
        for (var k = 0u; k < 4u; k++) { // unrolled
            let slot = slot_of(4u * four_of(0u, v) + k);
            let g = guess(told, x[v][k]);
            words[slot / CODES_PER_WORD] |= ((g >> FRACTION_BITS) & CODE_MASK) << (slot % CODES_PER_WORD * BITS);
            least = min(least, fraction(g));
        }
    }
    for (var w = 0u; w < 8u / CODES_PER_WORD; w++) { // unrolled
        words[w] = finish_guesses(words[w]);
    }
    if least < DOUBTFUL {
        let c = coder(told.extreme, told.scale);
        for (var v = 0u; v < 2u; v++) {
            for (var k = 0u; k < 4u; k++) {
                if fraction(guess(told, x[v][k])) < DOUBTFUL {
                    let slot = slot_of(4u * four_of(0u, v) + k);
                    let at = slot % CODES_PER_WORD * BITS;
                    let code = finish_word(encode(c, x[v][k])) & CODE_MASK;
                    words[slot / CODES_PER_WORD] = (words[slot / CODES_PER_WORD] & ~(CODE_MASK << at)) | (code << at);
                }
            }
        }
    }
    return words;
}
