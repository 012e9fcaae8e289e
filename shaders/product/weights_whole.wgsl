// Weights whose rows are whole strips, so that a strip lies in one block.
@group(0) @binding(1) var<storage, read> codes: array<vec4<u32>>; // (blocks, WORDS / 4)

// A strip's codes, and what its values are multiplied with.
struct Strip {
    words: array<u32, BITS>, // as many as a code has bits
    scale: f32,
}

fn strip_at(row: u32, strip: u32) -> Strip {
    let e = params.skip + row * params.n_cols + strip * STRIP;
    var words: array<u32, BITS>;
    for (var v = 0u; v < BITS / 4u; v++) { // unrolled
        let four = codes[params.codes_at / 4u + e / STRIP * (BITS / 4u) + v];
        words[4u * v] = four.x;
        words[4u * v + 1u] = four.y;
        words[4u * v + 2u] = four.z;
        words[4u * v + 3u] = four.w;
    }
    return Strip(words, scale_of_block(e / BLOCK));
}

// The value of element e of the strip; e is a constant where this is unrolled. Slots of a block's halves are alike.
fn value_at(strip: Strip, e: u32) -> f32 {
    let slot = slot_of(e);
    var words = strip.words;
    return value((words[slot / CODES_PER_WORD] >> (slot % CODES_PER_WORD * BITS)) & CODE_MASK);
}

// Eight neighbouring values of a row, and what they are multiplied with.
struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
    scale: f32,
}

fn eight_at(row: u32, i: u32) -> Eight {
    let e = params.skip + row * params.n_cols + 8u * i;
    let block = e / BLOCK;
    // Where element j of the eight stands is slot_of(e) but for bits that depend on j alone, in every format.
    let lane = slot_of(e % BLOCK);
    let shift = lane % CODES_PER_WORD * BITS;
    var values: array<f32, 8>;
    for (var v = 0u; v < 2u; v++) { // unrolled
        let at = params.codes_at + block * WORDS + (lane ^ slot_of(0u) ^ slot_of(4u * v)) / CODES_PER_WORD;
        let word = codes[at / 4u][at % 4u];
        for (var k = 0u; k < 4u; k++) { // unrolled
            let slot = slot_of(0u) ^ slot_of(4u * v + k);
            values[4u * v + k] = value((word >> (shift ^ (slot % CODES_PER_WORD * BITS))) & CODE_MASK);
        }
    }
    return Eight(
        vec4<f32>(values[0], values[1], values[2], values[3]),
        vec4<f32>(values[4], values[5], values[6], values[7]),
        scale_of_block(block),
    );
}
