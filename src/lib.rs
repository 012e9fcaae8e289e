#![doc = include_str!("../README.md")]
#![deny(missing_docs, unsafe_code)]

pub mod checkpoint;
mod cpu;
mod dtype;
mod engine;
mod error;
pub mod format;
pub mod gpu;
mod packed;
pub mod quant;
mod random;
pub mod selftest;
pub mod verify;

pub use cpu::{dequantize, dequantize_f32, quantize};
pub use dtype::{Dtype, Weights};
pub use engine::{Engine, PackedChunk};
pub use error::{Error, Result};
pub use format::{Container, Format, FormatInfo};
pub use gpu::Gpu;
pub use packed::Packed;
