// Weights as binary32: one word an element. `words4` stands in a file of its own.

// The bits of elements 4·i .. 4·i+3.
fn load4(i: u32) -> vec4<u32> {
    return words4(i);
}

// The bits of elements 8·i .. 8·i+7.
fn load8(i: u32) -> array<vec4<u32>, 2> {
    return array<vec4<u32>, 2>(words4(2u * i), words4(2u * i + 1u));
}
