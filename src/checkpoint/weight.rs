//! A packed weight in a file: where its codes and scales lie, and how they are read, whatever the container.

use super::data::{Data, PIECE_BYTES};
use super::gguf::blocks;
use super::nested::{NestedPlaces, NestedReader};
use crate::dtype::{Dtype, Weights};
use crate::error::{Error, Result};
use crate::format::{Format, FormatInfo};
use crate::packed::{Packed, zeroed};

/// A packed weight, and where its parts lie; positions count as [`TensorInfo::offset`](super::TensorInfo::offset) does.
#[derive(Debug, Clone)]
pub struct PackedTensor {
    /// Name of the weight.
    pub name: String,
    /// Format of its codes and scales.
    pub format: Format,
    /// Shape of the weight.
    pub shape: Vec<u64>,
    /// Type that the weight had, or should have where the file does not say.
    pub dtype: Dtype,
    /// Elements of the weight, at least 1.
    pub n_elems: u64,
    /// Bytes of all its parts.
    pub n_bytes: u64,
    /// Whether the file says what type the weight had.
    pub(crate) dtype_is_known: bool,
    pub(crate) places: Places,
    /// Where its digest stands, in containers that have one.
    pub(crate) digest_at: Option<u64>,
}

/// Where codes and scales lie.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Places {
    /// All codes, and elsewhere all scales.
    Apart { codes_at: u64, scales_at: u64, coding: Coding, nested: Option<NestedPlaces> },
    /// Block by block, each its scale and then its codes.
    Together { at: u64 },
}

impl Places {
    /// Where its codes start.
    pub(crate) fn start(&self) -> u64 {
        match *self {
            Self::Apart { codes_at, .. } => codes_at,
            Self::Together { at } => at,
        }
    }
}

/// How a container stores codes. A function changes whole blocks in place; only a tensor's last may be short.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Coding {
    /// From the format's own order to the container's, if that is another.
    pub(crate) encode: Option<fn(&mut [u8])>,
    /// And back.
    pub(crate) decode: fn(&mut [u8]),
    /// The type of f32 scales where the file has a narrower one, as other writers' do: they widen exactly.
    pub(crate) narrow: Option<Dtype>,
}

impl Coding {
    /// As the format has them.
    pub(crate) const PLAIN: Self = Self { encode: None, decode: |_| {}, narrow: None };

    /// Fills `scales` with those from `first_block` on, each as wide as the format has it.
    fn read_scales(self, data: Data<'_>, at: u64, first_block: u64, width: usize, scales: &mut [u8]) -> Result<()> {
        let Some(dtype) = self.narrow else { return data.read_at(at + first_block * width as u64, scales) };
        let mut stored = vec![0; scales.len() / width * dtype.n_bytes()];
        data.read_at(at + first_block * dtype.n_bytes() as u64, &mut stored)?;
        let stored = Weights::from_le_bytes(dtype, &stored)?;
        for (index, scale) in scales.chunks_exact_mut(width).enumerate() {
            scale.copy_from_slice(&stored.get(index).to_le_bytes());
        }
        Ok(())
    }
}

/// Elements of a shape that a file gives; `None` if there is no room for 8 bytes each, so that no size computed later
/// overflows.
pub(crate) fn count_elems(shape: &[u64]) -> Option<u64> {
    let n_elems = shape.iter().try_fold(1, |n: u64, &dimension| n.checked_mul(dimension))?;
    n_elems.checked_mul(8).map(|_| n_elems)
}

impl PackedTensor {
    pub(crate) fn info(&self) -> &'static FormatInfo {
        self.format.info()
    }

    /// Blocks there are.
    pub(crate) fn n_blocks(&self) -> u64 {
        self.info().n_blocks(self.n_elems)
    }

    /// Elements of `n_blocks` blocks from `first_block` on; the tensor's last block may be short.
    pub(crate) fn elems_in(&self, first_block: u64, n_blocks: u64) -> u64 {
        let block = self.info().block as u64;
        (n_blocks * block).min(self.n_elems - first_block * block)
    }

    /// Where nested scales lie, if they are.
    pub(crate) fn nested(&self) -> Option<NestedPlaces> {
        match self.places {
            Places::Apart { nested, .. } => nested,
            Places::Together { .. } => None,
        }
    }

    /// A reader of its blocks.
    pub(crate) fn reader<'a>(&'a self, data: Data<'a>) -> Result<BlockReader<'a>> {
        let nested = self.nested().map(|places| NestedReader::new(places, data)).transpose()?;
        Ok(BlockReader { weight: self, data, nested })
    }

    /// Adds all codes, in the format's own order, to a digest.
    fn hash_codes(&self, data: Data<'_>, hasher: &mut blake3::Hasher) -> Result<()> {
        let Places::Apart { codes_at, coding, .. } = self.places else {
            return self.for_each_run(data, |codes, _| {
                hasher.update(codes);
            });
        };
        data.for_each_piece(codes_at, self.info().codes_bytes(self.n_elems), |_, codes| {
            (coding.decode)(codes);
            hasher.update(codes);
            Ok(())
        })
    }

    /// Adds everything that follows the codes in a digest: the scales, and of nested ones second-level scales and offset.
    pub(crate) fn hash_scales(&self, data: Data<'_>, hasher: &mut blake3::Hasher) -> Result<()> {
        let Places::Apart { scales_at, nested, coding: Coding { narrow: None, .. }, .. } = self.places else {
            return self.for_each_run(data, |_, scales| {
                hasher.update(scales);
            });
        };
        let mut hash = |at, n_bytes| {
            data.for_each_piece(at, n_bytes, |_, scales| {
                hasher.update(scales);
                Ok(())
            })
        };
        hash(scales_at, self.info().stored_scales_bytes(self.n_elems))?;
        if let Some(nested) = nested {
            hash(nested.absmax_at, self.info().nested_absmax_bytes(self.n_elems))?;
            hasher.update(&nested.offset(data)?.to_le_bytes());
        }
        Ok(())
    }

    /// Reads all blocks, a bounded number at a time.
    fn for_each_run(&self, data: Data<'_>, mut take: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let (info, mut first_block) = (self.info(), 0);
        let most = (PIECE_BYTES / info.block_codes_bytes()) as u64;
        let reader = self.reader(data)?;
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        while first_block < self.n_blocks() {
            let n_blocks = most.min(self.n_blocks() - first_block);
            let n_elems = self.elems_in(first_block, n_blocks);
            codes.resize(usize::try_from(info.codes_bytes(n_elems)).unwrap_or(PIECE_BYTES), 0);
            scales.resize(usize::try_from(info.scales_bytes(n_elems)).unwrap_or(PIECE_BYTES), 0);
            reader.read(first_block, &mut codes, &mut scales)?;
            take(&codes, &scales);
            first_block += n_blocks;
        }
        Ok(())
    }

    /// BLAKE3 over codes, then scales, as they stand in the file: the same in every container.
    pub(crate) fn digest(&self, data: Data<'_>) -> Result<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        self.hash_codes(data, &mut hasher)?;
        self.hash_scales(data, &mut hasher)?;
        Ok(*hasher.finalize().as_bytes())
    }

    /// All of it, its digest found right where the file records one.
    ///
    /// # Errors
    /// [`Error::BadFile`] where it is not, and [`Error::Io`].
    pub(crate) fn read(&self, data: Data<'_>) -> Result<Packed> {
        let info = self.info();
        let mut codes = zeroed(info.codes_bytes(self.n_elems))?;
        let mut scales = zeroed(info.stored_scales_bytes(self.n_elems))?;
        let packed = match self.places {
            Places::Apart { codes_at, scales_at, coding, nested: Some(nested) } => {
                data.read_at(codes_at, &mut codes)?;
                (coding.decode)(&mut codes);
                data.read_at(scales_at, &mut scales)?;
                let mut absmax = zeroed(info.nested_absmax_bytes(self.n_elems))?;
                data.read_at(nested.absmax_at, &mut absmax)?;
                let offset = nested.offset(data)?;
                Packed::from_nested_parts(self.format, self.n_elems, codes, scales, absmax, offset)?
            }
            _ => {
                self.reader(data)?.read(0, &mut codes, &mut scales)?;
                Packed::from_parts(self.format, self.n_elems, codes, scales)?
            }
        };
        self.compare_digest(data, packed.digest())?;
        Ok(packed)
    }

    /// The digest that the file records, if it does.
    pub(crate) fn recorded_digest(&self, data: Data<'_>) -> Result<Option<[u8; 32]>> {
        let Some(at) = self.digest_at else { return Ok(None) };
        let mut digest = [0; blake3::OUT_LEN];
        data.read_at(at, &mut digest)?;
        Ok(Some(digest))
    }

    /// The digest, compared with the one that the file records, if it does.
    ///
    /// # Errors
    /// [`Error::BadFile`] if they differ, and [`Error::Io`].
    pub(crate) fn check_digest(&self, data: Data<'_>) -> Result<[u8; 32]> {
        self.compare_digest(data, self.digest(data)?)
    }

    /// `actual`, if the file records no other.
    fn compare_digest(&self, data: Data<'_>, actual: [u8; 32]) -> Result<[u8; 32]> {
        match self.recorded_digest(data)? {
            Some(recorded) if recorded != actual => Err(Error::BadFile(format!(
                "its codes and scales have the digest {}, and the file records {}: the file is damaged",
                blake3::Hash::from(actual),
                blake3::Hash::from(recorded)
            ))),
            _ => Ok(actual),
        }
    }
}

/// Reads a weight's blocks.
#[derive(Debug)]
pub(crate) struct BlockReader<'a> {
    weight: &'a PackedTensor,
    data: Data<'a>,
    nested: Option<NestedReader<'a>>,
}

impl BlockReader<'_> {
    /// Fills `codes` and `scales` with the blocks from `first_block` on, in the format's own order; nested scales come
    /// dequantized.
    pub(crate) fn read(&self, first_block: u64, codes: &mut [u8], scales: &mut [u8]) -> Result<()> {
        let info = self.weight.info();
        let (n_codes, n_scale) = (info.block_codes_bytes(), info.scale.n_bytes());
        match self.weight.places {
            Places::Apart { codes_at, scales_at, coding, .. } => {
                self.data.read_at(codes_at + first_block * n_codes as u64, codes)?;
                (coding.decode)(codes);
                match &self.nested {
                    Some(nested) => nested.read_dequantized(first_block, scales),
                    None => coding.read_scales(self.data, scales_at, first_block, n_scale, scales),
                }
            }
            Places::Together { at } => {
                let mut records = vec![0; codes.len() + scales.len()];
                self.data.read_at(at + first_block * (n_codes + n_scale) as u64, &mut records)?;
                blocks::split(info, &records, codes, scales);
                Ok(())
            }
        }
    }
}
