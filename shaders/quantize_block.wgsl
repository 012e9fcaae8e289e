// Quantizes one block a workgroup, one element an invocation: reduce to the extreme element, derive the scale, quantize,
// pack. The shape that explains itself.

@group(0) @binding(2) var<storage, read_write> codes: array<u32>; // (n_blocks, WORDS)

var<workgroup> extremes: array<u32, BLOCK>;
var<workgroup> slots: array<u32, BLOCK>;

@compute @workgroup_size(BLOCK)
fn quantize_block(
    @builtin(workgroup_id) wg: vec3<u32>,
    @builtin(num_workgroups) n_wg: vec3<u32>,
    @builtin(local_invocation_index) e: u32,
) {
    let block = wg.x + wg.y * n_wg.x;
    if block >= params.n_blocks {
        return; // the whole workgroup alike
    }
    let n = n_valid(block);
    var x = 0u;
    if e < n {
        x = load4((block * BLOCK + e) >> 2u)[e & 3u];
        if (x & MAGNITUDE) >= INFINITY {
            report(block * BLOCK + e);
        }
    }

    // Neighbours first, so that of equal magnitudes the earlier element stays.
    extremes[e] = larger(0u, seen(x));
    for (var stride = 1u; stride < BLOCK; stride *= 2u) {
        workgroupBarrier();
        if e % (2u * stride) == 0u {
            extremes[e] = larger(extremes[e], extremes[e + stride]);
        }
    }
    workgroupBarrier();
    let extreme = extreme_of(extremes[0]);

    let scale = scale_of(extreme);
    if e == 0u {
        if overflows(scale) && (extreme & MAGNITUDE) < INFINITY {
            report(block * BLOCK);
        }
        scales[params.scales_at + block] = scale;
    }

    // What lies past the tail is 0, whatever code the format has for zero.
    slots[slot_of(e)] = select(0u, encode(coder(extreme, scale), x), e < n);
    workgroupBarrier();
    if e < WORDS {
        var word = 0u;
        for (var i = 0u; i < CODES_PER_WORD; i++) {
            word |= slots[e * CODES_PER_WORD + i] << (i * BITS);
        }
        codes[params.codes_at + block * WORDS + e] = finish_word(word);
    }
}
