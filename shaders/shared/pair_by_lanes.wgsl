// Two words as a 64-bit integer, of each lane by itself, as LLVM does it where it stores lane by lane.

fn pair(low: u32, high: u32) -> u64 {
    return u64(low) | (u64(high) << 32u);
}
