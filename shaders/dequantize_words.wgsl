// Dequantizes any run of elements to any multiple of 4 bytes, one output word an invocation, and writes nothing past its
// last element. `skip` elements of the first block come before the run.

const WORDS_WG: u32 = 64u;

@group(0) @binding(1) var<storage, read> codes: array<u32>; // (n_blocks, WORDS)
@group(0) @binding(3) var<storage, read_write> values: array<u32>; // a word for OUT_PER_WORD elements, the last for what is left

@compute @workgroup_size(WORDS_WG)
fn dequantize_words(@builtin(global_invocation_id) gid: vec3<u32>, @builtin(num_workgroups) n_wg: vec3<u32>) {
    let i = gid.x + gid.y * n_wg.x * WORDS_WG;
    let first = i * OUT_PER_WORD;
    if first >= params.n_elems {
        return;
    }
    var word = 0u;
    if params.n_elems - first < OUT_PER_WORD {
        word = values[params.values_at + i] & 0xffff0000u; // the half that isn't ours stays
    }
    for (var part = 0u; part < min(OUT_PER_WORD, params.n_elems - first); part++) {
        let e = params.skip + first + part;
        let block = e / BLOCK;
        let slot = slot_of(e % BLOCK);
        let packed = codes[params.codes_at + block * WORDS + slot / CODES_PER_WORD];
        let code = (packed >> (slot % CODES_PER_WORD * BITS)) & CODE_MASK;
        let value = decode(decoder(scales[params.scales_at + block]), code);
        report(first + part, code, value);
        word |= value << (16u * part);
    }
    values[params.values_at + i] = word;
}
