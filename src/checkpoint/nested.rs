//! Nested scales in a file: a code a block, a second-level scale for 256 of them, and an offset that depends on all.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::SpooledTempFile;

use super::data::{Data, PIECE_BYTES, io_error};
use super::safetensors::TensorInfo;
use super::weight::PackedTensor;
use crate::cpu;
use crate::dtype::Weights;
use crate::error::{Error, Result};
use crate::packed::zeroed;
use crate::quant::nested::{ExactSum, NESTED_BLOCK, Nested, dequantize, quantize_block, quantize_one};
use crate::verify::Mismatch;

/// Scales that are kept in memory; more go to a temporary file.
const SPOOL_BYTES: usize = 4 << 20;

/// Scales that are looked at together: whole second-level blocks.
const RUN: usize = PIECE_BYTES / size_of::<f32>();
const _: () = assert!(RUN.is_multiple_of(NESTED_BLOCK));

/// Blocks whose scales are recomputed together.
const PIECE_BLOCKS: u64 = 1 << 12;

/// Where nested scales lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NestedPlaces {
    /// One code a block.
    pub(crate) codes_at: u64,
    /// Second-level scales, `f32`.
    pub(crate) absmax_at: u64,
    /// The bytes that say the offset.
    pub(crate) offset_at: u64,
    pub(crate) offset_bytes: u64,
    pub(crate) offset_form: OffsetForm,
}

/// How a container says the offset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OffsetForm {
    /// From the bytes that say it.
    pub(crate) read: fn(&[u8]) -> Result<f32>,
    /// Into those bytes, which hold whatever else they say already.
    pub(crate) write: fn(&mut [u8], f32) -> Result<()>,
}

impl OffsetForm {
    /// Four bytes, little-endian.
    pub(crate) const PLAIN: Self = Self {
        read: |bytes| Ok(bytemuck::pod_read_unaligned(bytes)),
        write: |bytes, offset| {
            bytes.copy_from_slice(&offset.to_le_bytes());
            Ok(())
        },
    };
}

impl NestedPlaces {
    /// The offset.
    pub(crate) fn offset(&self, data: Data<'_>) -> Result<f32> {
        let mut said = zeroed(self.offset_bytes)?;
        data.read_at(self.offset_at, &mut said)?;
        (self.offset_form.read)(&said)
    }

    fn write_offset(&self, data: Data<'_>, offset: f32) -> Result<()> {
        let mut said = zeroed(self.offset_bytes)?;
        data.read_at(self.offset_at, &mut said)?;
        (self.offset_form.write)(&mut said, offset)?;
        data.write_at(self.offset_at, &said)
    }

    /// Writes second-level scales and offset that are known; codes are written as other formats' scales are.
    pub(crate) fn store(&self, data: Data<'_>, nested: &Nested) -> Result<()> {
        data.write_at(self.absmax_at, bytemuck::cast_slice(&nested.absmax))?;
        self.write_offset(data, nested.offset)
    }

    /// Quantizes all of a tensor's scales and writes them.
    pub(crate) fn write(&self, data: Data<'_>, spool: &mut ScaleSpool) -> Result<()> {
        let offset = spool.offset();
        spool.for_each_run(|first_block, scales| {
            let (codes, absmax) = quantize_run(scales, offset);
            data.write_at(self.codes_at + first_block, &codes)?;
            data.write_at(self.absmax_at + absmax_distance(first_block), bytemuck::cast_slice(&absmax))
        })?;
        self.write_offset(data, offset)
    }
}

/// Where the second-level scale of a block stands among the others.
fn absmax_distance(block: u64) -> u64 {
    block / NESTED_BLOCK as u64 * size_of::<f32>() as u64
}

/// Where a block stands among those that share a second-level scale.
#[expect(clippy::cast_possible_truncation, reason = "less than 256")]
fn place_in_nested(block: u64) -> usize {
    (block % NESTED_BLOCK as u64) as usize
}

/// Codes and second-level scales of whole second-level blocks; only a tensor's last may be short.
fn quantize_run(scales: &[f32], offset: f32) -> (Vec<u8>, Vec<f32>) {
    let mut codes = vec![0; scales.len()];
    let blocks = scales.chunks(NESTED_BLOCK).zip(codes.chunks_mut(NESTED_BLOCK));
    let absmax = blocks.map(|(scales, codes)| quantize_block(scales, offset, codes)).collect();
    (codes, absmax)
}

/// Reads nested scales.
#[derive(Debug)]
pub(crate) struct NestedReader<'a> {
    places: NestedPlaces,
    data: Data<'a>,
    offset: f32,
}

impl<'a> NestedReader<'a> {
    pub(crate) fn new(places: NestedPlaces, data: Data<'a>) -> Result<Self> {
        Ok(Self { places, data, offset: places.offset(data)? })
    }

    /// The codes of `n_blocks` blocks from `first_block` on, and the second-level scales from that block's on.
    fn read(&self, first_block: u64, n_blocks: usize) -> Result<(Vec<u8>, Vec<f32>)> {
        let mut codes = vec![0; n_blocks];
        self.data.read_at(self.places.codes_at + first_block, &mut codes)?;
        let before = place_in_nested(first_block);
        let mut absmax = vec![0.0; (before + n_blocks).div_ceil(NESTED_BLOCK)];
        let at = self.places.absmax_at + absmax_distance(first_block);
        self.data.read_at(at, bytemuck::cast_slice_mut(&mut absmax))?;
        Ok((codes, absmax))
    }

    /// Fills `scales` with the `f32` scales that stand for those of the blocks from `first_block` on.
    pub(crate) fn read_dequantized(&self, first_block: u64, scales: &mut [u8]) -> Result<()> {
        let scales = scales.chunks_exact_mut(size_of::<f32>());
        let (codes, absmax) = self.read(first_block, scales.len())?;
        let before = place_in_nested(first_block);
        for (index, (scale, &code)) in scales.zip(&codes).enumerate() {
            let absmax = absmax[(before + index) / NESTED_BLOCK];
            scale.copy_from_slice(&dequantize(code, absmax, self.offset).to_le_bytes());
        }
        Ok(())
    }
}

/// A tensor's scales before they are quantized, which takes all of them. Many are kept in a temporary file.
#[derive(Debug)]
pub(crate) struct ScaleSpool {
    file: SpooledTempFile,
    sum: ExactSum,
    n_scales: u64,
}

impl ScaleSpool {
    /// An empty one, which keeps in `folder`, if there is one, what is too much for memory.
    pub(crate) fn new(folder: Option<&Path>) -> Self {
        let file = match folder {
            Some(folder) => tempfile::spooled_tempfile_in(SPOOL_BYTES, folder),
            None => tempfile::spooled_tempfile(usize::MAX),
        };
        Self { file, sum: ExactSum::default(), n_scales: 0 }
    }

    /// Adds scales, little-endian `f32`.
    pub(crate) fn add(&mut self, scales: &[u8]) -> Result<()> {
        for scale in scales.chunks_exact(size_of::<f32>()) {
            self.sum.add(bytemuck::pod_read_unaligned(scale));
            self.n_scales += 1;
        }
        self.file.write_all(scales).map_err(|error| io_error("a temporary file for scales can't be written", error))
    }

    /// The mean of all scales.
    fn offset(&self) -> f32 {
        self.sum.mean()
    }

    /// Hands out all scales in runs of whole second-level blocks, each with the index of its first.
    fn for_each_run(&mut self, mut take: impl FnMut(u64, &[f32]) -> Result<()>) -> Result<()> {
        let failed = |error| io_error("a temporary file for scales can't be read", error);
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut first = 0;
        while first < self.n_scales {
            let n = usize::try_from(self.n_scales - first).map_or(RUN, |n| n.min(RUN));
            let mut scales = vec![0.0_f32; n];
            self.file.read_exact(bytemuck::cast_slice_mut(&mut scales)).map_err(failed)?;
            take(first, &scales)?;
            first += n as u64;
        }
        Ok(())
    }

    /// Hands out, in the same runs, what all scales are once they are quantized and back.
    pub(crate) fn for_each_quantized_run(&mut self, mut take: impl FnMut(u64, &[f32]) -> Result<()>) -> Result<()> {
        let offset = self.offset();
        self.for_each_run(|first_block, scales| {
            let (codes, absmax) = quantize_run(scales, offset);
            let blocks = codes.chunks(NESTED_BLOCK).zip(absmax);
            let back =
                blocks.flat_map(|(codes, absmax)| codes.iter().map(move |&code| dequantize(code, absmax, offset)));
            take(first_block, &back.collect::<Vec<_>>())
        })
    }
}

/// Holds a tensor's nested scales against the reference.
#[derive(Debug)]
pub(crate) struct NestedChecker<'a> {
    pub(crate) original: Data<'a>,
    pub(crate) tensor: &'a TensorInfo,
    pub(crate) weight: &'a PackedTensor,
    pub(crate) reader: NestedReader<'a>,
    pub(crate) made_by: Option<&'a str>,
}

impl NestedChecker<'_> {
    /// Holds all of them, second-level scales and the offset too.
    ///
    /// # Errors
    /// [`Error::Mismatch`] at the first byte that differs, [`Error::NonFinite`] if the original can't be quantized at all,
    /// and [`Error::Io`].
    pub(crate) fn check_all(&self) -> Result<()> {
        let mut spool = ScaleSpool::new(temp_dir().as_deref());
        let n_blocks = self.weight.n_blocks();
        let mut first = 0;
        while first < n_blocks {
            let n = PIECE_BLOCKS.min(n_blocks - first);
            spool.add(&self.reference_scales(first, n)?)?;
            first += n;
        }
        let offset = spool.offset();
        spool.for_each_run(|first_block, scales| {
            let (codes, absmax) = quantize_run(scales, offset);
            let (actual_codes, actual_absmax) = self.reader.read(first_block, codes.len())?;
            self.compare("scale", (first_block, 1), &codes, &actual_codes)?;
            let [absmax, actual_absmax] =
                [&absmax, &actual_absmax].map(|absmax| bytemuck::cast_slice::<_, [u8; 4]>(absmax));
            self.compare("second-level scale", (first_block, NESTED_BLOCK as u64), absmax, actual_absmax)
        })?;
        self.compare("scale offset", (0, 1), &[offset.to_le_bytes()], &[self.reader.offset.to_le_bytes()])
    }

    /// Holds the scale code of one block; second-level scale and offset, which depend on others, are taken as they stand.
    ///
    /// # Errors
    /// As [`Self::check_all`].
    pub(crate) fn check_one(&self, block: u64) -> Result<()> {
        let (codes, absmax) = self.reader.read(block, 1)?;
        let scale = bytemuck::pod_read_unaligned(&self.reference_scales(block, 1)?);
        self.compare("scale", (block, 1), &[quantize_one(scale, absmax[0], self.reader.offset)], &codes)
    }

    /// What the reference gives as scales, before they are quantized.
    fn reference_scales(&self, first_block: u64, n_blocks: u64) -> Result<Vec<u8>> {
        let (weight, info) = (self.weight, self.weight.info());
        let dtype = self.tensor.float().unwrap_or(weight.dtype);
        let (first_elem, n_elems) = (first_block * info.block as u64, weight.elems_in(first_block, n_blocks));
        let width = dtype.n_bytes() as u64;
        let mut input = zeroed(n_elems * width)?;
        self.original.read_at(self.tensor.offset + first_elem * width, &mut input)?;
        let (mut codes, mut scales) = (zeroed(info.codes_bytes(n_elems))?, zeroed(info.scales_bytes(n_elems))?);
        let weights = Weights::from_le_bytes(dtype, &input)?;
        cpu::quantize_into(weight.format, weights, first_elem, &mut codes, &mut scales)?;
        Ok(scales)
    }

    /// Compares values, the first of which belongs to block `first` and each other to the block `step` further on.
    fn compare<T: bytemuck::Pod + PartialEq>(
        &self,
        part: &'static str,
        (first, step): (u64, u64),
        expected: &[T],
        actual: &[T],
    ) -> Result<()> {
        let Some(at) = expected.iter().zip(actual).position(|(e, a)| e != a) else { return Ok(()) };
        let (expected, actual) = (bytemuck::bytes_of(&expected[at]), bytemuck::bytes_of(&actual[at]));
        let byte = expected.iter().zip(actual).position(|(e, a)| e != a).unwrap_or_default();
        let block = first + at as u64 * step;
        let dtype = self.tensor.float().unwrap_or(self.weight.dtype);
        let index = block * self.weight.info().block as u64;
        let mut element = vec![0; dtype.n_bytes()];
        self.original.read_at(self.tensor.offset + index * dtype.n_bytes() as u64, &mut element)?;
        Err(Error::Mismatch(Box::new(Mismatch {
            tensor: self.tensor.name.clone(),
            block,
            index,
            part,
            input_bits: format!("{:#x}", Weights::from_le_bytes(dtype, &element)?.bits(0)),
            expected: expected[byte],
            actual: actual[byte],
            made_by: self.made_by.map(str::to_owned),
        })))
    }
}

/// The system's folder for temporary files; a browser has none.
pub(crate) fn temp_dir() -> Option<PathBuf> {
    (!cfg!(target_family = "wasm")).then(std::env::temp_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix;

    /// More than memory is given, so that most of it comes from a file; runs start at second-level blocks.
    #[test]
    fn a_spool_gives_back_what_was_added() {
        let mut spool = ScaleSpool::new(Some(&std::env::temp_dir()));
        let mut random = SplitMix::new(1);
        let scales: Vec<f32> = (0..SPOOL_BYTES / 4 + 1000).map(|_| f32::from((random.next() % 4096) as u16)).collect();
        for piece in scales.chunks(77_777) {
            spool.add(bytemuck::cast_slice(piece)).unwrap();
        }
        assert!(spool.file.is_rolled());
        let mut back = Vec::new();
        spool
            .for_each_run(|first, run| {
                assert_eq!((first, first % NESTED_BLOCK as u64), (back.len() as u64, 0));
                back.extend_from_slice(run);
                Ok(())
            })
            .unwrap();
        assert_eq!(back, scales);
        let mut sum = ExactSum::default();
        scales.iter().for_each(|&scale| sum.add(scale));
        assert_eq!(spool.offset(), sum.mean());
    }

    #[test]
    fn a_spool_without_a_place_says_so() {
        let mut spool = ScaleSpool::new(Some(Path::new("/nonexistent")));
        let error = spool.add(&vec![0; SPOOL_BYTES + 4]).unwrap_err();
        assert!(error.to_string().starts_with("a temporary file for scales can't be written"), "{error}");
    }
}
