//! Weights as they come: IEEE and bfloat bit patterns in little-endian bytes, at any alignment.

use std::str::FromStr;

use crate::error::{Error, Result};

/// The floating-point types that weights come in and go out as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
}

impl Dtype {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// Bytes an element.
    #[must_use]
    pub const fn n_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The name that safetensors headers use: `F32`, `F16`, `BF16`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
        }
    }

    /// The type of that name, in either case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name().eq_ignore_ascii_case(name))
    }

    /// The element's bits, zero-extended, from its little-endian bytes.
    fn bits_at(self, bytes: &[u8], index: usize) -> u32 {
        let at = index * self.n_bytes();
        match self {
            Self::F32 => u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]),
            Self::F16 | Self::BF16 => u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]])),
        }
    }

    /// An element's bits widened to `f32`, exactly. NaN payloads may be quieted.
    #[must_use]
    pub fn widen(self, bits: u32) -> f32 {
        match self {
            Self::F32 => f32::from_bits(bits),
            #[expect(clippy::cast_possible_truncation, reason = "the upper half is zero for 16-bit types")]
            Self::F16 => half::f16::from_bits(bits as u16).to_f32(),
            Self::BF16 => f32::from_bits(bits << 16),
        }
    }

    /// Rounds an exact product once, to nearest even with gradual underflow, and appends its little-endian bytes.
    ///
    /// # Errors
    /// The value itself if it rounds beyond the largest finite value: nothing becomes infinity unseen.
    pub(crate) fn round_into(self, value: f64, out: &mut [u8]) -> Result<(), f64> {
        match self {
            Self::F32 => {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "`as` rounds to nearest even, gradual underflow included"
                )]
                let rounded = value as f32;
                if !rounded.is_finite() {
                    return Err(value);
                }
                out.copy_from_slice(&rounded.to_le_bytes());
            }
            Self::F16 => out.copy_from_slice(&round_to_half(value, 11, -24, 0x7c00).ok_or(value)?.to_le_bytes()),
            Self::BF16 => out.copy_from_slice(&round_to_half(value, 8, -133, 0x7f80).ok_or(value)?.to_le_bytes()),
        }
        Ok(())
    }
}

impl FromStr for Dtype {
    type Err = Error;

    /// As [`Self::from_name`].
    fn from_str(name: &str) -> Result<Self> {
        let text = || Error::Refused(format!("there is no type {name:?}; there are: f32, f16, bf16"));
        Self::from_name(name).ok_or_else(text)
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// `value` as a 16-bit float with `precision` significant bits whose smallest subnormal is 2^`min_exponent`; `None` if
/// it rounds to `infinity` or is not finite. (The `half` crate's `from_f64` is not correctly rounded, so it can't serve.)
fn round_to_half(value: f64, precision: i32, min_exponent: i32, infinity: u16) -> Option<u16> {
    if !value.is_finite() {
        return None;
    }
    let bits = value.to_bits();
    let sign = (bits >> 48) as u16 & 0x8000;
    let exponent = i32::try_from(bits >> 52 & 0x7ff).unwrap_or(0);
    let significand = (bits & ((1 << 52) - 1)) | (u64::from(exponent > 0) << 52);
    // value = significand × 2^unit; the result's unit is the larger of what the precision and the range allow.
    let unit = exponent.max(1) - 1075;
    let n_bits = 64 - i32::try_from(significand.leading_zeros()).unwrap_or(0);
    let result_unit = (unit + n_bits - precision).max(min_exponent);
    let shift = result_unit - unit; // ≥ 42 for every normal f64, as significand has 53 bits
    let rounded = match shift {
        64.. => 0,
        1.. => {
            let (kept, rest, half) = (significand >> shift, significand & ((1 << shift) - 1), 1 << (shift - 1));
            kept + u64::from(rest > half || (rest == half && kept & 1 == 1))
        }
        _ => significand << -shift,
    };
    // A carry out of `rounded` moves the exponent on by itself, because the fields are adjacent.
    let magnitude = (i64::from(result_unit - min_exponent) << (precision - 1)) + i64::try_from(rounded).ok()?;
    u16::try_from(magnitude).ok().filter(|&m| m < infinity).map(|m| m | sign)
}

/// A borrowed tensor of weights: little-endian bytes at any alignment, and their type.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
}

impl<'a> Weights<'a> {
    /// Weights from little-endian bytes, as files hold them; they need no alignment.
    ///
    /// # Errors
    /// [`Error::BadFile`] if the length is no multiple of the element's size.
    pub fn from_le_bytes(dtype: Dtype, bytes: &'a [u8]) -> Result<Self> {
        if !bytes.len().is_multiple_of(dtype.n_bytes()) {
            return Err(Error::BadFile(format!(
                "{} bytes are no whole number of {dtype} elements of {} bytes",
                bytes.len(),
                dtype.n_bytes()
            )));
        }
        Ok(Self { dtype, bytes })
    }

    /// The elements' type.
    #[must_use]
    pub const fn dtype(self) -> Dtype {
        self.dtype
    }

    /// The elements, as little-endian bytes.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// How many elements there are.
    #[must_use]
    pub const fn len(self) -> usize {
        self.bytes.len() / self.dtype.n_bytes()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// The element at `index`, widened exactly.
    #[must_use]
    pub fn get(self, index: usize) -> f32 {
        self.dtype.widen(self.bits(index))
    }

    /// The element's bits in its own type.
    #[must_use]
    pub fn bits(self, index: usize) -> u32 {
        self.dtype.bits_at(self.bytes, index)
    }

    /// Elements `start..end`.
    #[must_use]
    pub fn slice(self, range: std::ops::Range<usize>) -> Self {
        let n = self.dtype.n_bytes();
        Self { dtype: self.dtype, bytes: &self.bytes[range.start * n..range.end * n] }
    }

    /// Widens the first `out.len()` elements into `out`.
    pub(crate) fn widen_into(self, out: &mut [f32]) {
        // One loop a type, so that each can be vectorized.
        match self.dtype {
            Dtype::F32 => {
                for (value, bytes) in out.iter_mut().zip(self.bytes.as_chunks().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            dtype => {
                for (value, bytes) in out.iter_mut().zip(self.bytes.as_chunks().0) {
                    *value = dtype.widen(u32::from(u16::from_le_bytes(*bytes)));
                }
            }
        }
    }

    /// The error that names element `index` as not finite; `first` is the flat index of element 0.
    pub(crate) fn non_finite(self, index: usize, first: u64) -> Error {
        let value = self.get(index);
        let name = match (value.is_nan(), value > 0.0) {
            (true, _) => "NaN",
            (_, true) => "+Inf",
            (_, false) => "-Inf",
        };
        let width = 2 + 2 * self.dtype.n_bytes();
        Error::NonFinite { index: first + index as u64, value: name, bits: format!("{:#0width$x}", self.bits(index)) }
    }
}

impl<'a> From<&'a [f32]> for Weights<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self { dtype: Dtype::F32, bytes: bytemuck::cast_slice(values) }
    }
}

impl<'a> From<&'a [half::f16]> for Weights<'a> {
    fn from(values: &'a [half::f16]) -> Self {
        Self { dtype: Dtype::F16, bytes: bytemuck::cast_slice(values) }
    }
}

impl<'a> From<&'a [half::bf16]> for Weights<'a> {
    fn from(values: &'a [half::bf16]) -> Self {
        Self { dtype: Dtype::BF16, bytes: bytemuck::cast_slice(values) }
    }
}

impl<'a> From<&'a Vec<f32>> for Weights<'a> {
    fn from(values: &'a Vec<f32>) -> Self {
        Self::from(values.as_slice())
    }
}

#[cfg(target_endian = "big")]
compile_error!("wgquant reads tensors where they lie and so needs a little-endian target");

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(dtype: Dtype, value: f64) -> Option<u16> {
        let mut out = [0; 2];
        dtype.round_into(value, &mut out).ok().map(|()| u16::from_le_bytes(out))
    }

    /// Every 16-bit value is itself, every midpoint goes to the even neighbour, and a hair beside it to the nearer one.
    #[test]
    fn rounding_to_16_bits_is_exact_everywhere() {
        for dtype in [Dtype::F16, Dtype::BF16] {
            let infinity: u32 = if dtype == Dtype::F16 { 0x7c00 } else { 0x7f80 };
            for bits in 0..infinity {
                let (low, high) = (f64::from(dtype.widen(bits)), f64::from(dtype.widen(bits + 1)));
                let bits = u16::try_from(bits).expect("16 bits");
                assert_eq!(rounded(dtype, low), Some(bits), "{dtype} {bits:#x}");
                assert_eq!(rounded(dtype, -low), Some(bits | 0x8000), "-{dtype} {bits:#x}");
                if u32::from(bits) + 1 < infinity {
                    let middle = low + (high - low) / 2.0;
                    assert_eq!(rounded(dtype, middle), Some(bits + (bits & 1)), "{dtype} tie above {bits:#x}");
                    assert_eq!(rounded(dtype, middle.next_down()), Some(bits), "{dtype} below the tie of {bits:#x}");
                    assert_eq!(rounded(dtype, middle.next_up()), Some(bits + 1), "{dtype} above the tie of {bits:#x}");
                }
            }
        }
        assert_eq!(rounded(Dtype::F16, 65519.999), Some(0x7bff));
        assert_eq!(rounded(Dtype::F16, 65520.0), None);
        assert_eq!(rounded(Dtype::F16, 1e-300), Some(0));
        assert_eq!(rounded(Dtype::BF16, f64::NAN), None);
        assert_eq!(rounded(Dtype::BF16, 3.4e38), None);
    }

    #[test]
    fn odd_byte_counts_are_refused() {
        let error = Weights::from_le_bytes(Dtype::F32, &[0; 7]).expect_err("7 bytes are no f32");
        assert_eq!(error.to_string(), "7 bytes are no whole number of F32 elements of 4 bytes");
    }
}
