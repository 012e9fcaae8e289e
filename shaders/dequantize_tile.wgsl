// Dequantizes TILE_BLOCKS blocks a workgroup, 8 neighbouring elements an invocation, for hardware GPUs. Where codes have 4
// bits, the 16 values of each block are worked out once, by all invocations together. What lies past a short tail is
// written as the value of code 0.

const TILE_WG: u32 = 256u;
const TILE_LANES: u32 = BLOCK / 8u; // invocations a block
const TILE_BLOCKS: u32 = TILE_WG / TILE_LANES;
const LANE_WORDS: u32 = 8u / OUT_PER_WORD;
const TABLES: u32 = 1u + (16u * TILE_BLOCKS - 1u) * (8u / BITS - 1u); // none for codes of 8 bits

@group(0) @binding(1) var<storage, read> codes: array<u32>; // (n_blocks, WORDS)
@group(0) @binding(3) var<storage, read_write> values: array<vec4<u32>>; // (n_blocks, OUT_WORDS / 4)

var<workgroup> tables: array<u32, TABLES>;
// Whether the block's largest value is beyond the output type.
var<workgroup> too_large: array<u32, TILE_BLOCKS>;

@compute @workgroup_size(TILE_WG)
fn dequantize_tile(
    @builtin(workgroup_id) wg: vec3<u32>,
    @builtin(num_workgroups) n_wg: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let first = (wg.x + wg.y * n_wg.x) * TILE_BLOCKS;
    let last = params.n_blocks - 1u;
    if BITS == 4u {
        for (var entry = i; entry < 16u * TILE_BLOCKS; entry += TILE_WG) {
            tables[entry % TABLES] = decode(scales[params.scales_at + min(first + entry / 16u, last)], entry % 16u);
        }
    }
    if i < TILE_BLOCKS {
        let largest = decode(scales[params.scales_at + min(first + i, last)], LARGEST_CODE);
        too_large[i] = select(0u, 1u, (largest & (OUT_SIGN - 1u)) >= OUT_INFINITY);
    }
    workgroupBarrier();

    let t = i % TILE_LANES;
    let of_tile = i / TILE_LANES;
    let block = first + of_tile;
    if block >= params.n_blocks {
        return;
    }
    // Where the lane's element j stands is slot_of(8 · t) but for bits that depend on j alone, in every format.
    let lane = slot_of(8u * t);
    let lane_shift = lane % CODES_PER_WORD * BITS;
    var four: array<u32, 2u>; // the words that hold the codes of four elements each
    var out: array<u32, LANE_WORDS>;
    for (var v = 0u; v < 2u; v++) { // unrolled
        four[v] = codes[params.codes_at + block * WORDS + (lane ^ slot_of(0u) ^ slot_of(4u * v)) / CODES_PER_WORD];
        for (var k = 0u; k < 4u; k++) { // unrolled
            let slot = slot_of(0u) ^ slot_of(4u * v + k);
            let code = (four[v] >> (lane_shift ^ (slot % CODES_PER_WORD * BITS))) & CODE_MASK;
            var value: u32;
            if BITS == 4u {
                value = tables[(16u * of_tile + code) % TABLES];
            } else {
                value = decode(scales[params.scales_at + block], code);
            }
            out[(4u * v + k) / OUT_PER_WORD] |= value << (16u * (k % OUT_PER_WORD));
        }
    }
    let at = (params.values_at + block * OUT_WORDS + t * LANE_WORDS) / 4u;
    values[at] = vec4<u32>(out[0], out[1], out[2], out[3]);
    if OUT_PER_WORD == 1u {
        values[at + 1u] = vec4<u32>(out[4u % LANE_WORDS], out[5u % LANE_WORDS], out[6u % LANE_WORDS], out[7u % LANE_WORDS]);
    }

    if too_large[of_tile] != 0u || has_invalid(four[0]) || has_invalid(four[1]) {
        for (var e = 8u * t; e < 8u * t + 8u; e++) {
            let slot = slot_of(e);
            let code = (codes[params.codes_at + block * WORDS + slot / CODES_PER_WORD] >> (slot % CODES_PER_WORD * BITS)) & CODE_MASK;
            report(block * BLOCK + e, code, decode(scales[params.scales_at + block], code));
        }
    }
}
