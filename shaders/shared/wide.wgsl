// Products of 64 bits, and reciprocals, in 32-bit words.

// (high, low) words of a · b.
fn multiply(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let middle = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
    return vec2<u32>((a >> 16u) * (b >> 16u) + (middle >> 16u) + (other >> 16u), (other << 16u) | (low & 0xffffu));
}

// A positive number as significand · 2^exponent with 24 significant bits.
struct Scaled {
    significand: u32,
    exponent: i32,
}

fn scaled(m: u32, e: i32) -> Scaled {
    let z = 23u - min(firstLeadingBit(m | 1u), 23u);
    return Scaled(m << z, e - i32(z));
}

// A number, and its reciprocal rounded to a binary32: RN(1 / x).
struct Reciprocal {
    // Where that is infinite, `infinite` holds, and x itself is meant.
    reciprocal: Scaled,
    infinite: bool,
    // 1 / reciprocal, or x: inverse · 2^inverse_exponent with 31 bits, a little too small where it isn't exact.
    inverse: u32,
    inverse_exponent: i32,
}

// x: bits of a binary32 that is not 0, sign apart.
fn reciprocal_of(x: u32) -> Reciprocal {
    let s = scaled(significand(x), i32(exponent(x)) - 150);
    // 2^47 / m: 2^32 / h from a line and two Newton steps, as integers are divided slowly; another step, and what is left over. That
    // is taken modulo 2^32, as it is small. For no m is the quotient off by more than one, which was tried for all.
    let m = s.significand;
    let h = m >> 8u; // 16 bits
    var y = 185043u - ((h * 61681u) >> 15u); // within a seventeenth
    y += bitcast<u32>(((bitcast<i32>(0u - h * y) >> 14u) * bitcast<i32>(y >> 2u)) >> 16u);
    y += bitcast<u32>(((bitcast<i32>(0u - h * y) >> 8u) * bitcast<i32>(y >> 2u)) >> 22u);
    let error = bitcast<i32>(0u - m * y); // 2^40 − m · y
    var quotient = (y << 7u) + bitcast<u32>(((error >> 10u) * bitcast<i32>(y >> 2u)) >> 21u);
    var rest = bitcast<i32>(0u - m * quotient);
    let less = rest < 0;
    quotient -= select(0u, 1u, less);
    rest += select(0, i32(m), less);
    let more = rest >= i32(m);
    quotient += select(0u, 1u, more);
    rest -= select(0, i32(m), more);
    // 24 bits: of a power of two the quotient is 2^24, exactly.
    let power = m == 0x800000u;
    quotient = select(quotient, 0x800000u, power);
    let e = -47 - s.exponent + select(0, 1, power);
    // Rounded once, also where the result is subnormal and so loses `lost` more bits.
    let lost = u32(clamp(-149 - e, 0, 24));
    let kept = quotient >> lost;
    let cut = quotient & ((1u << lost) - 1u);
    let half = (1u << lost) >> 1u;
    let twice = 2u * u32(rest);
    let above = select(cut > half || (cut == half && rest > 0), twice > m, lost == 0u);
    let tie = select(cut == half && rest == 0, twice == m, lost == 0u);
    let rounded = kept + select(0u, 1u, above || (tie && (kept & 1u) == 1u));
    let r = scaled(rounded, e + i32(lost));

    // 2^54 / r: 2^7 · m, corrected by how far r · m is from 2^47.
    let x2 = m << select(0u, 1u, power);
    let off = bitcast<i32>(0u - r.significand * x2);
    let inverse = (x2 << 7u) + bitcast<u32>(((off >> 10u) * bitcast<i32>(m >> 10u)) >> 20u) - 2u;
    // 1/x ≥ 2^128 − 2^103, which rounds to infinity, exactly where x ≤ 2^-128.
    if x <= 0x200000u {
        return Reciprocal(s, true, m << 7u, s.exponent - 7);
    }
    return Reciprocal(r, false, inverse, -54 - r.exponent);
}

// One less than the smallest |y| bits for which RN(|y| · RN(1/x)) exceeds the binary32 `t` (`strict`), or reaches it (not
// `strict`). Where RN(1/x) is infinite, RN(|y| / x) is meant. t is normal and no power of two.
fn below(r: Reciprocal, t: u32, strict: bool) -> u32 {
    // RN(p) exceeds t where p lies beyond the middle of t and its next neighbour; it reaches t where p lies beyond the
    // middle with the one before. The middle itself rounds to the even one of the two.
    let significand_t = significand(t);
    let middle = 2u * significand_t + select(0xffffffffu, 1u, strict); // · 2^(exponent(t) − 151)
    let with_middle = ((significand_t & 1u) == 1u) == strict;

    // |y| > middle · 2^e / reciprocal = m · 2^ey, with m scaled to 24 bits.
    let product = multiply(middle, r.inverse);
    let wide = product.x >= 0x800000u;
    var m = select((product.x << 1u) | (product.y >> 31u), product.x, wide);
    let ey = i32(exponent(t)) - 151 + r.inverse_exponent + select(31, 32, wide);
    // The guess is too small by two at the most, so the difference of the 48-bit products fits a word.
    let cut = select(product.y & MAGNITUDE, product.y, wide) != 0u;
    var difference = bitcast<i32>(m * r.reciprocal.significand - (middle << select(23u, 22u, wide)));
    difference = select(difference, select(0, -1, cut), r.infinite);
    let least = select(1, 0, with_middle);
    for (var i = 0u; i < 2u; i++) { // unrolled
        let less = difference < least;
        m += select(0u, 1u, less);
        difference += select(0, bitcast<i32>(r.reciprocal.significand), less);
    }
    // Among subnormals the next multiple of 2^-149 from there on.
    let field = ey + 149;
    return (u32(max(field, 0)) << 23u) + ((m - 1u) >> u32(clamp(-field, 0, 31)));
}
