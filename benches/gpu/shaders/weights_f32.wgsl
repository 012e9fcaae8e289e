// In place of product/weights_whole.wgsl: the same product from weights that are plain binary32.
@group(0) @binding(1) var<storage, read> codes: array<vec4<f32>>; // (n_rows, n_cols / 4)

struct Strip {
    w: array<vec4<f32>, 8>,
    scale: f32,
}

fn strip_at(row: u32, strip: u32) -> Strip {
    let at = (row * params.n_cols + strip * STRIP) / 4u;
    return Strip(array<vec4<f32>, 8>(
        codes[at], codes[at + 1u], codes[at + 2u], codes[at + 3u],
        codes[at + 4u], codes[at + 5u], codes[at + 6u], codes[at + 7u],
    ), 1.0);
}

fn value_at(strip: Strip, e: u32) -> f32 {
    var w = strip.w;
    return w[e / 4u][e % 4u];
}

struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
    scale: f32,
}

fn eight_at(row: u32, i: u32) -> Eight {
    let at = (row * params.n_cols + 8u * i) / 4u;
    return Eight(codes[at], codes[at + 1u], 1.0);
}
