// Bindings and sizes that every quantize kernel has. BLOCK and BITS come from the format table.

struct Params {
    n_elems: u32,
    n_blocks: u32,
    // Where things begin in what is bound, in words; a multiple of 4 where vectors are loaded or stored.
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

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read_write> scales: array<u32>; // (n_blocks)
// The first of two words: all ones less the flat index of the first element that is NaN or infinite, or of the first element of the first
// block whose scale its type can't hold; 0 where there is none.
@group(0) @binding(4) var<storage, read_write> status: array<atomic<u32>>;

// Weights in this block: BLOCK but for a short last one.
fn n_valid(block: u32) -> u32 {
    return min(params.n_elems - block * BLOCK, BLOCK);
}

fn report(index: u32) {
    atomicMax(&status[params.status_at], ~index);
}
