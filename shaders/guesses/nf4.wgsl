// nf4: a place in one of 32 cells, 31/2 to 1 and cell 16 beginning at 0, so that no cell has two of the thresholds.

const STEPS: f32 = 15.5;
const FRACTION_BITS: u32 = 16u;
const OFFSET: f32 = 208.0;
const DOUBTFUL_OFFSET: f32 = 192.0 + DOUBT_OF_ONE; // at the end of a cell without threshold

// Of each cell, the threshold's fraction less DOUBT, and minus 65,536 times one more than there are thresholds in lower cells:
// taken from a fraction it leaves how many are exceeded, and how far the cell's is away.
const CELLS = array<u32, 32>(
    0xffffffffu, 0xffffffffu, 0xffffdabau, 0xfffeffffu, 0xfffeffffu, 0xfffeffffu, 0xfffe88fcu, 0xfffdffffu,
    0xfffddeb7u, 0xfffcffffu, 0xfffcbc20u, 0xfffbffffu, 0xfffb5d0du, 0xfffadcbeu, 0xfff9ffffu, 0xfff94b55u,
    0xfff89dddu, 0xfff7dd26u, 0xfff6ffffu, 0xfff6278cu, 0xfff586afu, 0xfff4ffffu, 0xfff408c4u, 0xfff3c693u,
    0xfff2ffffu, 0xfff2f68eu, 0xfff1ffffu, 0xfff1ffffu, 0xfff1ffffu, 0xfff15a52u, 0xfff0ffffu, 0xfff0ffffu,
);
var<workgroup> cells: array<u32, 32>;

// Before the barrier.
fn prepare(i: u32) {
    if i < 32u {
        var all = CELLS;
        cells[i] = all[i];
    }
}

fn guess(told: Told, x: u32) -> u32 {
    let place = sum(told, x);
    return (place & 0xffffu) - cells[(place >> 16u) & 31u];
}

fn finish_guesses(word: u32) -> u32 {
    return word;
}
