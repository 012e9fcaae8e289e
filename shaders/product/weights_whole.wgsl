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
