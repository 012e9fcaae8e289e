// Dequantizes one block an invocation: no barrier, no shared memory. Where codes have 4 bits, the block's 16 values, or
// the 8 whose negatives the others are, are worked out once. What lies past a short tail is written as the value of code 0.

const SERIAL_WG: u32 = 64u;

// Values of 16 bits whose negatives aren't in the table: two share a word, which halves what is selected.
const PAIRED: bool = OUT_PER_WORD == 2u && !MIRRORED;

struct Table {
    low: array<u32, 8>, // of codes 0 to 7, or of all in pairs, the even one low
    high: array<u32, 8>, // of codes 8 to 15, unless they are negatives or `low` has them
}

// The entry whose number stands in the three bits of `word` from `at` on, by bisection: an index of its own for each
// invocation would put the entries into memory.
fn entry(entries: array<u32, 8>, word: u32, at: u32) -> u32 {
    let t = entries;
    let b0 = (word & (1u << at)) != 0u;
    let b1 = (word & (2u << at)) != 0u;
    let b2 = (word & (4u << at)) != 0u;
    let low = select(select(t[0], t[1], b0), select(t[2], t[3], b0), b1);
    let high = select(select(t[4], t[5], b0), select(t[6], t[7], b0), b1);
    return select(low, high, b2);
}

// The value of the code that stands `at` bits above the lowest of `word`.
fn pick(table: Table, word: u32, at: u32) -> u32 {
    if PAIRED {
        let pair = entry(table.low, word, at + 1u);
        return select(pair & 0xffffu, pair >> 16u, (word & (1u << at)) != 0u);
    }
    let low = entry(table.low, word, at);
    let b3 = bitcast<i32>(word << (28u - at)) < 0;
    if MIRRORED {
        return select(low, low ^ OUT_SIGN, b3);
    }
    return select(low, entry(table.high, word, at), b3);
}

@compute @workgroup_size(SERIAL_WG)
fn dequantize_serial(@builtin(global_invocation_id) gid: vec3<u32>, @builtin(num_workgroups) n_wg: vec3<u32>) {
    let block = gid.x + gid.y * n_wg.x * SERIAL_WG;
    if block >= params.n_blocks {
        return;
    }
    let scale = decoder(scales[params.scales_at + block]);

    var words: array<u32, WORDS>;
    var suspect = may_overflow(scale);
    for (var v = 0u; v < WORDS / 4u; v++) { // unrolled
        let four = codes4(block * (WORDS / 4u) + v);
        words[4u * v] = signs_apart(four.x);
        words[4u * v + 1u] = signs_apart(four.y);
        words[4u * v + 2u] = signs_apart(four.z);
        words[4u * v + 3u] = signs_apart(four.w);
        suspect = suspect || has_invalid(four.x) || has_invalid(four.y) || has_invalid(four.z) || has_invalid(four.w);
    }

    var table: Table;
    if BITS == 4u {
        for (var i = 0u; i < 8u; i++) { // unrolled
            if PAIRED {
                table.low[i] = decode(scale, 2u * i) | (decode(scale, 2u * i + 1u) << 16u);
            } else {
                table.low[i] = decode(scale, i);
                if !MIRRORED {
                    table.high[i] = decode(scale, 8u + i);
                }
            }
        }
    }

    for (var v = 0u; v < OUT_WORDS / 8u; v++) { // unrolled
        var eight: array<u32, 8>;
        for (var i = 0u; i < 8u; i++) { // unrolled
            for (var part = 0u; part < OUT_PER_WORD; part++) { // unrolled
                let e = (8u * v + i) * OUT_PER_WORD + part;
                let slot = slot_of(e);
                let at = slot % CODES_PER_WORD * BITS;
                var value: u32;
                if BITS == 4u {
                    value = pick(table, words[slot / CODES_PER_WORD], at);
                } else {
                    value = decode(scale, (words[slot / CODES_PER_WORD] >> at) & CODE_MASK);
                }
                eight[i] |= value << (16u * part);
            }
        }
        store8(block * (OUT_WORDS / 8u) + v, eight);
    }

    // Software adapters go through this once for every block, with nothing to do: no load, and no `decode` of a code that
    // isn't a constant.
    if suspect {
        for (var e = 0u; e < BLOCK; e++) {
            let slot = slot_of(e);
            // Not by an index: the words would lie in memory for all of the kernel.
            var word = 0u;
            for (var w = 0u; w < WORDS; w++) { // unrolled
                word = select(word, words[w], slot / CODES_PER_WORD == w);
            }
            let at = slot % CODES_PER_WORD * BITS;
            let code = (word >> at) & CODE_MASK;
            var value: u32;
            if BITS == 4u {
                value = pick(table, word, at);
            } else {
                value = decode(scale, code);
            }
            report(block * BLOCK + e, code, value);
        }
    }
}
