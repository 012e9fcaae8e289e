//! The element types that a GGUF file can name, and what they are elsewhere.

use crate::checkpoint::StoredDtype;
use crate::format::Format;

/// A type of GGUF's table: elements of a row come in blocks of so many bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TensorType {
    /// The number in files.
    pub(crate) id: u32,
    /// The name as people know it.
    pub(crate) name: &'static str,
    /// Elements a block; rows are multiples of it.
    pub(crate) block: u64,
    /// Bytes a block.
    pub(crate) block_bytes: u64,
}

macro_rules! types {
    ($($id:literal $name:literal $block:literal $bytes:literal),* $(,)?) => {
        &[$(TensorType { id: $id, name: $name, block: $block, block_bytes: $bytes }),*]
    };
}

/// Every type whose size is known. The numbers that are missing were given up by ggml.
const TYPES: &[TensorType] = types![
    0 "F32" 1 4,
    1 "F16" 1 2,
    2 "Q4_0" 32 18,
    3 "Q4_1" 32 20,
    6 "Q5_0" 32 22,
    7 "Q5_1" 32 24,
    8 "Q8_0" 32 34,
    9 "Q8_1" 32 36,
    10 "Q2_K" 256 84,
    11 "Q3_K" 256 110,
    12 "Q4_K" 256 144,
    13 "Q5_K" 256 176,
    14 "Q6_K" 256 210,
    15 "Q8_K" 256 292,
    16 "IQ2_XXS" 256 66,
    17 "IQ2_XS" 256 74,
    18 "IQ3_XXS" 256 98,
    19 "IQ1_S" 256 50,
    20 "IQ4_NL" 32 18,
    21 "IQ3_S" 256 110,
    22 "IQ2_S" 256 82,
    23 "IQ4_XS" 256 136,
    24 "I8" 1 1,
    25 "I16" 1 2,
    26 "I32" 1 4,
    27 "I64" 1 8,
    28 "F64" 1 8,
    29 "IQ1_M" 256 56,
    30 "BF16" 1 2,
    34 "TQ1_0" 256 54,
    35 "TQ2_0" 256 66,
    39 "MXFP4" 32 17,
    40 "NVFP4" 64 36,
    41 "Q1_0" 128 18,
];

impl TensorType {
    /// The type of that number.
    pub(crate) fn from_id(id: u32) -> Option<&'static Self> {
        TYPES.iter().find(|of| of.id == id)
    }

    /// The type that has a format's blocks, if GGUF has one.
    pub(crate) fn of_format(format: Format) -> Option<&'static Self> {
        let id = match format {
            Format::Q4_0 => 2,
            Format::Q8_0 => 8,
            Format::Mxfp4 => 39,
            _ => return None,
        };
        Self::from_id(id)
    }

    /// The format whose blocks it has.
    pub(crate) fn format(&self) -> Option<Format> {
        Format::ALL.iter().copied().find(|&format| Self::of_format(format).is_some_and(|of| of.id == self.id))
    }

    /// The type that has elements of this safetensors type, if GGUF has one.
    pub(crate) fn of_stored(dtype: StoredDtype) -> Option<&'static Self> {
        TYPES.iter().find(|of| of.stored() == Some(dtype))
    }

    /// The safetensors type of its elements; none for what comes in blocks.
    pub(crate) fn stored(&self) -> Option<StoredDtype> {
        Some(match self.id {
            0 => StoredDtype::F32,
            1 => StoredDtype::F16,
            24 => StoredDtype::I8,
            25 => StoredDtype::I16,
            26 => StoredDtype::I32,
            27 => StoredDtype::I64,
            28 => StoredDtype::F64,
            30 => StoredDtype::BF16,
            _ => return None,
        })
    }

    /// Bytes of a tensor of this (row-major) shape; none if a row is no multiple of the block, or no file could hold it.
    pub(crate) fn n_bytes(&self, shape: &[u64]) -> Option<u64> {
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(self.block) {
            return None;
        }
        // Elements too, so that no later product overflows, at up to 8 bytes an element.
        let n_elems = shape.iter().try_fold(1, |n: u64, &dimension| n.checked_mul(dimension))?;
        n_elems.checked_mul(8)?;
        (n_elems / self.block).checked_mul(self.block_bytes)
    }
}

/// What `general.file_type` says of a file whose weights mostly have this format.
pub(crate) fn file_type(format: Format) -> Option<u32> {
    match format {
        Format::Q4_0 => Some(2),
        Format::Q8_0 => Some(7),
        Format::Mxfp4 => Some(38),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;

    #[test]
    fn blocks_are_those_of_the_formats() {
        for format in [Format::Q4_0, Format::Q8_0, Format::Mxfp4] {
            let (of, info) = (TensorType::of_format(format).expect("in the table"), format.info());
            assert_eq!(of.block, info.block as u64);
            assert_eq!(of.block_bytes, (info.scale.n_bytes() + info.block_codes_bytes()) as u64);
            assert_eq!(of.format(), Some(format));
            assert!(of.name.eq_ignore_ascii_case(format.name()));
            assert!(file_type(format).is_some());
        }
        assert_eq!(TensorType::of_format(Format::Nf4), None);
        assert_eq!(TensorType::of_stored(StoredDtype::BOOL), None);
        for of in TYPES {
            if let Some(stored) = of.stored() {
                assert_eq!((of.block_bytes * 8, of.name), (stored.bitsize() as u64, &*stored.to_string()));
                assert_eq!(TensorType::of_stored(stored), Some(of));
            }
        }
        for dtype in Dtype::ALL {
            assert_eq!(TensorType::of_stored(dtype.into()).map(|of| of.name), Some(dtype.name()));
        }
    }

    #[test]
    fn sizes_that_can_be() {
        let q4_0 = TensorType::of_format(Format::Q4_0).expect("in the table");
        assert_eq!(q4_0.n_bytes(&[3, 64]), Some(108));
        assert_eq!(q4_0.n_bytes(&[64, 3]), None);
        assert_eq!(q4_0.n_bytes(&[0, 32]), Some(0));
        assert_eq!(q4_0.n_bytes(&[]), None);
        assert_eq!(q4_0.n_bytes(&[1 << 32, 1 << 32]), None);
        assert_eq!(q4_0.n_bytes(&[1 << 62]), None);
    }
}
