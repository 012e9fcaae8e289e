// bfloat16 is the upper half of a binary32.
fn widen(x: u32) -> u32 {
    return x << 16u;
}
