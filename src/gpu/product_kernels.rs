//! The table of product kernels: each is a format, a shape, a type of activations and how rows lie.

use super::unroll;
use crate::dtype::Dtype;
use crate::format::{Codes, Format, ShaderPart, shader};

/// How a product kernel divides its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProductShape {
    /// One row an invocation, no barrier: for software adapters.
    Serial,
    /// Four rows a workgroup, whose invocations share the columns: for a few vectors on hardware.
    Rows,
    /// The same with sums added up by subgroup operations: where a device was made with them. Their order is the driver's,
    /// so subgroups may have at most 32 invocations, for which the bound of [`Product`](super::Product) holds
    /// in any order.
    RowsInSubgroups,
    /// 64 rows times 64 vectors a workgroup, through workgroup memory: for many vectors on hardware.
    Tile,
}

impl ProductShape {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Serial, Self::Rows, Self::RowsInSubgroups, Self::Tile];

    /// Vectors at a time that there are kernels for.
    const fn vectors(self) -> &'static [u32] {
        match self {
            Self::Serial | Self::Rows | Self::RowsInSubgroups => &[1, 4],
            Self::Tile => &[64],
        }
    }

    /// The fewest vectors at a time that make one pass of `n`, or the most there are.
    pub(super) fn vectors_for(self, n: u32) -> u32 {
        let all = self.vectors();
        all.iter().copied().find(|&at_a_time| at_a_time >= n).unwrap_or(all[all.len() - 1])
    }
}

/// Invocations of a subgroup, at most, for [`ProductShape::RowsInSubgroups`].
pub(super) const MAX_SUBGROUP: u32 = 32;

/// One product kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProductKernel {
    /// The weights' format.
    pub format: Format,
    /// How it divides its work.
    pub shape: ProductShape,
    /// The type of vectors, bias and results: `F32` or `F16`.
    pub activations: Dtype,
    /// Whether rows are whole strips of 32 weights, and vectors and codes lie at multiples of 16 bytes; else anything goes.
    pub whole: bool,
    /// Vectors that an invocation multiplies at a time.
    pub n_vectors: u32,
}

/// What a product kernel is told: `Params` in its shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ProductParams {
    /// Rows of this dispatch.
    pub n_rows: u32,
    /// Columns.
    pub n_cols: u32,
    /// Vectors of this dispatch.
    pub n_vectors: u32,
    /// Elements from one vector of results to the next.
    pub y_stride: u32,
    /// Weights before the first row, in the first block that is bound.
    pub skip: u32,
    /// Where codes begin in what is bound, in words.
    pub codes_at: u32,
    /// Where scales begin, in words.
    pub scales_at: u32,
    /// Where vectors begin, in elements.
    pub x_at: u32,
    /// Where results begin, in elements.
    pub y_at: u32,
    /// Where the bias begins, in elements.
    pub bias_at: u32,
    /// 0 without a bias.
    pub has_bias: u32,
    /// Pads a uniform to a multiple of 16 bytes.
    pub _pad: u32,
}

/// Invocations a workgroup of the serial shape; also in its shader.
const SERIAL_WG: u32 = 32;

impl ProductKernel {
    /// Every kernel there is; those that need subgroups are not for browsers.
    pub fn all() -> impl Iterator<Item = Self> {
        Format::ALL.iter().flat_map(|&format| {
            let shapes = ProductShape::ALL
                .into_iter()
                .filter(|&shape| !cfg!(target_family = "wasm") || shape != ProductShape::RowsInSubgroups);
            shapes.flat_map(move |shape| {
                [Dtype::F32, Dtype::F16].into_iter().flat_map(move |activations| {
                    [true, false].into_iter().flat_map(move |whole| {
                        let with = move |&n_vectors| Self { format, shape, activations, whole, n_vectors };
                        shape.vectors().iter().map(with)
                    })
                })
            })
        })
    }

    /// The kernel that has the same text: double quantization changes none.
    pub(super) fn shared(self) -> Self {
        Self { format: super::kernels::base_of(self.format), ..self }
    }

    /// Name of its entry point.
    #[must_use]
    pub fn entry_point(self) -> &'static str {
        match self.shape {
            ProductShape::Serial => "product_serial",
            ProductShape::Rows => "product_rows",
            ProductShape::RowsInSubgroups => "product_rows_subgroups",
            ProductShape::Tile => "product_tile",
        }
    }

    /// A name for labels and messages, such as `sym4 product_serial F32 by 4, whole`.
    #[must_use]
    pub fn label(self) -> String {
        let rows = if self.whole { "whole" } else { "ragged" };
        format!("{} {} {} by {}, {rows}", self.format, self.entry_point(), self.activations, self.n_vectors)
    }

    fn parts(self) -> Vec<ShaderPart> {
        let mut parts = vec![shader!("product/product.wgsl")];
        parts.push(match self.shape {
            ProductShape::Serial => shader!("product/serial.wgsl"),
            ProductShape::Rows | ProductShape::RowsInSubgroups => shader!("product/rows.wgsl"),
            ProductShape::Tile => shader!("product/tile.wgsl"),
        });
        match self.shape {
            ProductShape::Rows => parts.push(shader!("product/rows_workgroup.wgsl")),
            ProductShape::RowsInSubgroups => parts.push(shader!("product/rows_subgroups.wgsl")),
            ProductShape::Serial | ProductShape::Tile => {}
        }
        parts.push(if self.whole {
            shader!("product/weights_whole.wgsl")
        } else {
            shader!("product/weights_ragged.wgsl")
        });
        parts.push(match (self.activations, self.whole) {
            (Dtype::F32, true) => shader!("product/x_f32_whole.wgsl"),
            (Dtype::F32, false) => shader!("product/x_f32_ragged.wgsl"),
            (_, true) => shader!("product/x_f16_whole.wgsl"),
            (_, false) => shader!("product/x_f16_ragged.wgsl"),
        });
        parts.push(match self.activations {
            Dtype::F32 => shader!("product/y_f32.wgsl"),
            _ => shader!("product/y_f16.wgsl"),
        });
        parts.push(match (self.format.info().codes, self.shape) {
            (Codes::Integers, _) => shader!("product/integers.wgsl"),
            (Codes::Codebook, ProductShape::Serial) => shader!("product/codebook.wgsl"),
            (Codes::Codebook, _) => shader!("product/codebook_table.wgsl"),
        });
        // A format's file holds what quantizing and dequantizing need, too, which products don't use.
        parts.push(shader!("shared/output_f32.wgsl"));
        parts.push(shader!("shared/bits.wgsl"));
        parts.extend_from_slice(self.format.info().shader);
        parts
    }

    /// Its WGSL: the table's constants, then the files, each under a line that names it.
    #[must_use]
    pub fn source(self) -> String {
        let info = self.format.info();
        let [rows, vectors] = self.at_a_time();
        let sizes = [
            ("BLOCK", info.block),
            ("BITS", info.bits),
            ("ROWS", rows as usize),
            ("VECTORS", vectors as usize),
            ("SUMS", (rows * vectors) as usize),
        ];
        let constants = sizes.iter().map(|(name, size)| format!("const {name}: u32 = {size}u;\n")).collect();
        unroll::assemble(constants, &self.parts(), &sizes)
    }

    /// Rows and vectors that an invocation of the serial shape takes, and a workgroup of the others.
    fn at_a_time(self) -> [u32; 2] {
        match self.shape {
            ProductShape::Serial if self.whole => [4 / self.n_vectors, self.n_vectors],
            // Its code is long as it is: drivers compile it for seconds.
            ProductShape::Serial => [1, self.n_vectors],
            ProductShape::Rows | ProductShape::RowsInSubgroups => [4, self.n_vectors],
            ProductShape::Tile => [64, 64],
        }
    }

    /// Rows and vectors that one workgroup takes.
    #[must_use]
    pub fn workgroup(self) -> [u32; 2] {
        let [rows, vectors] = self.at_a_time();
        match self.shape {
            ProductShape::Serial => [SERIAL_WG * rows, vectors],
            _ => [rows, vectors],
        }
    }
}
