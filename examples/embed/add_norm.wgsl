// x = LayerNorm(x + y) · scale + bias. One invocation a token: no barriers, which cost most on software adapters.
struct Params { n_tokens: u32, n_cols4: u32, eps: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<f32>>; // [n_tokens, n_cols4]
@group(0) @binding(2) var<storage, read> y: array<vec4<f32>>; // [n_tokens, n_cols4]
@group(0) @binding(3) var<storage, read> scale: array<vec4<f32>>; // [n_cols4]
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>; // [n_cols4]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
    if gid.x >= params.n_tokens {
        return;
    }
    let n = params.n_cols4;
    let row = gid.x * n;
    var sums = vec4<f32>();
    for (var col = 0u; col < n; col++) {
        let sum = x[row + col] + y[row + col];
        x[row + col] = sum;
        sums += sum;
    }
    let mean = dot(sums, vec4<f32>(1.0)) / f32(4u * n);
    var squares = vec4<f32>();
    for (var col = 0u; col < n; col++) {
        let off = x[row + col] - mean;
        squares += off * off;
    }
    let spread = inverseSqrt(dot(squares, vec4<f32>(1.0)) / f32(4u * n) + params.eps);
    for (var col = 0u; col < n; col++) {
        x[row + col] = (x[row + col] - mean) * spread * scale[col] + bias[col];
    }
}
