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
    // Significand of x, 24 bits; 2^24 where it is a power of two, so that significand · reciprocal ≈ 2^47 always.
    x: u32,
    // RN(1 / x). Where that is infinite, x itself as a multiple of 2^-149, and `infinite` holds.
    reciprocal: Scaled,
    infinite: bool,
}

// x: bits of a binary32 that is not 0, sign apart.
fn reciprocal_of(x: u32) -> Reciprocal {
    // 1/x ≥ 2^128 − 2^103, which rounds to infinity, exactly where x ≤ 2^-128.
    if x <= 0x200000u {
        return Reciprocal(x, Scaled(x, -149), true);
    }
    var s = scaled(significand(x), i32(exponent(x)) - 150);
    if s.significand == 0x800000u {
        s = Scaled(0x1000000u, s.exponent - 1);
    }
    // 2^47 / significand by long division: 24 bits, and a rest.
    var quotient = 0x80000000u / s.significand;
    var rest = 0x80000000u - quotient * s.significand;
    for (var i = 0u; i < 2u; i++) {
        let digit = (rest << 8u) / s.significand;
        rest = (rest << 8u) - digit * s.significand;
        quotient = (quotient << 8u) + digit;
    }
    // Rounded once, also where the result is subnormal and so loses `lost` more bits.
    let e = -47 - s.exponent;
    let lost = u32(max(-149 - e, 0));
    let kept = quotient >> lost;
    let cut = quotient & ((1u << lost) - 1u);
    let half = (1u << lost) >> 1u;
    let above = select(cut > half || (cut == half && rest > 0u), 2u * rest > s.significand, lost == 0u);
    let tie = select(cut == half && rest == 0u, 2u * rest == s.significand, lost == 0u);
    let rounded = kept + select(0u, 1u, above || (tie && (kept & 1u) == 1u));
    return Reciprocal(s.significand, scaled(rounded, e + i32(lost)), false);
}

// One less than the smallest |y| bits for which RN(|y| · RN(1/x)) exceeds the binary32 `t` (`strict`), or reaches it (not
// `strict`). Where RN(1/x) is infinite, RN(|y| / x) is meant. t is normal and no power of two.
fn below(r: Reciprocal, t: u32, strict: bool) -> u32 {
    // RN(p) exceeds t where p lies beyond the middle of t and its next neighbour; it reaches t where p lies beyond the
    // middle with the one before. The middle itself rounds to the even one of the two.
    let significand_t = significand(t);
    let middle = 2u * significand_t + select(0xffffffffu, 1u, strict); // · 2^(exponent(t) − 151)
    let with_middle = ((significand_t & 1u) == 1u) == strict;
    let e = i32(exponent(t)) - 151;

    if r.infinite {
        // |y| > middle · 2^e · x, in units of 2^-149.
        let product = multiply(middle, r.x);
        let n = u32(-e); // 25 to 33
        let low = select(product.y & ((1u << (n & 31u)) - 1u), product.y | (product.x & ((1u << (n & 31u)) - 1u)), n >= 32u);
        let exact = low == 0u;
        let floor_ = select((product.x << (32u - min(n, 31u))) | (product.y >> min(n, 31u)), product.x >> (n & 31u), n >= 32u);
        return floor_ - select(0u, 1u, exact && with_middle);
    }

    // |y| > middle · 2^e / reciprocal = m · 2^ey, with m scaled to 24 bits.
    let mr = r.reciprocal.significand;
    let s = select(22u, 23u, middle < 2u * mr);
    let product = multiply(middle, r.x);
    var m = (product.x << (s - 15u)) | (product.y >> (47u - s));
    // The guess is off by a few units at the most, so the difference of the 48-bit products fits a word.
    var difference = bitcast<i32>(m * mr - (middle << s));
    let least = select(1, 0, with_middle);
    while difference < least {
        m += 1u;
        difference += i32(mr);
    }
    while difference - i32(mr) >= least {
        m -= 1u;
        difference -= i32(mr);
    }
    let ey = e - i32(s) - r.reciprocal.exponent;
    if ey >= -149 {
        return (u32(ey + 149) << 23u) + m - 1u;
    }
    // Among subnormals the next multiple of 2^-149 from there on.
    let lost = u32(min(-149 - ey, 31));
    return ((m + (1u << lost) - 1u) >> lost) - 1u;
}
