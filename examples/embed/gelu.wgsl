// x = x · Φ(x) in place, Φ the normal distribution: GELU as BERT has it. One invocation four elements.
struct Params { n4: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<f32>>; // [n4]

/// erf |x| by Abramowitz and Stegun 7.1.26, off by 1.5e-7 at most.
fn erf_abs(x: vec4<f32>) -> vec4<f32> {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    return 1.0 - p * exp(-x * x);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
    if gid.x < params.n4 {
        let value = x[gid.x];
        x[gid.x] = 0.5 * value * (1.0 + sign(value) * erf_abs(value * 0.70710678));
    }
}
