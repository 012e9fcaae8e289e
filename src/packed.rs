//! A packed tensor in host memory.

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::{Format, FormatInfo, ScaleType};
use crate::quant::nested::{self, NESTED_BLOCK, Nested};

/// A piece of a packed tensor: whole blocks, but for the tensor's last.
#[derive(Debug, Clone, Copy)]
pub struct PackedChunk<'a> {
    /// Flat index of its first element, a multiple of the format's block.
    pub first_elem: u64,
    /// Packed codes of its elements.
    pub codes: &'a [u8],
    /// One scale a block; of a nested format, the `f32` scale before it is quantized.
    pub scales: &'a [u8],
}

/// A tensor's packed codes and scales: `ceil(n · bits / 8)` bytes and one scale a block, planar, little-endian; where
/// scales are nested, one byte a block, a second-level `f32` for 256 blocks, and an offset.
///
/// Two of them are equal exactly if their bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    format: Format,
    n_elems: u64,
    codes: Vec<u8>,
    scales: Vec<u8>,
    /// Second-level scales and the offset, as bits; empty and 0 where scales are not nested.
    nested_absmax: Vec<u8>,
    nested_offset: u32,
}

impl Packed {
    /// A packed tensor from its parts.
    ///
    /// # Errors
    /// [`Error::Empty`] for no weights, [`Error::PartialBlock`], [`Error::PackedSize`] if a part's length is not what
    /// `n_elems` calls for. Nested scales have more parts: [`Self::from_nested_parts`].
    pub fn from_parts(format: Format, n_elems: u64, codes: Vec<u8>, scales: Vec<u8>) -> Result<Self> {
        Self::from_nested_parts(format, n_elems, codes, scales, Vec::new(), 0.0)
    }

    /// A packed tensor from all its parts: codes, scales as they are stored, and of nested ones the second-level scales
    /// (little-endian `f32`) and the offset.
    ///
    /// # Errors
    /// As [`Self::from_parts`].
    pub fn from_nested_parts(
        format: Format,
        n_elems: u64,
        codes: Vec<u8>,
        scales: Vec<u8>,
        nested_absmax: Vec<u8>,
        nested_offset: f32,
    ) -> Result<Self> {
        let info = format.info();
        info.check_len(n_elems)?;
        let nested_bytes = info.nested_absmax_bytes(n_elems);
        for (what, expected, actual) in [
            ("codes", info.codes_bytes(n_elems), codes.len()),
            ("scales", info.stored_scales_bytes(n_elems), scales.len()),
            ("second-level scales", nested_bytes, nested_absmax.len()),
        ] {
            if expected != actual as u64 {
                return Err(Error::PackedSize { what, format: info.name, n_elems, expected, actual: actual as u64 });
            }
        }
        let nested_offset = nested_offset.to_bits();
        Ok(Self { format, n_elems, codes, scales, nested_absmax, nested_offset })
    }

    /// A packed tensor from codes and the scales that a stream gives: nested ones are quantized here.
    pub(crate) fn from_stream(format: Format, n_elems: u64, codes: Vec<u8>, scales: Vec<u8>) -> Result<Self> {
        if format.info().scale != ScaleType::Nested {
            return Self::from_parts(format, n_elems, codes, scales);
        }
        let nested = nested::quantize(&bytemuck::pod_collect_to_vec(&scales));
        let absmax = bytemuck::pod_collect_to_vec(&nested.absmax);
        Self::from_nested_parts(format, n_elems, codes, nested.codes, absmax, nested.offset)
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

    /// One scale a block, little-endian, as it is stored.
    #[must_use]
    pub fn scales(&self) -> &[u8] {
        &self.scales
    }

    /// The nested scales' parts; `None` where scales are not nested.
    #[must_use]
    pub fn nested(&self) -> Option<Nested> {
        (self.format.info().scale == ScaleType::Nested).then(|| Nested {
            codes: self.scales.clone(),
            absmax: bytemuck::pod_collect_to_vec(&self.nested_absmax),
            offset: f32::from_bits(self.nested_offset),
        })
    }

    /// Second-level scales, little-endian `f32`; empty where scales are not nested.
    #[must_use]
    pub fn nested_absmax(&self) -> &[u8] {
        &self.nested_absmax
    }

    /// What nested scales have in common; 0 where they are not nested.
    #[must_use]
    pub fn nested_offset(&self) -> f32 {
        f32::from_bits(self.nested_offset)
    }

    /// One scale a block, as blocks' codecs and streams take it: nested ones dequantized.
    pub(crate) fn stream_scales(&self) -> std::borrow::Cow<'_, [u8]> {
        match self.nested() {
            None => (&self.scales).into(),
            Some(Nested { codes, absmax, offset }) => {
                let absmax = |index: usize| absmax.get(index / NESTED_BLOCK).copied().unwrap_or(f32::NAN);
                let scale =
                    |(index, &code): (usize, &u8)| nested::dequantize(code, absmax(index), offset).to_le_bytes();
                codes.iter().enumerate().flat_map(scale).collect::<Vec<_>>().into()
            }
        }
    }

    /// Fills codes and scales from an element on, as streams read them.
    pub(crate) fn stream_reader(&self) -> impl FnMut(u64, &mut [u8], &mut [u8]) -> Result<()> + Send {
        let (info, scales) = (self.format.info(), self.stream_scales());
        move |first_elem: u64, to_codes: &mut [u8], to_scales: &mut [u8]| {
            copy_from(&self.codes, info.codes_bytes(first_elem), to_codes);
            copy_from(&scales, info.scales_bytes(first_elem), to_scales);
            Ok(())
        }
    }

    /// Bytes of all parts together.
    #[must_use]
    pub fn size_in_bytes(&self) -> usize {
        let offset = if self.nested_absmax.is_empty() { 0 } else { size_of::<f32>() };
        self.codes.len() + self.scales.len() + self.nested_absmax.len() + offset
    }

    /// Bytes of the weights in `original` over packed bytes.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn compression_ratio(&self, original: Dtype) -> f64 {
        (self.n_elems * original.n_bytes() as u64) as f64 / self.size_in_bytes() as f64
    }

    /// BLAKE3 over codes, then scales, then (of nested ones) second-level scales and offset: the same on every GPU, CPU
    /// and browser, and in every container.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.codes).update(&self.scales);
        if self.format.info().scale == ScaleType::Nested {
            hasher.update(&self.nested_absmax).update(&self.nested_offset.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// Zeroed codes and stream scales for `n_elems` weights.
pub(crate) fn zeroed_parts(info: &FormatInfo, n_elems: usize) -> Result<(Vec<u8>, Vec<u8>)> {
    let n_elems = n_elems as u64;
    info.check_len(n_elems)?;
    Ok((zeroed(info.codes_bytes(n_elems))?, zeroed(info.scales_bytes(n_elems))?))
}

/// `n_bytes` zeros, if they can be addressed.
pub(crate) fn zeroed(n_bytes: u64) -> Result<Vec<u8>> {
    usize::try_from(n_bytes).map(|n| vec![0; n]).map_err(|_| too_many(n_bytes))
}

/// Room for `n_bytes`, if there is so much.
pub(crate) fn room(n_bytes: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let n = usize::try_from(n_bytes).map_err(|_| too_many(n_bytes))?;
    bytes.try_reserve_exact(n).map_err(|_| too_many(n_bytes))?;
    Ok(bytes)
}

fn too_many(n_bytes: u64) -> Error {
    Error::Refused(format!("{n_bytes} bytes don't fit this machine's memory"))
}

/// Copies from byte `at` of `from`, which is in memory and so is addressed by `usize`.
pub(crate) fn copy_from(from: &[u8], at: u64, to: &mut [u8]) {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    to.copy_from_slice(&from[at..at + to.len()]);
}
