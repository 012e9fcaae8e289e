// Weights of any number of columns: blocks may go from one row into the next, and a row's last strip may be short.
@group(0) @binding(1) var<storage, read> codes: array<u32>; // (blocks, WORDS)

struct Strip {
    first: u32, // flat index of its first weight
    n: u32, // how many it has
    scale: f32, // what its values are multiplied with: here they have their scales in them
}

fn strip_at(row: u32, strip: u32) -> Strip {
    return Strip(params.skip + row * params.n_cols + strip * STRIP, min(params.n_cols - strip * STRIP, STRIP), 1.0);
}

// The value of element e of the strip, with its scale; 0 past the end.
fn value_at(strip: Strip, e: u32) -> f32 {
    let flat = strip.first + min(e, strip.n - 1u);
    let block = flat / BLOCK;
    let slot = slot_of(flat % BLOCK);
    let word = codes[params.codes_at + block * WORDS + slot / CODES_PER_WORD];
    let weight = value((word >> (slot % CODES_PER_WORD * BITS)) & CODE_MASK) * scale_of_block(block);
    return select(0.0, weight, e < strip.n);
}

// Elements 4·i .. 4·i+3 of vector v; past the end the last one again.
fn x4(v: u32, i: u32) -> vec4<f32> {
    let last = params.n_cols - 1u;
    let first = params.x_at + v * params.n_cols;
    return vec4<f32>(
        x1(first + min(4u * i, last)), x1(first + min(4u * i + 1u, last)),
        x1(first + min(4u * i + 2u, last)), x1(first + min(4u * i + 3u, last)),
    );
}

// Eight neighbouring values of a row, as far as it goes, and what they are multiplied with.
struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
    scale: f32,
}

fn eight_at(row: u32, i: u32) -> Eight {
    let strip = strip_at(row, 8u * i / STRIP);
    let e = 8u * i % STRIP;
    return Eight(
        vec4<f32>(value_at(strip, e), value_at(strip, e + 1u), value_at(strip, e + 2u), value_at(strip, e + 3u)),
        vec4<f32>(value_at(strip, e + 4u), value_at(strip, e + 5u), value_at(strip, e + 6u), value_at(strip, e + 7u)),
        strip.scale,
    );
}
