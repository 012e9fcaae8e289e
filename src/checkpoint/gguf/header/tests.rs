//! Hand-made headers: sound ones, and ones that were made to deceive.

use super::super::metadata::find;
use super::*;

/// The pieces of a file, so that each can be damaged.
#[derive(Clone)]
struct Made {
    start: Vec<u8>,
    counts: [u64; 2],
    entries: Vec<u8>,
    tensors: Vec<u8>,
    data_bytes: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat()
}

/// `dimensions` are as the file has them: innermost first.
fn tensor(name: &str, dimensions: &[u64], id: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend(u32::try_from(dimensions.len()).expect("few").to_le_bytes());
    bytes.extend(dimensions.iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend(id.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

fn array(of: u32, n: u64, elements: &[u8]) -> Vec<u8> {
    [&of.to_le_bytes()[..], &n.to_le_bytes(), elements].concat()
}

fn words() -> Vec<u8> {
    [text("<s>"), text(""), text("ä")].concat()
}

/// Entries of every kind, and two tensors: f32 of 3, and q4_0 of 2 rows of 64.
fn made() -> Made {
    let nested = array(ARRAY, 2, &[array(0, 2, &[1, 2]), array(STRING, 1, &text("x"))].concat());
    let entries = [
        entry("general.architecture", STRING, &text("llama")),
        entry("general.alignment", 4, &64_u32.to_le_bytes()),
        entry("words", ARRAY, &array(STRING, 3, &words())),
        entry("scores", ARRAY, &array(6, 2, &[0; 8])),
        entry("nested", ARRAY, &nested),
        entry("flag", 7, &[1]),
        entry("wide", 12, &[0; 8]),
    ];
    let tensors = [tensor("a", &[3], 0, 0), tensor("b.weight", &[64, 2], 2, 64)];
    Made {
        start: b"GGUF\x03\0\0\0".to_vec(),
        counts: [tensors.len() as u64, entries.len() as u64],
        entries: entries.concat(),
        tensors: tensors.concat(),
        data_bytes: 64 + 72,
    }
}

impl Made {
    fn header(&self) -> Vec<u8> {
        let [n_tensors, n_entries] = self.counts.map(u64::to_le_bytes);
        [&self.start[..], &n_tensors, &n_entries, &self.entries, &self.tensors].concat()
    }

    fn file(&self) -> Vec<u8> {
        let mut file = self.header();
        file.resize(file.len().next_multiple_of(64) + self.data_bytes, 0);
        file
    }

    fn with_entry(mut self, entry: &[u8]) -> Self {
        self.entries.extend(entry);
        self.counts[1] += 1;
        self
    }

    fn with_tensor(mut self, tensor: &[u8]) -> Self {
        self.tensors.extend(tensor);
        self.counts[0] += 1;
        self
    }

    fn refused(&self, wanted: &str) {
        refused(&self.file(), wanted);
    }
}

fn read(file: &[u8]) -> Result<Header> {
    Header::read(file, file.len() as u64)
}

fn refused(file: &[u8], wanted: &str) {
    let error = read(file).expect_err(wanted);
    assert!(matches!(error, Error::BadFile(_) | Error::Tensor { .. }), "{error:?}");
    assert!(error.to_string().contains(wanted), "{wanted:?} should be in: {error}");
}

#[test]
fn a_sound_file_is_read() {
    for version in [2, 3] {
        let mut made = made();
        made.start[4] = version;
        let header = read(&made.file()).expect("sound");
        assert_eq!(header.data_start, made.header().len().next_multiple_of(64) as u64);
        let [a, b] = &header.tensors[..] else { panic!("two tensors") };
        assert_eq!((&*a.name, a.of.name, &a.shape[..], a.offset, a.n_bytes), ("a", "F32", &[3][..], 0, 12));
        assert_eq!(
            (&*b.name, b.of.name, &b.shape[..], b.offset, b.n_bytes),
            ("b.weight", "Q4_0", &[2, 64][..], 64, 72)
        );
        assert_eq!(find(&header.metadata, "general.architecture").and_then(Entry::as_str), Some("llama"));
        assert_eq!(find(&header.metadata, "general.alignment").and_then(Entry::as_u32), Some(64));
        assert_eq!(find(&header.metadata, "words").map(|entry| &entry.value), Some(&array(STRING, 3, &words())));
        let again: Vec<_> =
            header.metadata.iter().flat_map(|entry| self::entry(&entry.key, entry.kind, &entry.value)).collect();
        assert_eq!(again, made.entries, "carried over bit for bit");
    }
    let empty = Made { counts: [0, 0], entries: Vec::new(), tensors: Vec::new(), ..made() };
    assert_eq!(read(&empty.header()).expect("sound").tensors, []);
}

/// Cut at every byte, it is refused; no byte of it that is changed makes the reader panic.
#[test]
fn damage_anywhere() {
    let file = made().file();
    for n_bytes in 0..file.len() {
        let error = read(&file[..n_bytes]).expect_err("cut short");
        assert!(error.to_string().contains("cut short"), "{n_bytes}: {error}");
    }
    for at in 0..made().header().len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut file = file.clone();
            file[at] = value;
            drop(read(&file));
        }
    }
}

/// A file that is shorter than it was said to be.
#[test]
fn a_file_that_shrinks() {
    let file = made().file();
    for n_bytes in 0..made().header().len() {
        let error = Header::read(&file[..n_bytes], file.len() as u64).expect_err("shrunk");
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
}

#[test]
fn starts_that_are_not_understood() {
    let start = |start: &[u8], wanted| Made { start: start.to_vec(), ..made() }.refused(wanted);
    start(b"ggjt\x03\0\0\0", "is no GGUF file");
    start(b"GGUF\x01\0\0\0", "has GGUF version 1");
    start(b"GGUF\x04\0\0\0", "has GGUF version 4, and this wgquant reads versions 2 and 3");
    start(b"GGUF\0\0\0\x03", "is a big-endian GGUF file");
}

#[test]
fn counts_and_lengths_beyond_the_file() {
    for n in [1 << 16, 1 << 32, 1 << 63, u64::MAX] {
        for ix in [0, 1] {
            let mut made = made();
            made.counts[ix] = n;
            made.refused("is cut short, or no sound GGUF file");
        }
        let (length, short) = (n.to_le_bytes(), "is cut short, or no sound GGUF file: its metadata");
        made().with_entry(&length).refused(short);
        made().with_entry(&entry("s", STRING, &length)).refused(short);
        for of in [0, 3, 6, 11, STRING, ARRAY] {
            made().with_entry(&entry("a", ARRAY, &array(of, n, &[]))).refused(short);
        }
        let strings = array(STRING, 2, &[text(""), length.to_vec()].concat());
        made().with_entry(&entry("s", ARRAY, &strings)).refused(short);
        made().with_tensor(&length).refused("its description of tensor 2 would end");
    }
}

#[test]
fn entries_that_are_none() {
    made().with_entry(&entry("flag", 7, &[0])).refused("has the metadata key \"flag\" twice");
    made().with_entry(&entry("k", 13, &[0])).refused("its metadata \"k\" has a value of type 13");
    made().with_entry(&entry("k", ARRAY, &array(99, 1, &[0; 8]))).refused("its metadata \"k\" has a value of type 99");
    let deep = (0..5).fold(array(0, 0, &[]), |inner, _| array(ARRAY, 1, &inner));
    made().with_entry(&entry("k", ARRAY, &deep)).refused("its metadata \"k\" has arrays within arrays");
    made().with_entry(&entry(&"k".repeat(65_536), 7, &[0])).refused("has a name of 65536 bytes");
    let mut no_utf8 = entry("k", 7, &[0]);
    no_utf8[8] = 0xff;
    made().with_entry(&no_utf8).refused("its metadata entry 7 has a name that is no UTF-8");
}

#[test]
fn alignments_that_are_none() {
    let aligned = |kind, value: &[u8], wanted: &str| {
        let entries = entry("general.alignment", kind, value);
        Made { counts: [2, 1], entries, ..made() }.refused(wanted);
    };
    for alignment in [0_u32, 1, 4, 12, 24, 96, 1 << 21, u32::MAX] {
        aligned(4, &alignment.to_le_bytes(), &format!("its general.alignment is {alignment}, and should be"));
    }
    aligned(5, &32_u32.to_le_bytes(), "its general.alignment is no u32");
    aligned(10, &32_u64.to_le_bytes(), "its general.alignment is no u32");
    aligned(STRING, &text("32"), "its general.alignment is no u32");
}

#[test]
fn tensors_that_cannot_be() {
    let with = |bytes: &[u8], wanted: &str| made().with_tensor(bytes).refused(wanted);
    with(&tensor("a", &[1], 0, 128), "has the tensor \"a\" twice");
    with(&tensor(&"n".repeat(65), &[1], 0, 128), "has a name of 65 bytes, and 64 are allowed");
    with(&tensor("c", &[1; 5], 0, 128), "tensor \"c\": it has 5 dimensions");
    with(&[text("c"), u32::MAX.to_le_bytes().to_vec()].concat(), "tensor \"c\": it has 4294967295 dimensions");
    for id in [4, 5, 31, 36, 42, u32::MAX] {
        with(&tensor("c", &[32], id, 128), &format!("tensor \"c\": it has type number {id}"));
    }
    with(&tensor("c", &[33], 2, 128), "tensor \"c\": it has type Q4_0 and shape [33]");
    for dimensions in [&[1 << 32, 1 << 32][..], &[u64::MAX], &[1 << 62], &[0, 2, 1 << 63]] {
        with(&tensor("c", dimensions, 0, 128), "which no file can hold");
    }
}

#[test]
fn tensors_where_they_cannot_lie() {
    let with = |bytes: &[u8], wanted: &str| made().with_tensor(bytes).refused(wanted);
    with(&tensor("c", &[1], 0, 32), "tensor \"c\": it starts at byte 32 of the data, no multiple of 64");
    with(&tensor("c", &[1], 0, 0), "it shares bytes with another tensor");
    with(&tensor("c", &[1], 0, 64), "it shares bytes with another tensor");
    with(&tensor("c", &[100], 0, 64), "tensor \"c\": it would end at byte");
    with(&tensor("c", &[100], 0, 192), "and the file has");
    for offset in [u64::MAX - 63, u64::MAX, (1 << 63) - 64] {
        let error =
            read(&made().with_tensor(&tensor("c", &[1 << 40], 0, offset)).file()).expect_err("beyond").to_string();
        assert!(error.contains("tensor \"c\": it "), "{error}");
    }
    // Without elements it lies nowhere.
    read(&made().with_tensor(&tensor("c", &[0], 0, 1)).file()).expect("sound");
}
