//! The table of kernels: every one is a format, a direction, a shape and the type of the weights, and is put together
//! from the same few files under `shaders/`.

use super::unroll;
use crate::dtype::Dtype;
use crate::format::{Format, ShaderPart, shader};

/// Which way a kernel goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Weights to codes and scales.
    Quantize,
    /// Codes and scales to weights.
    Dequantize,
}

/// How a kernel divides its work. All shapes give the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// One workgroup a block, one invocation an element: reduce, quantize, pack.
    Block,
    /// One invocation a block, no barrier: for software adapters.
    Serial,
    /// Several blocks a workgroup, 8 elements an invocation, what a block needs once done once: for hardware.
    Tile,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Block, Self::Serial, Self::Tile];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Serial => "serial",
            Self::Tile => "tile",
        }
    }

    /// The shape of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.name() == name)
    }
}

/// Where in buffers a kernel finds and puts what it works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// At multiples of 16 bytes, with room for whole blocks.
    Vectors,
    /// At multiples of 32 bytes, by 64-bit integers, for software adapters: they load and store one element after the other, and
    /// a pair of words takes as long as one. Codes may be at multiples of 16. Only [`Shape::Serial`] has such kernels, and
    /// [`Kernel::needs`] says what a device needs for them.
    Pairs,
    /// As [`Access::Pairs`], for hosts with registers of 512 bits, which hold all lanes' 64-bit integers at once. There, values'
    /// words are put together lane by lane: it takes longer to get a lane out of such a register, by way of memory. Only
    /// dequantizing has such kernels.
    LanePairs,
    /// At any multiple of 4 bytes. Weights need no room past the last one. Dequantizing works on any run of elements, blocks
    /// cut included, in one kernel that stands under the shape [`Shape::Serial`].
    Words,
}

impl Access {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Vectors, Self::Pairs, Self::LanePairs, Self::Words];

    /// Whether it is by 64-bit integers.
    #[must_use]
    pub const fn is_by_pairs(self) -> bool {
        matches!(self, Self::Pairs | Self::LanePairs)
    }
}

/// One compute kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The packed side's format.
    pub format: Format,
    /// Which way it goes.
    pub direction: Direction,
    /// How it divides its work.
    pub shape: Shape,
    /// The unpacked side's type.
    pub dtype: Dtype,
    /// Where it finds its weights or puts its values.
    pub access: Access,
}

/// What a kernel is told of its piece: `Params` in the shaders.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Elements in the piece.
    pub n_elems: u32,
    /// Blocks in the piece.
    pub n_blocks: u32,
    /// Where the weights or values begin in what is bound, in words.
    pub values_at: u32,
    /// Where the codes begin, in words.
    pub codes_at: u32,
    /// Where the scales begin, in words.
    pub scales_at: u32,
    /// Where the status begins, in words.
    pub status_at: u32,
    /// Elements of the first block that come before the first value. Only [`Access::Words`] has such.
    pub skip: u32,
    /// Pads a uniform to a multiple of 16 bytes.
    pub _pad: u32,
}

/// Bytes of a kernel's status: two words, each 0 or all ones less the index of the first offending element.
pub const STATUS_BYTES: u64 = 8;

/// Blocks that one workgroup of the serial shape takes; `SERIAL_WG` in the shaders.
const SERIAL_WG: u32 = 64;

/// Elements that one workgroup of the tile shape takes: `TILE_WG` invocations with 8 each.
const TILE_ELEMS: usize = 256 * 8;

/// The first format with the same shaders: double quantization changes none.
pub(super) fn base_of(format: Format) -> Format {
    let text = |format: Format| {
        let info = format.info();
        (info.block, info.bits, info.shader.iter().map(|part| part.path).collect::<Vec<_>>())
    };
    Format::ALL.iter().copied().find(|other| text(*other) == text(format)).unwrap_or(format)
}

impl Kernel {
    /// Every kernel there is.
    pub fn all() -> impl Iterator<Item = Self> {
        Format::ALL
            .iter()
            .flat_map(|&format| {
                [Direction::Quantize, Direction::Dequantize].into_iter().flat_map(move |direction| {
                    Shape::ALL.into_iter().flat_map(move |shape| {
                        Dtype::ALL.into_iter().flat_map(move |dtype| {
                            Access::ALL.into_iter().map(move |access| Self { format, direction, shape, dtype, access })
                        })
                    })
                })
            })
            // Runs of elements are dequantized by one kernel, which has no shapes.
            .filter(|kernel| kernel.shape == Shape::Serial || !(kernel.is_run() || kernel.access.is_by_pairs()))
            .filter(|kernel| kernel.direction == Direction::Dequantize || kernel.access != Access::LanePairs)
    }

    /// Whether it dequantizes runs of elements, and so has its own way to divide the work.
    const fn is_run(self) -> bool {
        matches!((self.direction, self.access), (Direction::Dequantize, Access::Words))
    }

    /// The kernel with the same text of the first format that has it: double quantization changes no kernel.
    pub(super) fn shared(self) -> Self {
        // Runs of elements have one kernel, whatever the shape.
        let shape = if self.is_run() { Shape::Serial } else { self.shape };
        Self { format: base_of(self.format), shape, ..self }
    }

    /// Name of its entry point: that of the shape's file.
    #[must_use]
    pub fn entry_point(self) -> &'static str {
        match (self.direction, self.shape) {
            _ if self.is_run() => "dequantize_words",
            (Direction::Quantize, Shape::Block) => "quantize_block",
            (Direction::Quantize, Shape::Serial) => "quantize_serial",
            (Direction::Quantize, Shape::Tile) => "quantize_tile",
            (Direction::Dequantize, Shape::Block) => "dequantize_block",
            (Direction::Dequantize, Shape::Serial) => "dequantize_serial",
            (Direction::Dequantize, Shape::Tile) => "dequantize_tile",
        }
    }

    /// A name for labels and messages, such as `sym4 quantize_block F32`.
    #[must_use]
    pub fn label(self) -> String {
        let access = match self.access {
            Access::Words if !self.is_run() => " words",
            Access::Pairs => " pairs",
            Access::LanePairs => " lane pairs",
            _ => "",
        };
        format!("{} {} {}{access}", self.format, self.entry_point(), self.dtype)
    }

    /// The features that a device needs for it.
    #[must_use]
    pub fn needs(self) -> wgpu::Features {
        if self.access.is_by_pairs() { wgpu::Features::SHADER_INT64 } else { wgpu::Features::empty() }
    }

    /// Whether codes are guessed in floating point, and settled in integers where a guess is in doubt.
    #[must_use]
    pub fn guesses(self) -> bool {
        (self.direction, self.shape) == (Direction::Quantize, Shape::Tile) && !self.format.info().guess.is_empty()
    }

    /// The files it is put together from.
    fn parts(self) -> Vec<ShaderPart> {
        let mut parts = match self.direction {
            Direction::Quantize => vec![shader!("shared/quantize.wgsl")],
            Direction::Dequantize => vec![shader!("shared/dequantize.wgsl")],
        };
        parts.push(match (self.direction, self.shape) {
            _ if self.is_run() => shader!("dequantize_words.wgsl"),
            (Direction::Quantize, Shape::Block) => shader!("quantize_block.wgsl"),
            (Direction::Quantize, Shape::Serial) => shader!("quantize_serial.wgsl"),
            (Direction::Quantize, Shape::Tile) => shader!("quantize_tile.wgsl"),
            (Direction::Dequantize, Shape::Block) => shader!("dequantize_block.wgsl"),
            (Direction::Dequantize, Shape::Serial) => shader!("dequantize_serial.wgsl"),
            (Direction::Dequantize, Shape::Tile) => shader!("dequantize_tile.wgsl"),
        });
        match (self.direction, self.shape) {
            (Direction::Quantize, Shape::Tile) if self.guesses() => parts.extend_from_slice(self.format.info().guess),
            (Direction::Quantize, Shape::Tile) => parts.push(shader!("shared/exact.wgsl")),
            _ => {}
        }
        match (self.direction, self.shape, self.access) {
            (Direction::Dequantize, Shape::Serial, Access::Vectors) => parts.push(shader!("shared/codes_vectors.wgsl")),
            (Direction::Dequantize, Shape::Serial, Access::Pairs) => {
                parts.extend_from_slice(&[shader!("shared/codes_pairs.wgsl"), shader!("shared/pair_in_vectors.wgsl")]);
            }
            (Direction::Dequantize, Shape::Serial, Access::LanePairs) => {
                parts.extend_from_slice(&[shader!("shared/codes_pairs.wgsl"), shader!("shared/pair_by_lanes.wgsl")]);
            }
            _ => {}
        }
        if self.direction == Direction::Quantize {
            parts.push(match self.access {
                Access::Vectors => shader!("shared/weights_vectors.wgsl"),
                Access::Pairs | Access::LanePairs => shader!("shared/weights_pairs.wgsl"),
                Access::Words => shader!("shared/weights_words.wgsl"),
            });
            parts.extend_from_slice(match self.dtype {
                Dtype::F32 => &[shader!("shared/input_f32.wgsl")],
                Dtype::F16 => &[shader!("shared/input_half.wgsl"), shader!("shared/input_f16.wgsl")],
                Dtype::BF16 => &[shader!("shared/input_half.wgsl"), shader!("shared/input_bf16.wgsl")],
            });
        }
        // A format's file holds both directions, so a quantize kernel carries an output type that it does not use.
        parts.push(match (self.direction, self.dtype) {
            (Direction::Quantize, _) | (_, Dtype::F32) => shader!("shared/output_f32.wgsl"),
            (_, Dtype::F16) => shader!("shared/output_f16.wgsl"),
            (_, Dtype::BF16) => shader!("shared/output_bf16.wgsl"),
        });
        parts.push(shader!("shared/bits.wgsl"));
        parts.extend_from_slice(self.format.info().shader);
        parts
    }

    /// Its WGSL: the table's constants, then the files, each under a line that names it.
    #[must_use]
    pub fn source(self) -> String {
        let info = self.format.info();
        let constants = format!(
            "const BLOCK: u32 = {}u; // elements a scale\nconst BITS: u32 = {}u; // a code\n",
            info.block, info.bits
        );
        unroll::assemble(constants, &self.parts(), &self.sizes())
    }

    /// The constants that the bounds of unrolled loops may name.
    fn sizes(self) -> [(&'static str, usize); 6] {
        let info = self.format.info();
        let per_word = 4 / self.dtype.n_bytes();
        [
            ("BLOCK", info.block),
            ("CODES_PER_WORD", 32 / info.bits),
            ("WORDS", info.block * info.bits / 32),
            ("WIDE", 8 * per_word),
            ("OUT_WORDS", info.block / per_word),
            ("OUT_PER_WORD", per_word),
        ]
    }

    /// Bytes a block of each input binding, in order.
    #[must_use]
    pub fn input_block_bytes(self) -> Vec<usize> {
        match self.direction {
            Direction::Quantize => self.value_block_bytes(),
            Direction::Dequantize => self.packed_block_bytes(),
        }
    }

    /// Bytes a block of each output binding, in order.
    #[must_use]
    pub fn output_block_bytes(self) -> Vec<usize> {
        match self.direction {
            Direction::Quantize => self.packed_block_bytes(),
            Direction::Dequantize => self.value_block_bytes(),
        }
    }

    /// Words of values a block, and values a word.
    fn sizes_of_values(self) -> (u32, u32) {
        let per_word = 4 / self.dtype.n_bytes();
        let small = |n| u32::try_from(n).unwrap_or(u32::MAX);
        (small(self.format.info().block / per_word), small(per_word))
    }

    fn value_block_bytes(self) -> Vec<usize> {
        vec![self.format.info().block * self.dtype.n_bytes()]
    }

    /// Codes, then scales. On the device a scale takes a word, whatever its type.
    fn packed_block_bytes(self) -> Vec<usize> {
        vec![self.format.info().block_codes_bytes(), 4]
    }

    /// Blocks that one workgroup of the tile shape takes; `TILE_BLOCKS` in the shaders.
    fn tile_blocks(self) -> u32 {
        u32::try_from(TILE_ELEMS / self.format.info().block).unwrap_or(1)
    }

    /// Workgroups for `n_blocks` blocks, which one that dequantizes a run covers with its words.
    #[must_use]
    pub fn n_workgroups(self, n_blocks: u32) -> u32 {
        match self.shape {
            _ if self.is_run() => n_blocks.saturating_mul(self.sizes_of_values().0).div_ceil(SERIAL_WG),
            Shape::Block => n_blocks,
            Shape::Serial => n_blocks.div_ceil(SERIAL_WG),
            Shape::Tile => n_blocks.div_ceil(self.tile_blocks()),
        }
    }
}
