//! Thresholds by cells, which makes counting those below a number a matter of two or three lookups.

/// Ascending thresholds by cells, intervals so short that none has two of them.
pub(in crate::simd) struct Cells<const N: usize> {
    /// How many thresholds lie in lower cells, and one.
    pub(super) above: [u8; N],
    /// Where in a cell its threshold is, in 65,536ths of the cell, rounded down and less 2; a byte each.
    pub(super) low: [u8; N],
    pub(super) high: [u8; N],
    /// `above`, and `low` and `high`, as words.
    pub(super) words_above: [u16; 32],
    pub(super) thresholds: [u16; 32],
}

impl<const N: usize> Cells<N> {
    /// The integer part of x · `cells_by_one` + `offset` is the cell of x.
    pub(super) const fn new(thresholds: &[f32], cells_by_one: f32, offset: f32) -> Self {
        let (words_above, no_thresholds) = ([1; 32], [u16::MAX; 32]);
        let mut cells = Self { above: [1; N], low: [0xff; N], high: [0xff; N], words_above, thresholds: no_thresholds };
        let mut i = 0;
        while i < thresholds.len() {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "less than N cells")]
            let position = ((thresholds[i] as f64 * cells_by_one as f64 + offset as f64) * 65_536.0) as usize;
            let (cell, fraction) = (position >> 16, position & 0xffff);
            assert!(fraction > 8 && fraction < 65_528, "a threshold in doubt has two cells");
            let [low, high, ..] = (fraction - 2).to_le_bytes();
            assert!(cells.low[cell] == 0xff && cells.high[cell] == 0xff, "two thresholds in one cell");
            (cells.low[cell], cells.high[cell]) = (low, high);
            cells.thresholds[cell] = u16::from_le_bytes([low, high]);
            let mut above = cell + 1;
            while above < N {
                cells.above[above] += 1;
                cells.words_above[above] += 1;
                above += 1;
            }
            i += 1;
        }
        cells
    }
}
