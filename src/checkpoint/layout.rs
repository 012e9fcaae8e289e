//! Where everything goes in an output, known before the first byte is written.

use std::collections::BTreeMap;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::StoredDtype;
use super::safetensors::{MAX_HEADER_BYTES, TensorInfo};
use super::source::MODEL_FILE;
use crate::error::{Error, Result};

/// The header's length is a multiple of this, and so the data section is aligned.
const HEADER_ALIGNMENT: usize = 8;

/// A tensor to be written.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) dtype: StoredDtype,
    pub(crate) shape: Vec<u64>,
    pub(crate) n_bytes: u64,
    pub(crate) content: Content,
}

/// What goes into a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// A tensor of the input, bit for bit, or its dequantized values.
    Values,
    /// A weight's codes.
    Codes,
    /// A weight's scales.
    Scales,
    /// A weight's blocks, each its scale and then its codes.
    Blocks,
    /// Second-level scales, of nested ones.
    NestedAbsmax,
    /// Bytes that say the offset of nested scales; these, until it is known.
    NestedOffset(Vec<u8>),
    /// A weight's digest, which comes after everything else.
    Digest,
    /// These bytes, which don't depend on any element.
    Fixed(Vec<u8>),
}

impl Part {
    /// A tensor as it is.
    pub(crate) fn copy_of(tensor: &TensorInfo) -> Self {
        let TensorInfo { name, dtype, shape, n_bytes, .. } = tensor.clone();
        Self { name, dtype, shape, n_bytes, content: Content::Values }
    }

    /// A tensor of these bytes, which say the offset of nested scales as soon as it is known.
    pub(crate) fn nested_offset(name: String, dtype: StoredDtype, shape: Vec<u64>, bytes: Vec<u8>) -> Self {
        Self { name, dtype, shape, n_bytes: bytes.len() as u64, content: Content::NestedOffset(bytes) }
    }

    /// A tensor of these bytes.
    pub(crate) fn fixed(name: String, dtype: StoredDtype, shape: Vec<u64>, bytes: Vec<u8>) -> Self {
        Self { name, dtype, shape, n_bytes: bytes.len() as u64, content: Content::Fixed(bytes) }
    }
}

/// The header of an output file and the place of each part.
///
/// In a safetensors file parts stand by the size of their elements, largest first, so that each is aligned for its type without gaps (which
/// safetensors does not allow); digests last; otherwise in the order they came in.
#[derive(Debug)]
pub(crate) struct FileLayout {
    /// The header's length, and the header.
    pub(crate) header: Vec<u8>,
    /// Position of each part, in the order they came in, counted from the end of the header.
    pub(crate) offsets: Vec<u64>,
    /// Bytes of all parts.
    pub(crate) data_bytes: u64,
}

impl FileLayout {
    /// The layout of these parts. The header depends on nothing but the arguments.
    ///
    /// # Errors
    /// [`Error::Refused`] if the header would be longer than readers allow.
    pub(crate) fn new(metadata: &BTreeMap<String, String>, parts: &[Part]) -> Result<Self> {
        if let Some((part, of)) = parts.iter().find_map(|part| Some((part, part.dtype.as_blocks()?))) {
            let text = format!(
                "its type is GGUF's {}, which a safetensors file can't hold and wgquant can't convert",
                of.name
            );
            return Err(Error::Refused(text).in_tensor(&part.name));
        }
        let mut order: Vec<usize> = (0..parts.len()).collect();
        order.sort_by_key(|&ix| (parts[ix].content == Content::Digest, std::cmp::Reverse(parts[ix].dtype.bitsize())));
        let mut offsets = vec![0; parts.len()];
        let mut data_bytes = 0_u64;
        for &ix in &order {
            offsets[ix] = data_bytes;
            data_bytes = data_bytes
                .checked_add(parts[ix].n_bytes)
                .ok_or_else(|| Error::Refused("the output would be larger than any file can be".to_owned()))?;
        }
        let header = Header { metadata, parts, order: &order, offsets: &offsets };
        let mut json = serde_json::to_vec(&header).map_err(|error| Error::Refused(format!("no header: {error}")))?;
        json.resize(json.len().next_multiple_of(HEADER_ALIGNMENT), b' ');
        let header_bytes = json.len() as u64;
        if header_bytes > MAX_HEADER_BYTES {
            return Err(Error::Refused(format!(
                "the output's header would be {header_bytes} bytes long, and readers allow {MAX_HEADER_BYTES}"
            )));
        }
        let mut header = header_bytes.to_le_bytes().to_vec();
        header.append(&mut json);
        Ok(Self { header, offsets, data_bytes })
    }

    /// Bytes of the whole file.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.header.len() as u64 + self.data_bytes
    }

    /// Where the data section starts.
    pub(crate) fn data_start(&self) -> u64 {
        self.header.len() as u64
    }
}

/// All files of an output.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Each file's header.
    pub(crate) files: Vec<FileLayout>,
    /// Position of each part, in the order they came in, counted through all files' data.
    pub(crate) offsets: Vec<u64>,
    /// Of several files, the text of the index that says what is where.
    pub(crate) index: Option<String>,
}

impl Layout {
    /// Files with these parts each, one after the other.
    ///
    /// # Errors
    /// [`Error::Refused`] if sizes overflow.
    pub(crate) fn new(files: Vec<(FileLayout, &[Part])>) -> Result<Self> {
        let (mut offsets, mut first, mut weight_map) = (Vec::new(), 0_u64, BTreeMap::new());
        let n_files = files.len();
        for (number, (file, parts)) in files.iter().enumerate() {
            offsets.extend(file.offsets.iter().map(|offset| first + offset));
            first = first
                .checked_add(file.data_bytes)
                .ok_or_else(|| Error::Refused("the output would be larger than files can be".to_owned()))?;
            weight_map.extend(parts.iter().map(|part| (&part.name, file_name(number, n_files))));
        }
        let index = (n_files > 1).then(|| {
            let index = serde_json::json!({ "metadata": { "total_size": first }, "weight_map": weight_map });
            format!("{index:#}\n")
        });
        let files = files.into_iter().map(|(file, _)| file).collect();
        Ok(Self { files, offsets, index })
    }

    /// Bytes of all files.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.files.iter().map(FileLayout::n_bytes).sum()
    }

    /// Names of the files in a folder.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        (0..self.files.len()).map(|number| file_name(number, self.files.len()))
    }
}

/// The name of one file of so many, as transformers has them.
fn file_name(number: usize, n_files: usize) -> String {
    match n_files {
        1 => MODEL_FILE.to_owned(),
        _ => format!("model-{:05}-of-{n_files:05}.safetensors", number + 1),
    }
}

/// Cuts a row of things with these sizes into runs of at most `limit` bytes, or of one thing that is larger.
pub(crate) fn cut(sizes: impl Iterator<Item = u64>, limit: Option<u64>) -> Vec<usize> {
    let (mut runs, mut used) = (vec![0], 0_u64);
    for size in sizes {
        let last = runs.len() - 1;
        if runs[last] > 0 && limit.is_some_and(|limit| used.saturating_add(size) > limit) {
            runs.push(1);
            used = size;
        } else {
            runs[last] += 1;
            used = used.saturating_add(size);
        }
    }
    runs
}

/// The header's JSON: `__metadata__`, then the tensors in the order they lie in.
struct Header<'a> {
    metadata: &'a BTreeMap<String, String>,
    parts: &'a [Part],
    order: &'a [usize],
    offsets: &'a [u64],
}

#[derive(Serialize)]
struct Entry<'a> {
    dtype: StoredDtype,
    shape: &'a [u64],
    data_offsets: [u64; 2],
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let has_metadata = !self.metadata.is_empty();
        let mut map = serializer.serialize_map(Some(self.parts.len() + usize::from(has_metadata)))?;
        if has_metadata {
            map.serialize_entry("__metadata__", self.metadata)?;
        }
        for &ix in self.order {
            let (part, start) = (&self.parts[ix], self.offsets[ix]);
            let data_offsets = [start, start + part.n_bytes];
            map.serialize_entry(&part.name, &Entry { dtype: part.dtype, shape: &part.shape, data_offsets })?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, dtype: StoredDtype, n: u64, content: Content) -> Part {
        let n_bytes = n * dtype.bitsize() as u64 / 8;
        Part { name: name.to_owned(), dtype, shape: vec![n], n_bytes, content }
    }

    /// The header to the byte: metadata sorted, parts by the size of their elements, digests last, spaces to a multiple
    /// of 8.
    #[test]
    fn the_header_is_known_to_the_byte() {
        let parts = [
            part("w", StoredDtype::U8, 33, Content::Codes),
            part("w.scales", StoredDtype::F32, 2, Content::Scales),
            part("w.blake3", StoredDtype::U8, 32, Content::Digest),
            part("half", StoredDtype::F16, 3, Content::Values),
            part("ids", StoredDtype::I64, 1, Content::Values),
            part("mask", StoredDtype::BOOL, 1, Content::Values),
        ];
        let metadata =
            [("wgquant", "{}"), ("format", "pt")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let layout = FileLayout::new(&metadata, &parts).expect("a small header");
        let expected = concat!(
            r#"{"__metadata__":{"format":"pt","wgquant":"{}"},"#,
            r#""ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"#,
            r#""w.scales":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"#,
            r#""half":{"dtype":"F16","shape":[3],"data_offsets":[16,22]},"#,
            r#""w":{"dtype":"U8","shape":[33],"data_offsets":[22,55]},"#,
            r#""mask":{"dtype":"BOOL","shape":[1],"data_offsets":[55,56]},"#,
            r#""w.blake3":{"dtype":"U8","shape":[32],"data_offsets":[56,88]}}"#,
        );
        let header_bytes = expected.len().next_multiple_of(8);
        assert_eq!(layout.header[..8], (header_bytes as u64).to_le_bytes());
        assert_eq!(std::str::from_utf8(&layout.header[8..]), Ok(format!("{expected:header_bytes$}").as_str()));
        assert_eq!(layout.offsets, [22, 8, 56, 16, 0, 55]);
        assert_eq!((layout.data_bytes, layout.n_bytes()), (88, 88 + 8 + header_bytes as u64));
    }

    #[test]
    fn shards_hold_what_fits() {
        let cut = |limit| cut([4, 4, 9, 1, 1, 8].into_iter(), limit);
        assert_eq!(cut(None), [6]);
        assert_eq!(cut(Some(8)), [2, 1, 2, 1]);
        assert_eq!(cut(Some(1)), [1; 6]);
        assert_eq!(cut(Some(100)), [6]);
        assert_eq!(super::cut(std::iter::empty(), Some(1)), [0], "a file without tensors");
    }

    #[test]
    fn positions_count_through_files() {
        let parts = ["a", "b"].map(|name| [part(name, StoredDtype::F32, 3, Content::Values)]);
        let files = parts.iter().map(|parts| (FileLayout::new(&BTreeMap::new(), parts).expect("small"), &parts[..]));
        let layout = Layout::new(files.collect()).expect("small");
        assert_eq!(layout.offsets, [0, 12]);
        let index: serde_json::Value = serde_json::from_str(&layout.index.expect("of two files")).expect("JSON");
        assert_eq!(index["weight_map"]["b"], "model-00002-of-00002.safetensors");
        assert_eq!(index["metadata"]["total_size"], 24);
    }
}
