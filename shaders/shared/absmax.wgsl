// For formats whose scale comes from the largest |x| of the block. What is kept while looking for it is twice |x|, so that
// the search shares no intermediate value with the coding after it: those would only be spilled.

fn seen(x: u32) -> u32 {
    return x << 1u;
}

fn larger(a: u32, b: u32) -> u32 {
    return max(a, b);
}

fn extreme_of(seen: u32) -> u32 {
    return seen >> 1u;
}
