//! The type of a tensor's elements, as its file has it.

use ::safetensors::Dtype as Elements;
use serde::{Serialize, Serializer};

use super::gguf::types::TensorType;
use crate::dtype::Dtype;

/// The type of a tensor's elements, as its file has it: one of safetensors' types, or blocks as GGUF has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredDtype(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Elements(Elements),
    Blocks(&'static TensorType),
}

macro_rules! elements {
    ($($name:ident)*) => {
        #[expect(missing_docs, reason = "the names are safetensors' own")]
        impl StoredDtype {
            $(pub const $name: Self = Self(Kind::Elements(Elements::$name));)*
        }
    };
}

elements! {
    BOOL U8 I8 I16 U16 I32 U32 I64 U64 F16 BF16 F32 F64 F4 F6_E2M3 F6_E3M2 F8_E5M2 F8_E4M3 F8_E4M3FNUZ F8_E5M2FNUZ
}

impl StoredDtype {
    /// One of GGUF's types of blocks.
    pub(crate) const fn blocks(of: &'static TensorType) -> Self {
        Self(Kind::Blocks(of))
    }

    /// The blocks, if it is made of blocks.
    pub(crate) const fn as_blocks(self) -> Option<&'static TensorType> {
        match self.0 {
            Kind::Blocks(of) => Some(of),
            Kind::Elements(_) => None,
        }
    }

    /// Bits an element; 8 for blocks, which are bytes.
    #[must_use]
    pub fn bitsize(self) -> usize {
        match self.0 {
            Kind::Elements(of) => of.bitsize(),
            Kind::Blocks(_) => 8,
        }
    }
}

impl From<Elements> for StoredDtype {
    fn from(of: Elements) -> Self {
        Self(Kind::Elements(of))
    }
}

impl From<Dtype> for StoredDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::BF16,
        }
    }
}

impl std::fmt::Display for StoredDtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Kind::Elements(of) => of.fmt(f),
            Kind::Blocks(of) => f.write_str(of.name),
        }
    }
}

impl Serialize for StoredDtype {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
