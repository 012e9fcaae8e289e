//! Reading a GGUF header. Nothing in it is believed: every length is held against what is left of the file before memory
//! is asked for, and every tensor against the file's end and its neighbours.

use std::collections::BTreeSet;
use std::io::Read;

use super::super::data::io_error;
use super::metadata::{ARRAY, Entry, STRING, alignment, scalar_bytes};
use super::types::TensorType;
use crate::error::{Error, Result};

/// What a GGUF file starts with.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is written. Version 2 has the same layout, and is read too.
pub(crate) const VERSION: u32 = 3;
/// Dimensions that a tensor can have.
pub(crate) const MAX_DIMENSIONS: u32 = 4;

/// More than any tokenizer takes.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Bytes of a key, as the format's description says.
const MAX_KEY_BYTES: u64 = 65_535;
/// Bytes of a tensor's name. ggml itself allows one less, which is what is written.
const MAX_NAME_BYTES: u64 = 64;
/// Arrays within arrays.
const MAX_ARRAY_DEPTH: usize = 4;
/// The least bytes that a metadata entry can have.
const MIN_ENTRY_BYTES: u64 = 13;
/// The least bytes that a tensor's description can have.
const MIN_TENSOR_BYTES: u64 = 24;
/// The least bytes that an array's element of no fixed size can have.
const MIN_ELEMENT_BYTES: u64 = 8;

/// A tensor in a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) of: &'static TensorType,
    /// Dimensions, outermost first (a file has them the other way round); none for a scalar.
    pub(crate) shape: Vec<u64>,
    /// Where its bytes start, counted from the data section's start.
    pub(crate) offset: u64,
    pub(crate) n_bytes: u64,
}

/// A header that holds together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Key-value pairs, in the file's order.
    pub(crate) metadata: Vec<Entry>,
    /// Tensors, in the file's order.
    pub(crate) tensors: Vec<Tensor>,
    /// Where the data section starts.
    pub(crate) data_start: u64,
}

impl Header {
    /// Reads the header of a file of `n_bytes`, from its start.
    ///
    /// # Errors
    /// [`Error::BadFile`] with what is wrong, and [`Error::Io`].
    pub(crate) fn read(reader: impl Read, n_bytes: u64) -> Result<Self> {
        let mut cursor = Cursor { reader, at: 0, n_bytes, what: "start".to_owned() };
        check_start(&mut cursor)?;
        let n_tensors = cursor.count("tensors", MIN_TENSOR_BYTES)?;
        let n_entries = cursor.count("metadata entries", MIN_ENTRY_BYTES)?;
        let mut metadata = Vec::new();
        for ix in 0..n_entries {
            metadata.push(read_entry(&mut cursor, ix)?);
        }
        refuse_twice("metadata key", metadata.iter().map(|entry| entry.key.as_str()))?;
        let mut tensors = Vec::new();
        for ix in 0..n_tensors {
            tensors.push(read_tensor(&mut cursor, ix)?);
        }
        refuse_twice("tensor", tensors.iter().map(|tensor| tensor.name.as_str()))?;
        let alignment = alignment(&metadata)?;
        let data_start = cursor.at.next_multiple_of(alignment);
        check_places(&tensors, alignment, data_start, n_bytes)?;
        Ok(Self { metadata, tensors, data_start })
    }
}

fn check_start(cursor: &mut Cursor<impl Read>) -> Result<()> {
    let bad = |text: String| Err(Error::BadFile(text));
    if cursor.array::<4>()? != MAGIC {
        return bad("is no GGUF file: it does not start with \"GGUF\"".to_owned());
    }
    match cursor.u32()? {
        2 | VERSION => Ok(()),
        1 => bad("has GGUF version 1, which nobody writes any more: convert the model again".to_owned()),
        version if version & 0xffff == 0 => {
            bad("is a big-endian GGUF file, and only little-endian ones are read: convert it".to_owned())
        }
        version => bad(format!("has GGUF version {version}, and this wgquant reads versions 2 and {VERSION}")),
    }
}

fn read_entry(cursor: &mut Cursor<impl Read>, ix: u64) -> Result<Entry> {
    cursor.what = format!("metadata entry {ix}");
    let key = cursor.text(MAX_KEY_BYTES)?;
    cursor.what = format!("metadata {key:?}");
    let kind = cursor.u32()?;
    let mut value = Vec::new();
    read_value(cursor, kind, 0, &mut value)?;
    Ok(Entry { key, kind, value })
}

/// Appends a value's bytes to `raw`.
fn read_value(cursor: &mut Cursor<impl Read>, kind: u32, depth: usize, raw: &mut Vec<u8>) -> Result<()> {
    if let Some(n_bytes) = scalar_bytes(kind) {
        return cursor.append(n_bytes, raw);
    }
    match kind {
        STRING => {
            let n_bytes = cursor.append_u64(raw)?;
            cursor.append(n_bytes, raw)
        }
        ARRAY if depth == MAX_ARRAY_DEPTH => {
            Err(Error::BadFile(format!("its {} has arrays within arrays, deeper than {MAX_ARRAY_DEPTH}", cursor.what)))
        }
        ARRAY => {
            let of = cursor.u32()?;
            raw.extend(of.to_le_bytes());
            let n = cursor.append_u64(raw)?;
            if let Some(n_bytes) = scalar_bytes(of) {
                return cursor.append(n.saturating_mul(n_bytes), raw);
            }
            cursor.demand(n.saturating_mul(MIN_ELEMENT_BYTES))?;
            (0..n).try_for_each(|_| read_value(cursor, of, depth + 1, raw))
        }
        _ => Err(Error::BadFile(format!("its {} has a value of type {kind}, which GGUF does not have", cursor.what))),
    }
}

fn read_tensor(cursor: &mut Cursor<impl Read>, ix: u64) -> Result<Tensor> {
    cursor.what = format!("description of tensor {ix}");
    let name = cursor.text(MAX_NAME_BYTES)?;
    cursor.what = format!("description of tensor {name:?}");
    let bad = |text: String| Err(Error::BadFile(text).in_tensor(&name));
    let n_dimensions = cursor.u32()?;
    if n_dimensions > MAX_DIMENSIONS {
        return bad(format!("it has {n_dimensions} dimensions, and GGUF allows {MAX_DIMENSIONS}"));
    }
    let mut shape = (0..n_dimensions).map(|_| cursor.u64()).collect::<Result<Vec<_>>>()?;
    shape.reverse();
    let (id, offset) = (cursor.u32()?, cursor.u64()?);
    let Some(of) = TensorType::from_id(id) else {
        return bad(format!("it has type number {id}, whose size this wgquant does not know"));
    };
    let Some(n_bytes) = of.n_bytes(&shape) else {
        return bad(format!("it has type {} and shape {shape:?}, which no file can hold", of.name));
    };
    Ok(Tensor { name, of, shape, offset, n_bytes })
}

fn refuse_twice<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Error::BadFile(format!("has the {what} {name:?} twice")));
        }
    }
    Ok(())
}

/// Each tensor lies aligned and within the file, and no two share a byte.
fn check_places(tensors: &[Tensor], alignment: u64, data_start: u64, n_bytes: u64) -> Result<()> {
    let mut order: Vec<_> = tensors.iter().filter(|tensor| tensor.n_bytes > 0).collect();
    order.sort_by_key(|tensor| tensor.offset);
    let mut free_from = 0;
    for tensor in order {
        let bad = |text: String| Err(Error::BadFile(text).in_tensor(&tensor.name));
        let Some(end) = tensor.offset.checked_add(tensor.n_bytes).filter(|end| end.checked_add(data_start).is_some())
        else {
            return bad(format!("it would start at byte {} of the data, which no file has", tensor.offset));
        };
        if !tensor.offset.is_multiple_of(alignment) {
            return bad(format!("it starts at byte {} of the data, no multiple of {alignment}", tensor.offset));
        }
        if data_start + end > n_bytes {
            let end = data_start + end;
            return bad(format!("it would end at byte {end}, and the file has {n_bytes}: the file is cut short"));
        }
        if tensor.offset < free_from {
            return bad("it shares bytes with another tensor".to_owned());
        }
        free_from = end;
    }
    Ok(())
}

/// A reader that knows how much there is.
struct Cursor<R> {
    reader: R,
    at: u64,
    n_bytes: u64,
    /// What is being read, for messages.
    what: String,
}

impl<R: Read> Cursor<R> {
    /// Refuses to read on if fewer than `n_bytes` are left.
    fn demand(&self, n_bytes: u64) -> Result<()> {
        let end = self.at.saturating_add(n_bytes);
        if end > self.n_bytes {
            return Err(Error::BadFile(format!(
                "is cut short, or no sound GGUF file: its {} would end at byte {end} or later, and the file has {}",
                self.what, self.n_bytes
            )));
        }
        if end > MAX_HEADER_BYTES {
            return Err(Error::BadFile(format!(
                "has a header of more than {MAX_HEADER_BYTES} bytes, which is refused"
            )));
        }
        Ok(())
    }

    /// Appends the next `n_bytes` to `raw`.
    fn append(&mut self, n_bytes: u64, raw: &mut Vec<u8>) -> Result<()> {
        self.demand(n_bytes)?;
        let failed = |error| io_error("can't be read", error);
        let n_read = (&mut self.reader).take(n_bytes).read_to_end(raw).map_err(failed)?;
        if n_read as u64 != n_bytes {
            return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
        }
        self.at += n_bytes;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.demand(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|error| io_error("can't be read", error))?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number, whose bytes go to `raw` too.
    fn append_u64(&mut self, raw: &mut Vec<u8>) -> Result<u64> {
        let number = self.u64()?;
        raw.extend(number.to_le_bytes());
        Ok(number)
    }

    /// How many things follow that have at least `min_bytes` each.
    fn count(&mut self, what: &str, min_bytes: u64) -> Result<u64> {
        let n = self.u64()?;
        self.what = format!("{n} {what}");
        self.demand(n.saturating_mul(min_bytes))?;
        Ok(n)
    }

    /// A text of at most `max_bytes`.
    fn text(&mut self, max_bytes: u64) -> Result<String> {
        let n_bytes = self.u64()?;
        self.demand(n_bytes)?;
        let bad = |text: String| Error::BadFile(text);
        if n_bytes > max_bytes {
            return Err(bad(format!("its {} has a name of {n_bytes} bytes, and {max_bytes} are allowed", self.what)));
        }
        let mut bytes = Vec::new();
        self.append(n_bytes, &mut bytes)?;
        String::from_utf8(bytes).map_err(|_| bad(format!("its {} has a name that is no UTF-8", self.what)))
    }
}

#[cfg(test)]
mod tests;
