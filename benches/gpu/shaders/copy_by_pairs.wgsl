// Sixteen bytes, and what is stored at a time: as software adapters do it fastest, by 64-bit integers.

alias Bytes16 = vec2<u64>;
alias Stored = vec4<u64>;
const STORED: u32 = 2u; // in Bytes16

fn bytes16(word: u32) -> Bytes16 {
    return Bytes16(u64(word));
}

fn folded(b: Bytes16) -> u32 {
    return u32(b.x ^ b.y);
}

fn stored(b: Bytes16) -> Stored {
    return Stored(b, b);
}
