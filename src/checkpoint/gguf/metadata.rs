//! GGUF's key-value pairs, kept as the file has them: what is not understood is carried over bit for bit.

use crate::error::{Error, Result};

/// Where tensors start is a multiple of it.
pub(crate) const ALIGNMENT: &str = "general.alignment";
/// The family of models, which decides the names of tensors and keys.
pub(crate) const ARCHITECTURE: &str = "general.architecture";
/// The type of most weights.
pub(crate) const FILE_TYPE: &str = "general.file_type";
/// The version of ggml's block layouts.
pub(crate) const QUANTIZATION_VERSION: &str = "general.quantization_version";

/// What the keys start with that carry a safetensors file's metadata.
pub(crate) const SAFETENSORS: &str = "safetensors.";

/// The alignment where a file names none.
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;
/// More than any file needs; it bounds the padding.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// The value types that are looked into.
pub(crate) const UINT32: u32 = 4;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;

/// Bytes of a value of a type that has a fixed size.
pub(crate) fn scalar_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// The number of the value's type.
    pub(crate) kind: u32,
    /// The value, as it stands after the type.
    pub(crate) value: Vec<u8>,
}

impl Entry {
    /// A number.
    pub(crate) fn u32(key: &str, value: u32) -> Self {
        Self { key: key.to_owned(), kind: UINT32, value: value.to_le_bytes().to_vec() }
    }

    /// A text.
    pub(crate) fn string(key: &str, text: &str) -> Self {
        let value = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        Self { key: key.to_owned(), kind: STRING, value }
    }

    /// The number that it holds.
    pub(crate) fn as_u32(&self) -> Option<u32> {
        let bytes = self.value.as_slice().try_into().ok()?;
        (self.kind == UINT32).then_some(u32::from_le_bytes(bytes))
    }

    /// The text that it holds.
    pub(crate) fn as_str(&self) -> Option<&str> {
        let text = self.value.get(8..)?;
        if self.kind == STRING { std::str::from_utf8(text).ok() } else { None }
    }
}

/// The entry of that key.
pub(crate) fn find<'a>(entries: &'a [Entry], key: &str) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.key == key)
}

/// Puts an entry in the place of the one with its key, or at the end.
pub(crate) fn set(entries: &mut Vec<Entry>, entry: Entry) {
    match entries.iter_mut().find(|old| old.key == entry.key) {
        Some(old) => *old = entry,
        None => entries.push(entry),
    }
}

/// What tensors are aligned to.
///
/// # Errors
/// [`Error::BadFile`] for what is no `u32`, no power of two of at least 8, or beyond any use.
pub(crate) fn alignment(entries: &[Entry]) -> Result<u64> {
    let Some(entry) = find(entries, ALIGNMENT) else { return Ok(DEFAULT_ALIGNMENT) };
    let bad =
        |what: String| Error::BadFile(format!("its {ALIGNMENT} is {what}, and should be a power of two from 8 on"));
    let alignment = u64::from(entry.as_u32().ok_or_else(|| bad("no u32".to_owned()))?);
    if !alignment.is_power_of_two() || !(8..=MAX_ALIGNMENT).contains(&alignment) {
        return Err(bad(alignment.to_string()));
    }
    Ok(alignment)
}
