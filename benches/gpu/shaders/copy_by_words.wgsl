// Sixteen bytes, and what is loaded and stored at a time: as kernels in vectors have them.

alias Bytes16 = vec4<u32>;
alias Loaded = vec4<u32>;
const LOADED: u32 = 1u; // in Bytes16
alias Stored = vec4<u32>;
const STORED: u32 = 1u; // in Bytes16

fn bytes16(word: u32) -> Bytes16 {
    return Bytes16(word);
}

fn halves(l: Loaded) -> Bytes16 {
    return l;
}

fn nth(i: u32, n: u32) -> u32 {
    return i;
}

fn folded(b: Bytes16) -> u32 {
    return b.x ^ b.y ^ b.z ^ b.w;
}

fn stored(b: Bytes16) -> Stored {
    return b;
}
