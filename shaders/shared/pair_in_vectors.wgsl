// Two words as a 64-bit integer, of all lanes at once.

fn pair(low: u32, high: u32) -> u64 {
    // 32, but a compiler can't know it: LLVM would otherwise put each lane's words together by itself, three instructions in
    // place of one.
    let half = 32u + (params.n_blocks >> 31u);
    return u64(low) | (u64(high) << half);
}
