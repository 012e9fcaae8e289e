//! Packed bytes against the CPU reference, and how far the values moved.

use std::ops::Range;
use std::str::FromStr;

use crate::cpu;
use crate::dtype::Weights;
use crate::error::{Error, Result};
use crate::format::ScaleType;
use crate::named::named;
use crate::packed::Packed;
use crate::quant::nested::NESTED_BLOCK;
use crate::random::SplitMix;

mod checker;
mod figures;

pub use checker::Checker;
pub(crate) use checker::{CHECKED_PART, Held};
pub use figures::ErrorFigures;
pub(crate) use figures::{LANES, PIECE, STRETCH, StretchFigures, UNIT};

/// How much of a result is recomputed on the CPU and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Nothing.
    None,
    /// A seeded choice of blocks of every tensor, the first and the last among them.
    #[default]
    Sample,
    /// Every byte.
    Full,
}

impl Verify {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::None, Self::Sample, Self::Full];

    /// The name on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sample => "sample",
            Self::Full => "full",
        }
    }
}

impl FromStr for Verify {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        named("way to verify", Self::ALL, Self::name, name)
    }
}

/// Blocks of a tensor that [`Verify::Sample`] looks at, at most.
pub const SAMPLED_BLOCKS: u64 = 256;

/// A byte that differs from the reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Name of the tensor.
    pub tensor: String,
    /// Block index within the tensor.
    pub block: u64,
    /// Flat index of the first element whose code differs, or of the block's first where the scale does.
    pub index: u64,
    /// `code` or `scale`.
    pub part: &'static str,
    /// Bits of that element in the input, as hexadecimal.
    pub input_bits: String,
    /// The byte that the reference gives.
    pub expected: u8,
    /// The byte that is there.
    pub actual: u8,
    /// Adapter and driver that made it, where known.
    pub made_by: Option<String>,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tensor, block, index, part, input_bits, expected, actual, made_by } = self;
        write!(
            f,
            "tensor {tensor:?}, block {block}: the {part} byte of element {index} (input bits {input_bits}) is {actual:#04x}, \
             but the reference gives {expected:#04x}"
        )?;
        match made_by {
            Some(made_by) => write!(f, "; made by {made_by}"),
            None => Ok(()),
        }
    }
}

/// What messages call a tensor that has no name.
const TENSOR: &str = "weights";

/// Holds a packed tensor in memory against the weights that it came from, every byte of it, and measures how far its values
/// moved.
///
/// # Errors
/// [`Error::Mismatch`] at the first byte that differs, [`Error::Refused`] for another number of weights, and what
/// [`quantize`](crate::quantize) has to say of the weights.
pub fn verify_tensor<'a>(weights: impl Into<Weights<'a>>, packed: &Packed) -> Result<ErrorFigures> {
    let weights = weights.into();
    if weights.len() as u64 != packed.n_elems() {
        let text = format!("{} weights can't be what {} packed ones were", weights.len(), packed.n_elems());
        return Err(Error::Refused(text));
    }
    let (format, figures) = (packed.format(), ErrorFigures::default());
    let mut checker = Checker { format, tensor: TENSOR, made_by: None, figures };
    checker.check(weights, 0, packed.codes(), &packed.stream_scales())?;
    if format.info().scale == ScaleType::Nested {
        check_nested(weights, &cpu::quantize(format, weights)?, packed)?;
    }
    Ok(checker.figures)
}

/// Holds nested scales, which depend on all of a tensor, against what they should be.
fn check_nested(weights: Weights<'_>, expected: &Packed, actual: &Packed) -> Result<()> {
    let format = expected.format();
    let offsets = [expected, actual].map(|packed| packed.nested_offset().to_le_bytes());
    for (part, expected, actual, block_of) in [
        ("scale", expected.scales(), actual.scales(), (|at| at) as fn(usize) -> usize),
        ("second-level scale", expected.nested_absmax(), actual.nested_absmax(), |at| at / 4 * NESTED_BLOCK),
        ("scale offset", &offsets[0][..], &offsets[1][..], |_| 0),
    ] {
        let Some(at) = expected.iter().zip(actual).position(|(expected, actual)| expected != actual) else { continue };
        let block = block_of(at);
        let index = block * format.info().block;
        return Err(Error::Mismatch(Box::new(Mismatch {
            tensor: TENSOR.to_owned(),
            block: block as u64,
            index: index as u64,
            part,
            input_bits: format!("{:#x}", weights.bits(index)),
            expected: expected[at],
            actual: actual[at],
            made_by: None,
        })));
    }
    Ok(())
}

/// Blocks to look at: all of them, or for [`Verify::Sample`] the first, the last and a choice between that depends on
/// `seed` and the number of blocks alone. Ascending, without repeats.
#[must_use]
#[expect(clippy::single_range_in_vec_init, reason = "one stretch of blocks")]
pub fn blocks_to_check(verify: Verify, n_blocks: u64, seed: u64) -> Vec<Range<u64>> {
    match verify {
        Verify::None => Vec::new(),
        Verify::Full => vec![0..n_blocks],
        Verify::Sample if n_blocks <= SAMPLED_BLOCKS => vec![0..n_blocks],
        Verify::Sample => {
            // One block from each of equally long stretches. The ends come first and last.
            let stretch = |i: u64| {
                u64::try_from(u128::from(n_blocks) * u128::from(i) / u128::from(SAMPLED_BLOCKS)).unwrap_or(n_blocks)
            };
            let mut random = SplitMix::new(seed);
            (0..SAMPLED_BLOCKS)
                .map(|i| {
                    let (start, end) = (stretch(i), stretch(i + 1));
                    let block = match i {
                        0 => 0,
                        _ if i + 1 == SAMPLED_BLOCKS => n_blocks - 1,
                        _ => start + random.below(end - start),
                    };
                    block..block + 1
                })
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_the_ends_and_is_the_same_every_time() {
        for n_blocks in [1, 2, 255, 256, 257, 1000, 1 << 40] {
            let sample = blocks_to_check(Verify::Sample, n_blocks, 7);
            assert_eq!(sample.first().map(|r| r.start), Some(0), "{n_blocks} blocks");
            assert_eq!(sample.last().map(|r| r.end), Some(n_blocks), "{n_blocks} blocks");
            assert!(sample.windows(2).all(|w| w[0].end <= w[1].start), "{n_blocks} blocks: ascending");
            assert_eq!(sample, blocks_to_check(Verify::Sample, n_blocks, 7));
        }
        assert_ne!(blocks_to_check(Verify::Sample, 1 << 20, 7), blocks_to_check(Verify::Sample, 1 << 20, 8));
        assert!(blocks_to_check(Verify::None, 9, 0).is_empty());
    }
}
