// What a token's vector is made of: the row of its word, and apart, the rows of its position and type, for the norm to add.
// One invocation four columns of a token.
struct Params { n_tokens: u32, n_cols4: u32 }
struct Token { word_row: u32, position: u32, first: u32, n_tokens: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tokens: array<Token>;
@group(0) @binding(2) var<storage, read> words: array<vec4<f32>>; // [words of the batch, n_cols4]
@group(0) @binding(3) var<storage, read> positions: array<vec4<f32>>; // [positions, n_cols4]
@group(0) @binding(4) var<storage, read> types: array<vec4<f32>>; // [1, n_cols4]: all tokens are of type 0
@group(0) @binding(5) var<storage, read_write> x: array<vec4<f32>>; // [n_tokens, n_cols4]
@group(0) @binding(6) var<storage, read_write> y: array<vec4<f32>>; // [n_tokens, n_cols4]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
    let n = params.n_cols4;
    if gid.x >= params.n_tokens * n {
        return;
    }
    let token = tokens[gid.x / n];
    let col = gid.x % n;
    x[gid.x] = words[token.word_row * n + col];
    y[gid.x] = positions[token.position * n + col] + types[col];
}
