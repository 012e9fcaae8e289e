//! The container `mxfp4`: safetensors as gpt-oss has it. A weight `P` of shape [.., K] becomes `P_blocks`
//! (u8 [.., K/32, 16], the even element in the low nibble) and `P_scales` (u8 [.., K/32]).

use super::linear::{self, Dtypes};
use super::{Chosen, Found, Rules};
use crate::checkpoint::StoredDtype;
use crate::checkpoint::layout::{Content, FileLayout, Part};
use crate::checkpoint::safetensors::TensorInfo;
use crate::checkpoint::source::Source;
use crate::checkpoint::weight::{Coding, PackedTensor, Places, count_elems};
use crate::error::{Error, Result};
use crate::format::Format;

const BLOCKS: &str = "_blocks";
const SCALES: &str = "_scales";

/// Elements and bytes of a block.
const BLOCK: u64 = 32;
const BLOCK_BYTES: usize = 16;

/// One safetensors file.
pub(super) struct Mxfp4;

impl Rules for Mxfp4 {
    fn parts(&self, weight: Chosen<'_>) -> Vec<Part> {
        let (tensor, info) = (weight.tensor, weight.format.info());
        let mut shape = tensor.shape.clone();
        if let Some(row) = shape.last_mut() {
            *row /= BLOCK;
        }
        let part = |suffix, shape, n_bytes, content| {
            let name = format!("{}{suffix}", tensor.name);
            Part { name, dtype: StoredDtype::U8, shape, n_bytes, content }
        };
        let blocks = [&shape[..], &[BLOCK_BYTES as u64]].concat();
        let n_elems = tensor.n_elems();
        vec![
            part(BLOCKS, blocks, info.codes_bytes(n_elems), Content::Codes),
            part(SCALES, shape, info.scales_bytes(n_elems), Content::Scales),
        ]
    }

    fn coding(&self, _format: Format) -> Coding {
        CODING
    }

    fn layout(&self, source: &Source, weights: &[Chosen<'_>], parts: &[Part]) -> Result<FileLayout> {
        let mut metadata = source.metadata().clone();
        linear::record_dtypes(weights, &mut metadata)?;
        FileLayout::new(&metadata, parts)
    }

    fn is(&self, source: &Source) -> bool {
        source.tensors().iter().any(|blocks| pair(source, blocks).is_some())
    }

    fn read(&self, source: &Source) -> Result<Found> {
        let (dtypes, metadata) = Dtypes::read(source)?;
        let (mut weights, mut parts) = (Vec::new(), Vec::new());
        for blocks in source.tensors() {
            let Some((name, scales)) = pair(source, blocks) else { continue };
            weights.push(read_weight(name, blocks, scales, &dtypes).map_err(|error| error.in_tensor(name))?);
            parts.extend([blocks.name.clone(), scales.name.clone()]);
        }
        Ok(Found { weights, parts, metadata })
    }
}

/// Name and scales of the weight whose blocks a tensor holds, if it does.
fn pair<'a>(source: &'a Source, blocks: &'a TensorInfo) -> Option<(&'a str, &'a TensorInfo)> {
    let is_u8 = |tensor: &TensorInfo| tensor.dtype == StoredDtype::U8;
    let name = blocks.name.strip_suffix(BLOCKS).filter(|name| !name.is_empty() && is_u8(blocks))?;
    let scales = source.find(&format!("{name}{SCALES}")).filter(|scales| is_u8(scales))?;
    Some((name, scales))
}

fn read_weight(name: &str, blocks: &TensorInfo, scales: &TensorInfo, dtypes: &Dtypes) -> Result<PackedTensor> {
    let shape = match blocks.shape.split_last() {
        Some((&16, rest)) if rest == scales.shape => rest,
        _ => {
            let text = format!(
                "its blocks should have the shape of its scales and 16 bytes each, and are {:?} with scales {:?}",
                blocks.shape, scales.shape
            );
            return Err(Error::BadFile(text));
        }
    };
    let mut shape = shape.to_vec();
    let row = shape.last_mut().and_then(|row| row.checked_mul(BLOCK).map(|n| *row = n));
    let Some(n_elems) = row.and_then(|()| count_elems(&shape)).filter(|&n| n > 0) else {
        return Err(Error::BadFile(format!("its scales have the shape {:?}, which has no elements", scales.shape)));
    };
    let (dtype, dtype_is_known) = dtypes.of(name)?;
    Ok(PackedTensor {
        name: name.to_owned(),
        format: Format::Mxfp4,
        shape,
        dtype,
        n_elems,
        n_bytes: blocks.n_bytes + scales.n_bytes,
        dtype_is_known,
        places: Places::Apart { codes_at: blocks.offset, scales_at: scales.offset, coding: CODING, nested: None },
        digest_at: None,
    })
}

/// From nibbles of elements j and j + 16 to nibbles of neighbours, and back.
const CODING: Coding = Coding {
    encode: Some(|codes| {
        for block in codes.chunks_exact_mut(BLOCK_BYTES) {
            let nibble = elements(block, |element| (element % 16, element / 16));
            pack(block, &nibble, |element| (element / 2, element % 2));
        }
    }),
    decode: |codes| {
        for block in codes.chunks_exact_mut(BLOCK_BYTES) {
            let nibble = elements(block, |element| (element / 2, element % 2));
            pack(block, &nibble, |element| (element % 16, element / 16));
        }
    },
    narrow: None,
};

/// The codes of a block's elements, given where each stands: byte, and low (0) or high (1) nibble.
fn elements(block: &[u8], place: fn(usize) -> (usize, usize)) -> [u8; 32] {
    std::array::from_fn(|element| {
        let (byte, half) = place(element);
        block[byte] >> (4 * half) & 0xf
    })
}

fn pack(block: &mut [u8], elements: &[u8; 32], place: fn(usize) -> (usize, usize)) {
    block.fill(0);
    for (element, code) in elements.iter().enumerate() {
        let (byte, half) = place(element);
        block[byte] |= code << (4 * half);
    }
}
