//! Writing a GGUF header: the same entries and tensors give the same bytes.

use super::header::{MAGIC, MAX_DIMENSIONS, VERSION};
use super::metadata::{Entry, alignment};
use super::types::TensorType;
use crate::error::{Error, Result};

/// Bytes of a name that ggml takes.
pub(crate) const MAX_NAME_BYTES: usize = 63;

/// A tensor to be written.
#[derive(Debug)]
pub(crate) struct NewTensor<'a> {
    pub(crate) name: &'a str,
    pub(crate) of: &'static TensorType,
    /// Dimensions, outermost first.
    pub(crate) shape: &'a [u64],
}

/// A header, and where its tensors go.
#[derive(Debug)]
pub(crate) struct GgufLayout {
    /// The header, zeros up to the data section included.
    pub(crate) header: Vec<u8>,
    /// Where each tensor starts, in the order they came in, counted from the data section's start.
    pub(crate) offsets: Vec<u64>,
    /// Bytes of the data section: each tensor is followed by zeros up to the alignment, the last one too.
    pub(crate) data_bytes: u64,
}

impl GgufLayout {
    /// Lays tensors out in the order they come in.
    ///
    /// # Errors
    /// [`Error::Refused`] for a tensor that GGUF can't hold, [`Error::BadFile`] for an alignment that is none.
    pub(crate) fn new(metadata: &[Entry], tensors: &[NewTensor<'_>]) -> Result<Self> {
        let alignment = alignment(metadata)?;
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for entry in metadata {
            put_text(&mut header, &entry.key);
            header.extend(entry.kind.to_le_bytes());
            header.extend(&entry.value);
        }
        let (mut offsets, mut data_bytes) = (Vec::with_capacity(tensors.len()), 0_u64);
        for tensor in tensors {
            let (n_dimensions, n_bytes) = check(tensor).map_err(|error| error.in_tensor(tensor.name))?;
            put_text(&mut header, tensor.name);
            header.extend(n_dimensions.to_le_bytes());
            for dimension in tensor.shape.iter().rev() {
                header.extend(dimension.to_le_bytes());
            }
            header.extend(tensor.of.id.to_le_bytes());
            header.extend(data_bytes.to_le_bytes());
            offsets.push(data_bytes);
            data_bytes = data_bytes
                .checked_add(n_bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| Error::Refused("the output would be larger than any file can be".to_owned()))?;
        }
        header.resize(header.len().next_multiple_of(usize::try_from(alignment).unwrap_or(1)), 0);
        Ok(Self { header, offsets, data_bytes })
    }
}

/// The number of dimensions and of bytes of a tensor that GGUF can hold.
fn check(tensor: &NewTensor<'_>) -> Result<(u32, u64)> {
    let refused = |text: String| Err(Error::Refused(text));
    if tensor.name.len() > MAX_NAME_BYTES {
        return refused(format!(
            "its name has {} bytes, and GGUF's readers allow {MAX_NAME_BYTES}: take another container",
            tensor.name.len()
        ));
    }
    let Some(n_dimensions) = u32::try_from(tensor.shape.len()).ok().filter(|&n| n <= MAX_DIMENSIONS) else {
        return refused(format!(
            "it has {} dimensions, and GGUF allows {MAX_DIMENSIONS}: take another container",
            tensor.shape.len()
        ));
    };
    match tensor.of.n_bytes(tensor.shape) {
        Some(n_bytes) => Ok((n_dimensions, n_bytes)),
        None => refused(format!("its shape {:?} can't be stored as GGUF's {}", tensor.shape, tensor.of.name)),
    }
}

fn put_text(header: &mut Vec<u8>, text: &str) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::header::Header;
    use super::*;

    fn f32s<'a>(name: &'a str, shape: &'a [u64]) -> NewTensor<'a> {
        NewTensor { name, of: TensorType::from_id(0).expect("F32"), shape }
    }

    /// The header to the byte.
    #[test]
    fn the_header_is_known_to_the_byte() {
        let metadata = [Entry::string("general.architecture", "x"), Entry::u32("general.alignment", 8)];
        let of = TensorType::from_id(2).expect("Q4_0");
        let tensors = [f32s("a", &[3]), NewTensor { name: "bc", of, shape: &[2, 32] }];
        let layout = GgufLayout::new(&metadata, &tensors).expect("fits");
        let mut expected = b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0".to_vec();
        expected.extend(b"\x14\0\0\0\0\0\0\0general.architecture\x08\0\0\0\x01\0\0\0\0\0\0\0x");
        expected.extend(b"\x11\0\0\0\0\0\0\0general.alignment\x04\0\0\0\x08\0\0\0");
        expected.extend(b"\x01\0\0\0\0\0\0\0a\x01\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        expected
            .extend(b"\x02\0\0\0\0\0\0\0bc\x02\0\0\0\x20\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\x10\0\0\0\0\0\0\0");
        let n_bytes = expected.len();
        expected.resize(n_bytes.next_multiple_of(8), 0);
        assert_eq!(layout.header, expected);
        assert_eq!((layout.offsets, layout.data_bytes), (vec![0, 16], 56));
    }

    #[test]
    fn what_is_written_is_read() {
        let metadata = [Entry::string("general.architecture", "x"), Entry::u32("n", 7)];
        let tensors = [f32s("a", &[3]), f32s("scalar", &[]), f32s("none", &[0, 5]), f32s("four", &[2, 3, 4, 5])];
        let layout = GgufLayout::new(&metadata, &tensors).expect("fits");
        let n_bytes = layout.header.len() as u64 + layout.data_bytes;
        let header = Header::read(layout.header.as_slice(), n_bytes).expect("sound");
        assert_eq!((&header.metadata[..], header.data_start), (&metadata[..], layout.header.len() as u64));
        for ((tensor, read), offset) in tensors.iter().zip(&header.tensors).zip(&layout.offsets) {
            assert_eq!((tensor.name, tensor.shape, offset), (&*read.name, &*read.shape, &read.offset));
        }
        assert_eq!(layout.offsets, [0, 32, 64, 64]);
        assert_eq!(layout.data_bytes, 64 + 480);
    }

    #[test]
    fn what_gguf_cannot_hold_is_refused() {
        let refused = |tensor: NewTensor<'_>, wanted: &str| {
            let error = GgufLayout::new(&[], &[tensor]).expect_err(wanted).to_string();
            assert!(error.contains(wanted), "{error}");
        };
        refused(f32s(&"n".repeat(64), &[1]), "its name has 64 bytes");
        refused(f32s("five", &[1; 5]), "it has 5 dimensions");
        refused(NewTensor { name: "w", of: TensorType::from_id(2).expect("Q4_0"), shape: &[33] }, "as GGUF's Q4_0");
        assert!(GgufLayout::new(&[Entry::u32("general.alignment", 12)], &[]).is_err());
        assert!(GgufLayout::new(&[], &[f32s(&"n".repeat(63), &[1])]).is_ok());
    }
}
