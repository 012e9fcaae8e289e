// A sentence's vector: the mean of its tokens' vectors, divided by its norm. One invocation a sentence.
struct Params { n_sentences: u32, n_cols4: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sentences: array<vec2<u32>>; // [n_sentences]: first token, number of tokens
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>; // [tokens, n_cols4]
@group(0) @binding(3) var<storage, read_write> vectors: array<vec4<f32>>; // [n_sentences, n_cols4]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
    if gid.x >= params.n_sentences {
        return;
    }
    let n = params.n_cols4;
    let sentence = sentences[gid.x];
    var square = 0.0;
    for (var col = 0u; col < n; col++) {
        var sum = vec4<f32>();
        for (var token = 0u; token < sentence.y; token++) {
            sum += x[(sentence.x + token) * n + col];
        }
        let mean = sum / f32(sentence.y);
        vectors[gid.x * n + col] = mean;
        square += dot(mean, mean);
    }
    let scale = inverseSqrt(max(square, 1e-24));
    for (var col = 0u; col < n; col++) {
        vectors[gid.x * n + col] *= scale;
    }
}
