//! THE place where a format is declared. A new format is one file in `src/quant/`, one in `shaders/formats/`, and one
//! row here.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::named::named;
use crate::quant::{Codec, fp4, mxfp4, nested, nf4, q4_0, q8_0, quant4bit, quant8bit};
use crate::simd::{self, Twin};

/// How a block's scale is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleType {
    /// IEEE binary32, little-endian.
    F32,
    /// IEEE binary16, little-endian.
    F16,
    /// A byte e for the power of two 2^(e - 127).
    E8M0,
    /// A binary32 that is quantized in turn: [`quant::nested`](crate::quant::nested).
    Nested,
}

impl ScaleType {
    /// Bytes a scale, as a block's codec gives and takes it.
    #[must_use]
    pub const fn n_bytes(self) -> usize {
        match self {
            Self::F32 | Self::Nested => 4,
            Self::F16 => 2,
            Self::E8M0 => 1,
        }
    }

    /// Bytes a scale, as it is stored. What nested scales share comes on top: one `f32` for 256 of them, and an offset.
    #[must_use]
    pub const fn stored_bytes(self) -> usize {
        match self {
            Self::Nested => 1,
            other => other.n_bytes(),
        }
    }

    /// The type's name as people know it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::E8M0 => "e8m0",
            Self::Nested => "nested 8-bit",
        }
    }
}

/// A file layout that packed weights can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// One safetensors file: codes, scales and a digest a weight, as ARCHITECTURE.md describes.
    Native,
    /// A folder that transformers loads with bitsandbytes.
    Bnb,
    /// A folder that transformers and vLLM load, in compressed-tensors' pack-quantized layout.
    CompressedTensors,
    /// One GGUF file, as llama.cpp and its kin read.
    Gguf,
    /// One safetensors file with blocks and scales, as gpt-oss has them.
    Mxfp4,
}

impl Container {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Native, Self::Bnb, Self::CompressedTensors, Self::Gguf, Self::Mxfp4];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Bnb => "bnb",
            Self::CompressedTensors => "compressed-tensors",
            Self::Gguf => "gguf",
            Self::Mxfp4 => "mxfp4",
        }
    }
}

impl FromStr for Container {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        named("container", Self::ALL, Self::name, name)
    }
}

/// A row of the table: everything that is known of a format.
#[derive(Debug, Clone, Copy)]
pub struct FormatInfo {
    /// The name on the command line and in files.
    pub name: &'static str,
    /// What it is, in a few words.
    pub summary: &'static str,
    /// Bits a code.
    pub bits: usize,
    /// Consecutive elements of the flat tensor that share a scale.
    pub block: usize,
    /// How a scale is stored.
    pub scale: ScaleType,
    /// Whether only whole blocks can be packed, so that a tensor's rows must be a multiple of the block.
    pub whole_blocks: bool,
    /// Where its weights can be written.
    pub containers: &'static [Container],
    /// Its CPU reference.
    pub codec: Codec,
    /// Its fast twin on the CPU; without one, the reference does the work.
    pub(crate) twin: Option<Twin>,
    /// Its part of the shaders: how a scale comes from the maximum, a code from an element, a value from a code.
    pub shader: &'static [ShaderPart],
    /// Shader files of the codes that its tile kernels guess, if they do.
    pub(crate) guess: &'static [ShaderPart],
    /// What products read a code as.
    pub(crate) codes: Codes,
}

/// What a code stands for, in scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codes {
    /// The integer that `level_of` gives in the format's shader.
    Integers,
    /// One of sixteen values: `VALUES`, and `value_of`, in the format's shader.
    Codebook,
}

/// A piece of WGSL, with the file it came from for error messages.
#[derive(Debug, Clone, Copy)]
pub struct ShaderPart {
    /// Path under `shaders/`.
    pub path: &'static str,
    /// Its text.
    pub source: &'static str,
}

/// The [`ShaderPart`] of a file under `shaders/`.
macro_rules! shader {
    ($path:literal) => {
        $crate::format::ShaderPart {
            path: $path,
            source: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $path)),
        }
    };
}
pub(crate) use shader;

macro_rules! formats {
    ($($(#[$doc:meta])* $variant:ident => $row:expr;)*) => {
        /// A way to store weights in fewer bits.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Format { $($(#[$doc])* $variant,)* }

        impl Format {
            /// Every format, in the table's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its row of the table.
            #[must_use]
            pub fn info(self) -> &'static FormatInfo {
                match self {
                    $(Self::$variant => {
                        static INFO: FormatInfo = $row;
                        &INFO
                    })*
                }
            }
        }
    };
}

formats! {
    /// Symmetric 4-bit: codes -7..=7.
    Sym4 => FormatInfo {
        name: "sym4",
        summary: "symmetric 4-bit, codes -7..7, scale absmax/7",
        bits: 4,
        block: 64,
        scale: ScaleType::F32,
        whole_blocks: false,
        containers: &[Container::Native, Container::CompressedTensors],
        codec: quant4bit::CODEC,
        twin: Some(simd::SYM4),
        shader: &[shader!("shared/absmax.wgsl"),shader!("shared/levels.wgsl"), shader!("shared/multiples.wgsl"), shader!("shared/symmetric.wgsl"), shader!("formats/quant4bit.wgsl")],
        guess: &[shader!("guesses/guess.wgsl"), shader!("guesses/rounded.wgsl")],
        codes: Codes::Integers,
    };
    /// Symmetric 8-bit: codes -127..=127.
    Sym8 => FormatInfo {
        name: "sym8",
        summary: "symmetric 8-bit, codes -127..127, scale absmax/127",
        bits: 8,
        block: 64,
        scale: ScaleType::F32,
        whole_blocks: false,
        containers: &[Container::Native, Container::CompressedTensors],
        codec: quant8bit::CODEC,
        twin: Some(simd::SYM8),
        shader: &[shader!("shared/absmax.wgsl"), shader!("shared/multiples.wgsl"), shader!("shared/symmetric.wgsl"), shader!("shared/plain_codes.wgsl"), shader!("formats/quant8bit.wgsl")],
        guess: &[shader!("guesses/guess.wgsl"), shader!("guesses/rounded.wgsl")],
        codes: Codes::Integers,
    };
    /// 4-bit NormalFloat of QLoRA.
    Nf4 => FormatInfo {
        name: "nf4",
        summary: "4-bit NormalFloat (QLoRA), as bitsandbytes",
        bits: 4,
        block: 64,
        scale: ScaleType::F32,
        whole_blocks: false,
        containers: &[Container::Native, Container::Bnb],
        codec: nf4::CODEC,
        twin: Some(simd::NF4),
        shader: &[shader!("shared/wide.wgsl"), shader!("shared/absmax.wgsl"), shader!("shared/codebook.wgsl"), shader!("shared/sixteen.wgsl"), shader!("shared/plain_codes.wgsl"), shader!("formats/nf4.wgsl")],
        guess: &[shader!("guesses/guess.wgsl"), shader!("guesses/nf4.wgsl")],
        codes: Codes::Codebook,
    };
    /// bitsandbytes' 4-bit float.
    Fp4 => FormatInfo {
        name: "fp4",
        summary: "4-bit float, as bitsandbytes",
        bits: 4,
        block: 64,
        scale: ScaleType::F32,
        whole_blocks: false,
        containers: &[Container::Native, Container::Bnb],
        codec: fp4::CODEC,
        twin: Some(simd::FP4),
        shader: &[shader!("shared/wide.wgsl"), shader!("shared/absmax.wgsl"), shader!("shared/levels.wgsl"), shader!("shared/codebook.wgsl"), shader!("formats/fp4.wgsl")],
        guess: &[],
        codes: Codes::Codebook,
    };
    /// [`Format::Nf4`] with double quantization of its scales.
    Nf4Dq => FormatInfo {
        name: "nf4-dq",
        summary: "nf4 with its scales quantized in turn (double quantization)",
        bits: 4,
        block: 64,
        scale: ScaleType::Nested,
        whole_blocks: false,
        containers: &[Container::Native, Container::Bnb],
        codec: nf4::CODEC,
        twin: Some(simd::NF4),
        shader: &[shader!("shared/wide.wgsl"), shader!("shared/absmax.wgsl"), shader!("shared/codebook.wgsl"), shader!("shared/sixteen.wgsl"), shader!("shared/plain_codes.wgsl"), shader!("formats/nf4.wgsl")],
        guess: &[shader!("guesses/guess.wgsl"), shader!("guesses/nf4.wgsl")],
        codes: Codes::Codebook,
    };
    /// [`Format::Fp4`] with double quantization of its scales.
    Fp4Dq => FormatInfo {
        name: "fp4-dq",
        summary: "fp4 with its scales quantized in turn (double quantization)",
        bits: 4,
        block: 64,
        scale: ScaleType::Nested,
        whole_blocks: false,
        containers: &[Container::Native, Container::Bnb],
        codec: fp4::CODEC,
        twin: Some(simd::FP4),
        shader: &[shader!("shared/wide.wgsl"), shader!("shared/absmax.wgsl"), shader!("shared/levels.wgsl"), shader!("shared/codebook.wgsl"), shader!("formats/fp4.wgsl")],
        guess: &[],
        codes: Codes::Codebook,
    };
    /// GGUF's 4-bit format.
    Q4_0 => FormatInfo {
        name: "q4_0",
        summary: "GGUF's 4-bit blocks, codes -8..7, scale max/-8",
        bits: 4,
        block: 32,
        scale: ScaleType::F16,
        whole_blocks: true,
        containers: &[Container::Native, Container::Gguf],
        codec: q4_0::CODEC,
        twin: Some(simd::Q4_0),
        shader: &[shader!("shared/wide.wgsl"), shader!("shared/sixteen.wgsl"), shader!("shared/multiples.wgsl"), shader!("shared/plain_codes.wgsl"), shader!("formats/q4_0.wgsl")],
        guess: &[],
        codes: Codes::Integers,
    };
    /// GGUF's 8-bit format.
    Q8_0 => FormatInfo {
        name: "q8_0",
        summary: "GGUF's 8-bit blocks, codes -127..127, scale absmax/127",
        bits: 8,
        block: 32,
        scale: ScaleType::F16,
        whole_blocks: true,
        containers: &[Container::Native, Container::Gguf],
        codec: q8_0::CODEC,
        twin: Some(simd::Q8_0),
        shader: &[shader!("shared/wide.wgsl"), shader!("shared/absmax.wgsl"), shader!("shared/multiples.wgsl"), shader!("shared/plain_codes.wgsl"), shader!("formats/q8_0.wgsl")],
        guess: &[shader!("guesses/guess.wgsl"), shader!("guesses/rounded.wgsl")],
        codes: Codes::Integers,
    };
    /// OCP microscaling, 4-bit.
    Mxfp4 => FormatInfo {
        name: "mxfp4",
        summary: "OCP microscaling: E2M1 codes, power-of-two scale",
        bits: 4,
        block: 32,
        scale: ScaleType::E8M0,
        whole_blocks: true,
        containers: &[Container::Native, Container::Gguf, Container::Mxfp4],
        codec: mxfp4::CODEC,
        twin: Some(simd::MXFP4),
        shader: &[shader!("shared/absmax.wgsl"), shader!("shared/levels.wgsl"), shader!("shared/multiples.wgsl"), shader!("formats/mxfp4.wgsl")],
        guess: &[],
        codes: Codes::Integers,
    };
}

impl Format {
    /// The format of that name.
    ///
    /// # Errors
    /// [`Error::UnknownFormat`], which lists the names there are.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|format| format.name() == name).ok_or_else(|| Error::UnknownFormat {
            name: name.to_owned(),
            known: Self::ALL.iter().map(|format| format.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// The name on the command line and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.info().name
    }
}

impl FormatInfo {
    /// Refuses a number of weights that can't be packed.
    ///
    /// # Errors
    /// [`Error::Empty`], and [`Error::PartialBlock`] where only whole blocks will do.
    pub fn check_len(&self, n_elems: u64) -> Result<()> {
        if n_elems == 0 {
            return Err(Error::Empty);
        }
        if self.whole_blocks && !n_elems.is_multiple_of(self.block as u64) {
            return Err(Error::PartialBlock { format: self.name, block: self.block, n_elems });
        }
        Ok(())
    }

    /// Blocks in a tensor of `n_elems` weights; the last may be short.
    #[must_use]
    pub fn n_blocks(&self, n_elems: u64) -> u64 {
        n_elems.div_ceil(self.block as u64)
    }

    /// Bytes of packed codes: `ceil(n_elems · bits / 8)`.
    #[must_use]
    pub fn codes_bytes(&self, n_elems: u64) -> u64 {
        match self.bits {
            4 => n_elems.div_ceil(2),
            _ => n_elems,
        }
    }

    /// Bytes of all scales, as blocks' codecs and streams of pieces have them: of nested ones, before they are quantized.
    #[must_use]
    pub fn scales_bytes(&self, n_elems: u64) -> u64 {
        self.n_blocks(n_elems) * self.scale.n_bytes() as u64
    }

    /// Bytes of all scales, as they are stored.
    #[must_use]
    pub fn stored_scales_bytes(&self, n_elems: u64) -> u64 {
        self.n_blocks(n_elems) * self.scale.stored_bytes() as u64
    }

    /// Second-level scales, one `f32` each; 0 where scales are not nested.
    #[must_use]
    pub fn n_nested_blocks(&self, n_elems: u64) -> u64 {
        match self.scale {
            ScaleType::Nested => self.n_blocks(n_elems).div_ceil(nested::NESTED_BLOCK as u64),
            _ => 0,
        }
    }

    /// Bytes of all second-level scales; 0 where scales are not nested.
    #[must_use]
    pub fn nested_absmax_bytes(&self, n_elems: u64) -> u64 {
        self.n_nested_blocks(n_elems) * size_of::<f32>() as u64
    }

    /// Bytes of all that is packed of `n_elems` weights: codes, scales, and what nested scales share.
    #[must_use]
    pub fn packed_bytes(&self, n_elems: u64) -> u64 {
        let nested = match self.nested_absmax_bytes(n_elems) {
            0 => 0,
            absmax => absmax + size_of::<f32>() as u64,
        };
        self.codes_bytes(n_elems) + self.stored_scales_bytes(n_elems) + nested
    }

    /// Bytes of the packed codes of one whole block.
    #[must_use]
    pub const fn block_codes_bytes(&self) -> usize {
        self.block * self.bits / 8
    }

    /// Bytes of the codes of the first `n_elems` elements in memory, and so where the next ones' begin.
    pub(crate) const fn codes_at(&self, n_elems: usize) -> usize {
        // Not `n_elems * bits`, which 32 bits may not hold.
        n_elems / 8 * self.bits + (n_elems % 8 * self.bits).div_ceil(8)
    }

    /// Bytes of the scales of the first `n_elems` elements' blocks, as streams have them.
    pub(crate) const fn scales_at(&self, n_elems: usize) -> usize {
        n_elems.div_ceil(self.block) * self.scale.n_bytes()
    }

    /// Bits a weight, scales included, for whole blocks.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    pub fn bits_per_weight(&self) -> f64 {
        let nested = match self.scale {
            ScaleType::Nested => 32.0 / nested::NESTED_BLOCK as f64,
            _ => 0.0,
        };
        self.bits as f64 + ((self.scale.stored_bytes() * 8) as f64 + nested) / self.block as f64
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::from_name(name)
    }
}
