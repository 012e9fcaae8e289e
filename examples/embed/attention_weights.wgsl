// How much a token heeds each token of its sentence: softmax(q · k / sqrt(d)). One invocation a token and head.
struct Params { n_tokens: u32, n_heads: u32, head4: u32, longest: u32 }
struct Token { word_row: u32, position: u32, first: u32, n_tokens: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tokens: array<Token>;
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>; // [n_tokens, n_heads, head4]
@group(0) @binding(3) var<storage, read> k: array<vec4<f32>>; // [n_tokens, n_heads, head4]
@group(0) @binding(4) var<storage, read_write> weights: array<f32>; // [n_tokens, n_heads, longest]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
    if gid.x >= params.n_tokens * params.n_heads {
        return;
    }
    let token = tokens[gid.x / params.n_heads];
    let head = gid.x % params.n_heads;
    let query = gid.x * params.head4;
    let scale = inverseSqrt(f32(4u * params.head4));
    let out = gid.x * params.longest;
    var largest = -3.0e38;
    for (var other = 0u; other < token.n_tokens; other++) {
        let key = ((token.first + other) * params.n_heads + head) * params.head4;
        var score = 0.0;
        for (var i = 0u; i < params.head4; i++) {
            score += dot(q[query + i], k[key + i]);
        }
        score *= scale;
        weights[out + other] = score;
        largest = max(largest, score);
    }
    var sum = 0.0;
    for (var other = 0u; other < token.n_tokens; other++) {
        let weight = exp(weights[out + other] - largest);
        weights[out + other] = weight;
        sum += weight;
    }
    for (var other = 0u; other < token.n_tokens; other++) {
        weights[out + other] /= sum;
    }
}
