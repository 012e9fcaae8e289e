//! A packed tensor in host memory.

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::Format;

/// A tensor's packed codes and scales: `ceil(n · bits / 8)` bytes and one scale a block, planar, little-endian.
///
/// Two of them are equal exactly if their bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    format: Format,
    n_elems: u64,
    codes: Vec<u8>,
    scales: Vec<u8>,
}

impl Packed {
    /// A packed tensor from its parts.
    ///
    /// # Errors
    /// [`Error::Empty`] for no weights, [`Error::PartialBlock`], [`Error::PackedSize`] if a part's length is not what `n_elems` calls for.
    pub fn from_parts(format: Format, n_elems: u64, codes: Vec<u8>, scales: Vec<u8>) -> Result<Self> {
        let info = format.info();
        info.check_len(n_elems)?;
        for (what, expected, actual) in
            [("codes", info.codes_bytes(n_elems), codes.len()), ("scales", info.scales_bytes(n_elems), scales.len())]
        {
            if expected != actual as u64 {
                return Err(Error::PackedSize { what, format: info.name, n_elems, expected, actual: actual as u64 });
            }
        }
        Ok(Self { format, n_elems, codes, scales })
    }

    /// Room for `n_elems` weights, all bytes 0.
    pub(crate) fn zeroed(format: Format, n_elems: usize) -> Result<Self> {
        let info = format.info();
        let bytes = |n: u64| {
            usize::try_from(n)
                .map(|n| vec![0; n])
                .map_err(|_| Error::Refused(format!("{n} bytes don't fit this machine's memory")))
        };
        let n_elems = n_elems as u64;
        Self::from_parts(format, n_elems, bytes(info.codes_bytes(n_elems))?, bytes(info.scales_bytes(n_elems))?)
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// How many weights it holds.
    #[must_use]
    pub fn n_elems(&self) -> u64 {
        self.n_elems
    }

    /// Packed codes, as the format lays them out.
    #[must_use]
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// One scale a block, little-endian.
    #[must_use]
    pub fn scales(&self) -> &[u8] {
        &self.scales
    }

    /// Codes and scales, to be filled.
    pub(crate) fn parts_mut(&mut self) -> (&mut [u8], &mut [u8]) {
        (&mut self.codes, &mut self.scales)
    }

    /// Bytes of codes and scales together.
    #[must_use]
    pub fn size_in_bytes(&self) -> usize {
        self.codes.len() + self.scales.len()
    }

    /// Bytes of the weights in `original` over packed bytes.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn compression_ratio(&self, original: Dtype) -> f64 {
        (self.n_elems * original.n_bytes() as u64) as f64 / self.size_in_bytes() as f64
    }

    /// BLAKE3 over codes, then scales: the same on every GPU, CPU and browser, and in every container.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.codes).update(&self.scales);
        *hasher.finalize().as_bytes()
    }
}
