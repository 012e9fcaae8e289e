// Quantizes one block an invocation: no barrier, no shared memory. The shape for software adapters, where barriers cost
// most. The block stays in registers between the maximum and the codes, so its loops are unrolled.

const SERIAL_WG: u32 = 64u;

@group(0) @binding(2) var<storage, read_write> codes: array<vec4<u32>>; // (n_blocks, WORDS / 4)

@compute @workgroup_size(SERIAL_WG)
fn quantize_serial(@builtin(global_invocation_id) gid: vec3<u32>, @builtin(num_workgroups) n_wg: vec3<u32>) {
    let block = gid.x + gid.y * n_wg.x * SERIAL_WG;
    // Before any branch: after one, software adapters load uniforms lane by lane.
    let n = n_valid(block);
    let scale_at = params.scales_at + block;
    let codes_at = params.codes_at / 4u + block * (WORDS / 4u);
    if block >= params.n_blocks {
        return;
    }

    var x: array<vec4<u32>, BLOCK / 4u>;
    // Bits reversed, as loads in order would wait for each line of memory by itself: this asks for both halves of the block first.
    for (var i = 0u; i < BLOCK / WIDE; i++) { // unrolled
        const at = reverseBits(i) >> (32u - firstTrailingBit(BLOCK / WIDE));
        let some = load_wide(block * (BLOCK / WIDE) + at);
        for (var k = 0u; k < WIDE / 4u; k++) { // unrolled
            x[at * (WIDE / 4u) + k] = some[k];
        }
    }
    var most = 0u;
    for (var i = 0u; i < BLOCK / 4u; i++) { // unrolled
        most = larger(larger(larger(larger(most, seen(x[i].x)), seen(x[i].y)), seen(x[i].z)), seen(x[i].w));
    }
    // A short block leaves out what lies past its tail, and one that isn't finite has to say where. All of this stays one loop:
    // software adapters run both sides of a branch, and so no more than one pass.
    var first = BLOCK; // the first element that is NaN or infinite
    if n < BLOCK || (extreme_of(most) & MAGNITUDE) >= INFINITY {
        most = 0u;
        for (var e = 0u; e < n; e++) {
            let bits = load4((block * BLOCK + e) >> 2u)[e & 3u];
            most = larger(most, seen(bits));
            first = select(first, min(first, e), (bits & MAGNITUDE) >= INFINITY);
        }
    }
    let extreme = extreme_of(most);
    let scale = scale_of(extreme);
    if first < BLOCK || overflows(scale) {
        report(block * BLOCK + first % BLOCK);
    }
    if first < BLOCK {
        return;
    }

    scales[scale_at] = scale;
    let c = coder(extreme, scale);
    var words: array<u32, WORDS>;
    for (var e = 0u; e < BLOCK; e++) { // unrolled
        let slot = slot_of(e);
        words[slot / CODES_PER_WORD] |= encode(c, x[e / 4u][e % 4u]) << (slot % CODES_PER_WORD * BITS);
    }
    for (var w = 0u; w < WORDS; w++) { // unrolled
        words[w] = finish_word(words[w]);
    }
    // What lies past the tail is 0, whatever code the format has for zero. This loop stays one, too.
    for (var e = n; e < BLOCK; e++) {
        let slot = slot_of(e);
        let code = CODE_MASK << (slot % CODES_PER_WORD * BITS);
        // Not by an index: the words would lie in memory for all of the kernel.
        for (var w = 0u; w < WORDS; w++) { // unrolled
            words[w] &= ~select(0u, code, slot / CODES_PER_WORD == w);
        }
    }
    for (var v = 0u; v < WORDS / 4u; v++) { // unrolled
        codes[codes_at + v] = vec4<u32>(words[4u * v], words[4u * v + 1u], words[4u * v + 2u], words[4u * v + 3u]);
    }
}
