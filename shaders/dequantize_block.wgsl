// Dequantizes one block a workgroup, one output word an invocation. The shape that explains itself. What lies past a
// short tail is written as the value of code 0.

@group(0) @binding(1) var<storage, read> codes: array<u32>; // (n_blocks, WORDS)
@group(0) @binding(3) var<storage, read_write> values: array<u32>; // (n_blocks, OUT_WORDS)

@compute @workgroup_size(BLOCK)
fn dequantize_block(
    @builtin(workgroup_id) wg: vec3<u32>,
    @builtin(num_workgroups) n_wg: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let block = wg.x + wg.y * n_wg.x;
    if block >= params.n_blocks || i >= OUT_WORDS {
        return;
    }
    var word = 0u;
    for (var part = 0u; part < OUT_PER_WORD; part++) {
        let e = i * OUT_PER_WORD + part;
        let slot = slot_of(e);
        let packed = codes[params.codes_at + block * WORDS + slot / CODES_PER_WORD];
        let code = (packed >> (slot % CODES_PER_WORD * BITS)) & CODE_MASK;
        let value = decode(decoder(scales[params.scales_at + block]), code);
        report(block * BLOCK + e, code, value);
        word |= value << (16u * part);
    }
    values[params.values_at + block * OUT_WORDS + i] = word;
}
