// Bindings and sizes that every dequantize kernel has. BLOCK and BITS come from the format table, OUT_… from the output
// type's file.

struct Params {
    n_elems: u32,
    n_blocks: u32,
    // Where things begin in what is bound, in words; a multiple of 4 where vectors are loaded or stored, of 8 where
    // values are stored in pairs.
    values_at: u32,
    codes_at: u32,
    scales_at: u32,
    status_at: u32,
    skip: u32, // elements before the first value, in the first block: for parts of blocks
    _pad: u32,
}

const CODES_PER_WORD: u32 = 32u / BITS;
const WORDS: u32 = BLOCK / CODES_PER_WORD; // of packed codes a block
const CODE_MASK: u32 = (1u << BITS) - 1u;
const OUT_WORDS: u32 = BLOCK / OUT_PER_WORD; // of values a block

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> scales: array<u32>; // (n_blocks)
// All ones less the flat index of the first element [0] whose code no writer makes, [1] whose value is beyond the output
// type; 0 where there is none.
@group(0) @binding(4) var<storage, read_write> status: array<atomic<u32>>;

fn report(index: u32, code: u32, value: u32) {
    if index < params.n_elems {
        if is_invalid(code) {
            atomicMax(&status[params.status_at], ~index);
        }
        if (value & (OUT_SIGN - 1u)) >= OUT_INFINITY {
            atomicMax(&status[params.status_at + 1u], ~index);
        }
    }
}
