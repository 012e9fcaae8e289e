// Sixteen bytes, and what is loaded and stored at a time: as software adapters do it fastest, by 64-bit integers.

alias Bytes16 = vec2<u64>;
alias Loaded = vec4<u64>;
const LOADED: u32 = 2u; // in Bytes16
alias Stored = vec4<u64>;
const STORED: u32 = 2u; // in Bytes16

fn bytes16(word: u32) -> Bytes16 {
    return Bytes16(u64(word));
}

fn halves(l: Loaded) -> Bytes16 {
    return l.xy ^ l.zw;
}

// Which of n, a power of two, to load after i others: far from it, as waiting for memory then overlaps.
fn nth(i: u32, n: u32) -> u32 {
    return reverseBits(i) >> (32u - firstTrailingBit(n));
}

fn folded(b: Bytes16) -> u32 {
    return u32(b.x ^ b.y);
}

fn stored(b: Bytes16) -> Stored {
    return Stored(b, b);
}
