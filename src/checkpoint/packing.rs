//! A weight while it is written: blocks as they come, and at the end what depends on all of them.

use std::path::Path;

use super::data::{Data, PIECE_BYTES};
use super::gguf::blocks;
use super::nested::ScaleSpool;
use super::weight::{PackedTensor, Places};
use crate::error::Result;
use crate::packed::{Packed, PackedChunk};

/// Takes a weight's blocks in order: what it computes of them stands at the weight's end.
#[derive(Debug)]
pub(crate) struct BlockWriter<'a> {
    weight: &'a PackedTensor,
    data: Data<'a>,
    hasher: blake3::Hasher,
    /// Nested scales, which can't be stored until all are there.
    spool: Option<ScaleSpool>,
}

impl<'a> BlockWriter<'a> {
    /// Starts a weight; `folder` takes a temporary file where there are too many nested scales for memory.
    pub(crate) fn new(weight: &'a PackedTensor, data: Data<'a>, folder: Option<&Path>) -> Self {
        let spool = weight.nested().map(|_| ScaleSpool::new(folder));
        Self { weight, data, hasher: blake3::Hasher::new(), spool }
    }

    /// Writes the next blocks.
    pub(crate) fn add(&mut self, chunk: PackedChunk<'_>) -> Result<()> {
        store(self.weight, self.data, chunk, self.spool.is_none())?;
        self.hasher.update(chunk.codes);
        match &mut self.spool {
            Some(spool) => spool.add(chunk.scales),
            None => Ok(()),
        }
    }

    /// Writes what is left, the digest too where the container has one; gives the digest.
    pub(crate) fn finish(mut self) -> Result<[u8; 32]> {
        if let (Some(nested), Some(spool)) = (self.weight.nested(), &mut self.spool) {
            nested.write(self.data, spool)?;
        }
        // The scales come after all codes in the digest, and may be too many to keep, so they are read back.
        self.weight.hash_scales(self.data, &mut self.hasher)?;
        let digest = *self.hasher.finalize().as_bytes();
        if let Some(at) = self.weight.digest_at {
            self.data.write_at(at, &digest)?;
        }
        Ok(digest)
    }
}

/// Writes blocks where they belong.
fn store(weight: &PackedTensor, data: Data<'_>, chunk: PackedChunk<'_>, with_scales: bool) -> Result<()> {
    let info = weight.info();
    let PackedChunk { first_elem, codes, scales } = chunk;
    let first_block = first_elem / info.block as u64;
    let (n_codes, n_scale) = (info.block_codes_bytes(), info.scale.n_bytes());
    match weight.places {
        Places::Apart { codes_at, scales_at, coding, .. } => {
            // A piece is whole blocks, because PIECE_BYTES is.
            let mut at = codes_at + first_block * n_codes as u64;
            let mut stored = Vec::new();
            for piece in codes.chunks(PIECE_BYTES) {
                match coding.encode {
                    None => data.write_at(at, piece)?,
                    Some(encode) => {
                        stored.clear();
                        stored.extend_from_slice(piece);
                        encode(&mut stored);
                        data.write_at(at, &stored)?;
                    }
                }
                at += piece.len() as u64;
            }
            if with_scales { data.write_at(scales_at + first_block * n_scale as u64, scales) } else { Ok(()) }
        }
        Places::Together { at } => {
            let mut records = Vec::new();
            blocks::interleave(info, codes, scales, &mut records);
            data.write_at(at + first_block * (n_codes + n_scale) as u64, &records)
        }
    }
}

/// Writes a weight that is packed already, the digest too where the container has one; gives the digest.
pub(crate) fn write_packed(weight: &PackedTensor, data: Data<'_>, packed: &Packed) -> Result<[u8; 32]> {
    let mut writer = BlockWriter { weight, data, hasher: blake3::Hasher::new(), spool: None };
    let chunk = PackedChunk { first_elem: 0, codes: packed.codes(), scales: packed.scales() };
    // Nested scales' codes go where other formats' scales do.
    writer.add(chunk)?;
    if let (Some(places), Some(nested)) = (weight.nested(), packed.nested()) {
        places.store(data, &nested)?;
    }
    writer.finish()
}
