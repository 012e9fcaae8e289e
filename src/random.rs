//! A fixed random number generator, so that samples and test cases are the same on every machine and in every release.

/// Steele, Lea and Flood's SplitMix64: a counter through a mixing function.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix(u64);

impl SplitMix {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0; the bias is below 2^-32 for the small `n` used here.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
