//! GGUF files: the header, read from hostile bytes and written anew, and blocks turned into planes.
//!
//! Version 3, little-endian; version 2 has the same layout. Source: ggml's `docs/gguf.md`.

pub(crate) mod blocks;
pub(crate) mod file;
mod header;
pub(crate) mod metadata;
pub(crate) mod types;
pub(crate) mod write;
