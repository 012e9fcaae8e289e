// Eight levels by the seven thresholds between them: how many of them |x| exceeds, by bisection.

struct Coder {
    below: array<u32, 7>,
}

fn level(c: Coder, a: u32) -> u32 {
    let high = a > c.below[3];
    let middle = a > select(c.below[1], c.below[5], high);
    let low = a > select(select(c.below[0], c.below[2], middle), select(c.below[4], c.below[6], middle), high);
    return select(0u, 4u, high) | select(0u, 2u, middle) | select(0u, 1u, low);
}
