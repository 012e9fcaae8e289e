//! There and back.

use wgquant::checkpoint::{PackedFile, Source};
use wgquant::{Dtype, Format, Weights};

use crate::common::{Folder, Tensor, file, file_at, floats, mixed, tensor};

/// The bytes of a tensor in a file.
fn bytes_of(file: &Source, name: &str) -> Vec<u8> {
    let tensor = file.tensors().iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}"));
    let mut bytes = vec![0; usize::try_from(tensor.n_bytes).unwrap()];
    file.read_at(tensor.offset, &mut bytes).unwrap();
    bytes
}

/// What the reference makes of a tensor.
fn packed(format: Format, tensor: &Tensor) -> wgquant::Packed {
    let dtype = Dtype::from_name(tensor.dtype).unwrap();
    wgquant::quantize(format, Weights::from_le_bytes(dtype, &tensor.bytes).unwrap()).unwrap()
}

const WEIGHTS: [&str; 3] = ["a.weight", "b.weight", "c.weight"];

/// Three types through both formats: parts, digests and dequantized values are the reference's, and the rest is as it was.
#[test]
fn three_types() {
    for &format in Format::ALL {
        let mut mixed = mixed();
        if format.info().whole_blocks {
            // Rows that are cut short are refused, unless they may be copied.
            let folder = Folder::with("in", &file_at(&mixed, &[], 0));
            let quantize = ["quantize", "in", "-o", "out", "--device", "cpu", "--format", format.name()];
            folder.fails(1, &quantize, "tensor \"a.weight\" has rows of 61 elements");
            let report = folder.quantize(format.name(), &["--copy-unfit"]);
            assert!(report["tensors"].as_array().unwrap().iter().all(|tensor| tensor["action"] == "copied"));
            for (name, shape) in
                [("a.weight", vec![70, 64]), ("b.weight", vec![65, 96]), ("c.weight", vec![2, 3, 1024])]
            {
                let old = mixed.iter_mut().find(|tensor| tensor.name == name).unwrap();
                *old = floats(old.name, old.dtype, &shape, 5);
            }
        }
        let mixed = || mixed.iter();
        let folder =
            Folder::with("in", &file_at(&mixed().cloned().collect::<Vec<_>>(), &[("format", "pt"), ("a", "1")], 0));
        let report = folder.quantize(format.name(), &["--verify", "full"]);
        folder.ok(&["verify", "in", "out"]);
        folder.ok(&["dequantize", "out", "-o", "back", "--device", "cpu"]);
        folder.ok(&["dequantize", "out", "-o", "wide", "--device", "cpu", "--dtype", "f32"]);
        let native = PackedFile::open(&folder.path("out")).unwrap();
        let (back, wide) = (folder.path("back"), folder.path("wide"));
        let (back, wide) = (Source::open(&back).unwrap(), Source::open(&wide).unwrap());
        assert_eq!(back.metadata(), Source::open(&folder.path("in")).unwrap().metadata());
        assert_eq!(report["tensors"].as_array().unwrap().len(), mixed().count());

        for (tensor, entry) in mixed().zip(report["tensors"].as_array().unwrap()) {
            assert_eq!(entry["name"], tensor.name);
            if !WEIGHTS.contains(&tensor.name) {
                assert_eq!(entry["action"], "copied");
                assert_eq!(bytes_of(native.source(), tensor.name), tensor.bytes);
                assert_eq!(bytes_of(&back, tensor.name), tensor.bytes);
                continue;
            }
            let expected = packed(format, tensor);
            assert_eq!(entry["action"], "quantized");
            let digest: String = expected.digest().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(entry["digest"], *digest);
            assert_eq!(bytes_of(native.source(), tensor.name), expected.codes());
            assert_eq!(bytes_of(native.source(), &format!("{}.scales", tensor.name)), expected.scales());
            assert_eq!(bytes_of(native.source(), &format!("{}.blake3", tensor.name)), expected.digest());
            if let Some(nested) = expected.nested() {
                let part = |part| bytes_of(native.source(), &format!("{}.{part}", tensor.name));
                let absmax: Vec<_> = nested.absmax.iter().flat_map(|absmax| absmax.to_le_bytes()).collect();
                assert_eq!(
                    (part("nested_absmax"), part("nested_offset")),
                    (absmax, nested.offset.to_le_bytes().to_vec())
                );
            }
            let dtype = Dtype::from_name(tensor.dtype).unwrap();
            assert_eq!(bytes_of(&back, tensor.name), wgquant::dequantize(&expected, dtype).unwrap());
            assert_eq!(bytes_of(&wide, tensor.name), wgquant::dequantize(&expected, Dtype::F32).unwrap());
            let info = back.tensors().iter().find(|info| info.name == tensor.name).unwrap();
            assert_eq!((&info.shape, info.dtype.to_string()), (&tensor.shape, tensor.dtype.to_owned()));
        }
    }
}

/// Other readers open what comes out, and every tensor in it is aligned for its type.
#[test]
fn outputs_are_sound_and_aligned() {
    let folder = Folder::with("in", &file_at(&mixed(), &[], 3));
    folder.quantize("sym8", &[]);
    folder.ok(&["dequantize", "out", "-o", "back", "--device", "cpu"]);
    for name in ["out", "back"] {
        let bytes = folder.read(name);
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(header % 8, 0);
        for tensor in Source::open(&folder.path(name)).unwrap().tensors() {
            let width = (tensor.dtype.bitsize() / 8) as u64;
            assert_eq!(tensor.offset % width, 0, "{name}: {tensor:?}");
        }
    }
    let native = Source::open(&folder.path("out")).unwrap();
    let kinds: Vec<_> = native.tensors().iter().map(|tensor| tensor.name.rsplit('.').next().unwrap()).collect();
    assert_eq!(kinds[kinds.len() - 3..], ["blake3"; 3], "digests stand last");
}

/// Neither where it runs, nor where tensors lie, nor how much is verified changes a byte.
#[test]
fn the_same_file_every_time() {
    let folder = Folder::with("in", &file(&mixed()));
    folder.quantize("sym4", &[]);
    let first = folder.read("out");
    folder.quantize("sym4", &["--force", "--verify", "none"]);
    assert_eq!(folder.read("out"), first);
    folder.quantize("sym4", &["--force", "--verify", "full", "--sync"]);
    assert_eq!(folder.read("out"), first);
    for odd in 1..8 {
        folder.write("in", &file_at(&mixed(), &[], odd));
        folder.quantize("sym4", &["--force", "--verify", "full"]);
        assert_eq!(folder.read("out"), first, "header of {odd} bytes modulo 8");
    }
}

/// A tensor behind one odd byte lies misaligned wherever the header ends.
#[test]
fn misaligned_tensors() {
    let weights =
        [floats("f", "F32", &[65, 65], 1), floats("h", "F16", &[65, 65], 2), floats("g", "BF16", &[65, 65], 3)];
    let odd_byte = tensor("odd", "U8", &[1], vec![7]);
    let folder = Folder::with("in", &file(&[&[odd_byte][..], &weights].concat()));
    folder.quantize("sym4", &["--verify", "full"]);
    let native = PackedFile::open(&folder.path("out")).unwrap();
    for tensor in &weights {
        assert_eq!(bytes_of(native.source(), tensor.name), packed(Format::Sym4, tensor).codes());
    }
}

/// More than one piece of the engine, of copies and of comparisons; more blocks than a sample looks at.
#[test]
fn a_tensor_of_several_pieces() {
    let big = floats("big", "F32", &[1 << 11, 1025], 5);
    let copied = floats("copied", "F64", &[400_000], 6);
    let folder = Folder::with("in", &file(&[big.clone(), copied.clone()]));
    for format in [Format::Sym8, Format::Nf4Dq] {
        for verify in ["sample", "full"] {
            let report = folder.quantize(format.name(), &["--force", "--verify", verify]);
            assert_eq!(report["tensors"][0]["verified"], verify);
        }
        let native = PackedFile::open(&folder.path("out")).unwrap();
        let expected = packed(format, &big);
        assert_eq!(bytes_of(native.source(), "big"), expected.codes());
        assert_eq!(bytes_of(native.source(), "big.scales"), expected.scales());
        assert_eq!(bytes_of(native.source(), "big.blake3"), expected.digest());
        assert_eq!(bytes_of(native.source(), "copied"), copied.bytes);
        folder.ok(&["verify", "in", "out"]);
        folder.ok(&["dequantize", "out", "-o", "back", "--device", "cpu", "--force"]);
        let back = Source::open(&folder.path("back")).unwrap();
        assert_eq!(bytes_of(&back, "big"), wgquant::dequantize(&expected, Dtype::F32).unwrap());
    }
}

/// Nothing becomes infinity unseen.
#[test]
fn dequantizing_beyond_the_range_is_refused() {
    let mut weights = floats("w", "F32", &[64, 64], 1);
    weights.bytes[400..404].copy_from_slice(&70000_f32.to_le_bytes());
    let folder = Folder::with("in", &file(&[weights]));
    folder.quantize("sym4", &[]);
    let args = ["dequantize", "out", "-o", "back", "--device", "cpu", "--dtype", "f16"];
    let sentence = folder.fails(1, &args, "tensor \"w\": element 100 dequantizes to 7e4");
    assert!(sentence.contains("--dtype f32 or bf16"), "{sentence}");
}
