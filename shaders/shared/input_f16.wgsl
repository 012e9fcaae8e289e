// binary16 widens to binary32 exactly.
fn widen(x: u32) -> u32 {
    return widen_f16(x);
}
