#![doc = include_str!("../README.md")]
#![deny(missing_docs, unsafe_code)]
// Bad input must reach the caller as an error. (Not for tests and examples, so not among the workspace's lints.)
#![warn(clippy::expect_used, clippy::panic, clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]
#![warn(clippy::cast_possible_truncation, clippy::cast_precision_loss)]

pub mod checkpoint;
mod cpu;
mod dtype;
mod engine;
mod error;
pub mod format;
pub mod gpu;
mod named;
mod packed;
pub mod quant;
mod random;
pub mod reference;
pub mod selftest;
mod simd;
mod threads;
pub mod verify;

pub use cpu::{dequantize, dequantize_f32, dequantize_to_slice, quantize, quantize_to_slices};
pub use dtype::{Dtype, Weights};
pub use engine::{Engine, MIN_MEMORY_BYTES};
pub use error::{Error, Result};
pub use format::{Container, Format, FormatInfo};
pub use gpu::Gpu;
pub use packed::{Packed, PackedChunk};
