// In place of product/weights_whole.wgsl: the same product from weights that are plain binary16.
@group(0) @binding(1) var<storage, read> codes: array<vec4<u32>>; // (n_rows, n_cols / 8)

struct Strip {
    w: array<vec4<f32>, 8>,
    scale: f32,
}

struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
    scale: f32,
}

fn low_of(eight: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(eight.x), unpack2x16float(eight.y));
}

fn high_of(eight: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(eight.z), unpack2x16float(eight.w));
}

fn strip_at(row: u32, strip: u32) -> Strip {
    let at = (row * params.n_cols + strip * STRIP) / 8u;
    let a = codes[at];
    let b = codes[at + 1u];
    let c = codes[at + 2u];
    let d = codes[at + 3u];
    return Strip(array<vec4<f32>, 8>(
        low_of(a), high_of(a), low_of(b), high_of(b), low_of(c), high_of(c), low_of(d), high_of(d),
    ), 1.0);
}

fn value_at(strip: Strip, e: u32) -> f32 {
    var w = strip.w;
    return w[e / 4u][e % 4u];
}

fn eight_at(row: u32, i: u32) -> Eight {
    let eight = codes[(row * params.n_cols + 8u * i) / 8u];
    return Eight(low_of(eight), high_of(eight), 1.0);
}
