// y[v, r] = Σ_c x[v, c] · w[r, c] + bias[r], from packed weights. Floating-point arithmetic is for these kernels alone:
// what a code and a scale stand for comes from the format's file in integers, and is exact.

struct Params {
    n_rows: u32, // of this dispatch
    n_cols: u32,
    n_vectors: u32, // of this dispatch
    y_stride: u32, // elements from one vector of y to the next
    skip: u32, // weights before the first row, in the first block that is bound
    // Where things begin in what is bound: codes and scales in words, activations in elements.
    codes_at: u32,
    scales_at: u32,
    x_at: u32,
    y_at: u32,
    bias_at: u32,
    has_bias: u32,
    _pad: u32,
}

const CODES_PER_WORD: u32 = 32u / BITS;
const WORDS: u32 = BLOCK / CODES_PER_WORD; // of packed codes a block
const CODE_MASK: u32 = (1u << BITS) - 1u;
// Neighbouring columns that are added up by themselves, so that errors grow with a 32nd of the columns.
const STRIP: u32 = 32u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> scales: array<u32>; // (blocks)
@group(0) @binding(4) var<storage, read> bias: array<u32>; // (n_rows), anything without a bias

fn scale_of_block(block: u32) -> f32 {
    return bitcast<f32>(scale_bits(scales[params.scales_at + block]));
}

fn finish(v: u32, row: u32, sum: f32) {
    var y = sum;
    if params.has_bias != 0u {
        y += bias_of(params.bias_at + row);
    }
    store_y(params.y_at + v * params.y_stride + row, y);
}
