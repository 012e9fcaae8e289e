// Weights as binary32: one word an element. `words4` and `words8` stand in a file of their own.

const WIDE: u32 = 8u; // elements that `load_wide` gives

// The bits of elements 4·i .. 4·i+3.
fn load4(i: u32) -> vec4<u32> {
    return words4(i);
}

// The bits of elements WIDE·i .. WIDE·i+7.
fn load_wide(i: u32) -> array<vec4<u32>, 2> {
    return words8(i);
}
