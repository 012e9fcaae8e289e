//! Packed weights between files and devices: read, uploaded, downloaded and written, bit for bit.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use wgquant::checkpoint::{
    NewTensor, Override, PackedFile, PackedWriter, QuantizeOptions, Selection, Source, StoredDtype, quantize, verify,
};
use wgquant::{Container, Engine, Format, Packed};

/// Names that patterns would read otherwise, among them.
const NAMES: [&str; 4] = ["layer.0.weight", "odd[0]*{a}?", "back\\slash", "norm"];

/// Three matrices and a vector, in f32, bf16 and f16; the last weights do not fill a block of 64.
fn checkpoint(path: &Path) -> Result<()> {
    let value = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 300.0 - 1.5;
    let matrix = |n| (0..n).map(value).collect::<Vec<_>>();
    let tensors: [(&str, &str, Vec<usize>, Vec<u8>); 4] = [
        (NAMES[0], "F32", vec![160, 96], matrix(160 * 96).iter().flat_map(|x| x.to_le_bytes()).collect()),
        (
            NAMES[1],
            "BF16",
            vec![130, 32],
            matrix(130 * 32).iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        ),
        (
            NAMES[2],
            "F16",
            vec![70, 64],
            matrix(70 * 64).iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
        ),
        (NAMES[3], "F32", vec![96], matrix(96).iter().flat_map(|x| x.to_le_bytes()).collect()),
    ];
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    header.insert("__metadata__".to_owned(), serde_json::json!({ "format": "pt" }));
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.to_owned(), serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
        data.extend(bytes);
    }
    let header = serde_json::to_vec(&header)?;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    Ok(std::fs::write(path, file)?)
}

/// Every format with the containers of one file that hold it.
fn cases() -> impl Iterator<Item = (Format, Container)> {
    let containers = [Container::Native, Container::Gguf, Container::Mxfp4];
    let holds = |&(format, container): &(Format, Container)| format.info().containers.contains(&container);
    Format::ALL.iter().flat_map(move |&format| containers.map(|container| (format, container))).filter(holds)
}

/// Writes `out` as [`quantize`] wrote `path` from `original`, with weights that `through` takes somewhere and back.
fn write_again(
    (original, path, out): (&Source, &Path, &Path),
    container: Container,
    mut through: impl FnMut(Packed) -> Result<Packed>,
) -> Result<()> {
    let file = PackedFile::open(path)?;
    let format_of = |name: &str| file.weights().iter().find(|weight| weight.name == name).map(|weight| weight.format);
    let tensors: Vec<_> = original
        .tensors()
        .iter()
        .map(|tensor| NewTensor {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            dtype: tensor.dtype,
            format: format_of(&tensor.name),
        })
        .collect();
    let mut writer = PackedWriter::create(out, container, &tensors, original.metadata().clone(), false)?;
    for weight in file.weights() {
        let packed = through(file.read(weight)?)?;
        assert_eq!(writer.write(&weight.name, &packed)?, file.digest(weight)?);
    }
    for tensor in file.copied() {
        let mut bytes = vec![0; usize::try_from(tensor.n_bytes)?];
        file.source().read_at(tensor.offset, &mut bytes)?;
        writer.write_plain(&tensor.name, &bytes)?;
    }
    assert!(!out.exists(), "not before it is complete");
    Ok(writer.finish(false)?)
}

#[test]
fn files_go_to_devices_and_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (input, path, out) = (folder.path().join("in"), folder.path().join("packed"), folder.path().join("again"));
    checkpoint(&input)?;
    let original = Source::open(&input)?;
    let mut gpus: Vec<_> = common::adapter_names().iter().map(|name| common::open(name)).collect();
    for (format, container) in cases() {
        let overrides = NAMES[..3].iter().map(|name| {
            let pattern = globset::escape(name).replace('\\', "[\\]");
            Override { pattern, format: Some(format) }
        });
        let selection = Selection { overrides: overrides.collect(), ..Selection::default() };
        let options = QuantizeOptions { container, selection, force: true, ..QuantizeOptions::new(format) };
        pollster::block_on(quantize(&Engine::Cpu, &input, &path, &options, &mut |_| {}))?;
        for gpu in &mut gpus {
            write_again((&original, &path, &out), container, |packed| {
                let on_device = pollster::block_on(gpu.upload(&packed))?;
                Ok(pollster::block_on(gpu.download(&on_device))?)
            })
            .with_context(|| format!("{format} in {}", container.name()))?;
            assert!(std::fs::read(&out)? == std::fs::read(&path)?, "{format} in {} differs", container.name());
            assert_eq!(verify(&input, &out, &mut |_| {})?.first_mismatch(), None);
            std::fs::remove_file(&out)?;
        }
    }
    Ok(())
}

#[test]
fn a_damaged_weight_is_not_read_and_the_wrong_one_is_not_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (input, path, out) = (folder.path().join("in"), folder.path().join("packed"), folder.path().join("again"));
    checkpoint(&input)?;
    let options = QuantizeOptions::new(Format::Nf4Dq);
    pollster::block_on(quantize(&Engine::Cpu, &input, &path, &options, &mut |_| {}))?;
    let file = PackedFile::open(&path)?;
    let weight = file.weights().iter().find(|weight| weight.name == NAMES[0]).context("packed")?;
    let packed = file.read(weight)?;

    let tensor = |name: &str, shape: &[u64], format| {
        let (name, shape, dtype) = (name.to_owned(), shape.to_vec(), StoredDtype::F32);
        NewTensor { name, shape, dtype, format }
    };
    let two = [tensor("w", &[160, 96], Some(Format::Nf4Dq)), tensor("b", &[2], None)];
    let create =
        |tensors: &[NewTensor], container| PackedWriter::create(&out, container, tensors, BTreeMap::new(), false);
    let refused = |result: wgquant::Result<()>, wanted: &str| {
        let error = result.expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).map(Iterator::count).ok(), Some(2), "nothing is left: {error}");
    };
    let mut writer = create(&two, Container::Native)?;
    for (result, wanted) in [
        (writer.write("b", &packed).map(|_| ()), "was to be stored as it is"),
        (writer.write("c", &packed).map(|_| ()), "is none of the file's"),
        (writer.write_plain("w", &[0; 8]), "was to be packed"),
        (writer.write_plain("b", &[0; 7]), "was to be 8 bytes long, and has 7"),
        (
            writer.write("w", &wgquant::quantize(Format::Nf4, [1.0_f32; 160 * 96].as_slice())?).map(|_| ()),
            "15360 weights in nf4-dq, and has",
        ),
        (
            writer.write("w", &wgquant::quantize(Format::Nf4Dq, [1.0_f32; 64].as_slice())?).map(|_| ()),
            "and has 64 in nf4-dq",
        ),
    ] {
        let error = result.expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error}");
    }
    writer.write("w", &packed)?;
    refused(writer.finish(false), "\"b\"");
    refused(create(&two[1..], Container::Native).map(|_| ()), "none of its tensors is packed");
    refused(
        create(&[two[0].clone(), two[0].clone()], Container::Native).map(|_| ()),
        "two tensors are to have the name",
    );
    refused(create(&two, Container::Bnb).map(|_| ()), "makes a folder");
    refused(create(&two, Container::Gguf).map(|_| ()), "nf4-dq can't be written as gguf");
    let clash = [two[0].clone(), tensor("w.scales", &[2], None)];
    refused(create(&clash, Container::Native).map(|_| ()), "w.scales");
    refused(create(&[tensor("w", &[100, 3], Some(Format::Q4_0))], Container::Native).map(|_| ()), "q4_0");

    let mut bytes = std::fs::read(&path)?;
    let codes = packed.codes();
    let at = bytes.windows(codes.len()).position(|found| found == codes).context("its codes")?;
    bytes[at + 77] ^= 1;
    std::fs::write(&path, bytes)?;
    let file = PackedFile::open(&path)?;
    let damaged = file.weights().iter().find(|weight| weight.name == NAMES[0]).context("packed")?;
    let error = file.read(damaged).expect_err("damaged").to_string();
    assert!(error.contains("is damaged"), "{error}");
    Ok(())
}
