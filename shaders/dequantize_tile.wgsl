// Dequantizes TILE_BLOCKS blocks a workgroup, 8 neighbouring elements an invocation, for hardware GPUs. Where codes have 4
// bits, the 16 values of each block are worked out once, by the block's invocations together. What lies past a short tail is
// written as the value of code 0.

const TILE_WG: u32 = 256u;
const TILE_LANES: u32 = BLOCK / 8u; // invocations a block
const TILE_BLOCKS: u32 = TILE_WG / TILE_LANES;
const LANE_WORDS: u32 = 8u / OUT_PER_WORD;
const TABLES: u32 = 1u + (16u * TILE_BLOCKS - 1u) * (8u / BITS - 1u); // none for codes of 8 bits

@group(0) @binding(1) var<storage, read> codes: array<u32>; // (n_blocks, WORDS)
@group(0) @binding(3) var<storage, read_write> values: array<vec4<u32>>; // (n_blocks, OUT_WORDS / 4)

var<workgroup> tables: array<u32, TABLES>;

@compute @workgroup_size(TILE_WG)
fn dequantize_tile(
    @builtin(workgroup_id) wg: vec3<u32>,
    @builtin(num_workgroups) n_wg: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let t = i % TILE_LANES;
    let of_tile = i / TILE_LANES;
    let block = (wg.x + wg.y * n_wg.x) * TILE_BLOCKS + of_tile;
    let scale = decoder(scales[params.scales_at + min(block, params.n_blocks - 1u)]);
    let table = 16u * of_tile;
    if BITS == 4u {
        for (var n = 0u; n < 128u / BLOCK; n++) { // unrolled
            let code = t + TILE_LANES * n;
            tables[table + code] = decode(scale, code);
        }
    }
    workgroupBarrier();
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
                value = tables[table + code];
            } else {
                value = decode(scale, code);
            }
            if OUT_PER_WORD == 1u {
                out[(4u * v + k) / OUT_PER_WORD] = value;
            } else {
                out[(4u * v + k) / OUT_PER_WORD] |= value << (16u * (k % OUT_PER_WORD));
            }
        }
    }
    let at = (params.values_at + block * OUT_WORDS + t * LANE_WORDS) / 4u;
    values[at] = vec4<u32>(out[0], out[1], out[2], out[3]);
    if OUT_PER_WORD == 1u {
        values[at + 1u] = vec4<u32>(out[4u % LANE_WORDS], out[5u % LANE_WORDS], out[6u % LANE_WORDS], out[7u % LANE_WORDS]);
    }

    if may_overflow(scale) || has_invalid(four[0]) || has_invalid(four[1]) {
        for (var e = 8u * t; e < 8u * t + 8u; e++) {
            let slot = slot_of(e);
            let code = (codes[params.codes_at + block * WORDS + slot / CODES_PER_WORD] >> (slot % CODES_PER_WORD * BITS)) & CODE_MASK;
            report(block * BLOCK + e, code, decode(scale, code));
        }
    }
}
