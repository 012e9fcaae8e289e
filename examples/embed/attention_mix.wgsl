// A token's new vector: its sentence's values, weighted. One invocation four columns of a token.
struct Params { n_tokens: u32, n_heads: u32, head4: u32, longest: u32 }
struct Token { word_row: u32, position: u32, first: u32, n_tokens: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tokens: array<Token>;
@group(0) @binding(2) var<storage, read> weights: array<f32>; // [n_tokens, n_heads, longest]
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>; // [n_tokens, n_heads, head4]
@group(0) @binding(4) var<storage, read_write> mixed: array<vec4<f32>>; // [n_tokens, n_heads, head4]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
    let n = params.n_heads * params.head4;
    if gid.x >= params.n_tokens * n {
        return;
    }
    let token = tokens[gid.x / n];
    let weight = gid.x / params.head4 * params.longest;
    let value = token.first * n + gid.x % n;
    var sum = vec4<f32>();
    for (var other = 0u; other < token.n_tokens; other++) {
        sum += weights[weight + other] * v[value + other * n];
    }
    mixed[gid.x] = sum;
}
