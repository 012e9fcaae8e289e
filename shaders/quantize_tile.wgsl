// Quantizes TILE_BLOCKS blocks a workgroup, 8 elements an invocation, for hardware GPUs. What a block needs once (its scale,
// what its elements are compared with) is worked out by one invocation for each block, all in the first few subgroups,
// so that the others don't repeat it. Loads are 16 bytes, stores whole words, both at neighbouring addresses. What codes come
// from stands in a file of its own: `exact.wgsl`, or the format's guesses.

const TILE_WG: u32 = 256u;
const TILE_LANES: u32 = BLOCK / 8u; // invocations a block
const TILE_BLOCKS: u32 = TILE_WG / TILE_LANES;
const LANE_WORDS: u32 = 8u / CODES_PER_WORD;

@group(0) @binding(2) var<storage, read_write> codes: array<u32>; // (n_blocks, WORDS)

// Of each four elements, in their order, as that decides among equals in some formats: (BLOCK / 4, TILE_BLOCKS), so that those
// who read a block's, side by side, read neighbours; and rows one longer, so that few of those who write meet in a bank.
const EXTREMES_ROW: u32 = TILE_BLOCKS + 1u;
var<workgroup> extremes: array<u32, BLOCK / 4u * EXTREMES_ROW>;
var<workgroup> told: array<Told, TILE_BLOCKS>;
var<workgroup> not_finite: array<u32, TILE_BLOCKS>;

// Which four elements of the block lane t takes first and second: those whose codes share words. Where neighbours are two
// slots apart, the block's halves are interleaved.
fn four_of(t: u32, v: u32) -> u32 {
    return select(2u * t + v, t + TILE_LANES * v, slot_of(1u) == 2u);
}

@compute @workgroup_size(TILE_WG)
fn quantize_tile(
    @builtin(workgroup_id) wg: vec3<u32>,
    @builtin(num_workgroups) n_wg: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let first = (wg.x + wg.y * n_wg.x) * TILE_BLOCKS;
    let t = i % TILE_LANES;
    let block = first + i / TILE_LANES;
    var n = 0u; // of the block's elements
    if block < params.n_blocks {
        n = n_valid(block);
    }

    prepare(i);
    var x: array<vec4<u32>, 2u>;
    for (var v = 0u; v < 2u; v++) { // unrolled
        x[v] = load4(block * (BLOCK / 4u) + four_of(t, v));
    }
    if n < BLOCK {
        for (var v = 0u; v < 2u; v++) { // unrolled
            let e = vec4<u32>(0u, 1u, 2u, 3u) + 4u * four_of(t, v);
            x[v] = select(vec4<u32>(0u), x[v], e < vec4<u32>(n));
        }
    }
    for (var v = 0u; v < 2u; v++) { // unrolled
        extremes[four_of(t, v) * EXTREMES_ROW + i / TILE_LANES] =
            larger(larger(larger(larger(0u, seen(x[v].x)), seen(x[v].y)), seen(x[v].z)), seen(x[v].w));
    }
    workgroupBarrier();

    if i < TILE_BLOCKS {
        var most = 0u;
        for (var four = 0u; four < BLOCK / 4u; four++) { // unrolled
            most = larger(most, extremes[four * EXTREMES_ROW + i]);
        }
        let extreme = extreme_of(most);
        let scale = scale_of(extreme);
        told[i] = tell(extreme, scale);
        not_finite[i] = select(0u, 1u, (extreme & MAGNITUDE) >= INFINITY);
        if first + i < params.n_blocks {
            if overflows(scale) && (extreme & MAGNITUDE) < INFINITY {
                report((first + i) * BLOCK);
            }
            scales[params.scales_at + first + i] = scale;
        }
    }
    workgroupBarrier();

    if block >= params.n_blocks {
        return;
    }
    if not_finite[i / TILE_LANES] != 0u {
        for (var v = 0u; v < 2u; v++) {
            for (var k = 0u; k < 4u; k++) {
                if (x[v][k] & MAGNITUDE) >= INFINITY {
                    report(block * BLOCK + 4u * four_of(t, v) + k);
                }
            }
        }
    }
    var words = codes_of(told[i / TILE_LANES], x);
    if n < BLOCK {
        // What lies past the tail is 0, whatever code the format has for zero.
        for (var v = 0u; v < 2u; v++) { // unrolled
            for (var k = 0u; k < 4u; k++) { // unrolled
                let slot = slot_of(4u * four_of(0u, v) + k);
                let past = 4u * four_of(t, v) + k >= n;
                words[slot / CODES_PER_WORD] &= ~select(0u, CODE_MASK << (slot % CODES_PER_WORD * BITS), past);
            }
        }
    }
    for (var w = 0u; w < 8u / CODES_PER_WORD; w++) { // unrolled
        codes[params.codes_at + block * WORDS + t * LANE_WORDS + w] = words[w];
    }
}
