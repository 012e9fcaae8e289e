// Codes that stand for small integers.
fn value(code: u32) -> f32 {
    return f32(level_of(code));
}

// There is none.
fn fill_table(t: u32) {
}
