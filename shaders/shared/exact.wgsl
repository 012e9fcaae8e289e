// Codes of the tile shape where nothing is guessed.

alias Told = Coder;

fn tell(extreme: u32, scale: u32) -> Told {
    return coder(extreme, scale);
}

fn prepare(i: u32) {
}

// The words of an invocation's codes.
fn codes_of(told: Told, x: array<vec4<u32>, 2>) -> array<u32, LANE_WORDS> {
    var words: array<u32, LANE_WORDS>;
    for (var v = 0u; v < 2u; v++) { // unrolled
        for (var k = 0u; k < 4u; k++) { // unrolled
            let slot = slot_of(4u * four_of(0u, v) + k);
            words[slot / CODES_PER_WORD] |= encode(told, x[v][k]) << (slot % CODES_PER_WORD * BITS);
        }
    }
    for (var w = 0u; w < 8u / CODES_PER_WORD; w++) { // unrolled
        words[w] = finish_word(words[w]);
    }
    return words;
}
