// Codes that stand for one of sixteen values, in workgroup memory: sixteen words in sixteen banks, so that invocations
// don't wait for each other.
var<workgroup> table: array<f32, 16>;

fn fill_table(t: u32) {
    if t < 16u {
        table[t] = bitcast<f32>(value_of(t));
    }
}

fn value(code: u32) -> f32 {
    return table[code];
}
