//! Jobs on bytes that lie elsewhere than in files.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use wgquant::checkpoint::{
    DequantizeOptions, PackedFile, QuantizeOptions, Source, Storage, dequantize, dequantize_into, histograms_of,
    inspect_source, quantize, quantize_into, verify_packed,
};
use wgquant::verify::Verify;
use wgquant::{Container, Engine, Format};

/// Memory that can be written, up to a length.
#[derive(Debug)]
struct Memory {
    bytes: Mutex<Vec<u8>>,
    max_bytes: usize,
}

impl Memory {
    fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::new(Vec::new()), max_bytes })
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().expect("no thread panics").clone()
    }
}

impl Storage for Memory {
    fn n_bytes(&self) -> std::io::Result<u64> {
        Ok(self.bytes.lock().expect("no thread panics").len() as u64)
    }

    fn read_range(&self, at: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.bytes.lock().expect("no thread panics").read_range(at, out)
    }

    fn write_range(&self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        let at = usize::try_from(at).expect("small");
        if at + bytes.len() > self.max_bytes {
            return Err(ErrorKind::StorageFull.into());
        }
        self.bytes.lock().expect("no thread panics")[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn set_n_bytes(&self, n_bytes: u64) -> std::io::Result<()> {
        self.bytes.lock().expect("no thread panics").resize(usize::try_from(n_bytes).expect("small"), 0);
        Ok(())
    }
}

/// A safetensors file of three tensors, one of which stays as it is.
fn checkpoint() -> Vec<u8> {
    let weights: Vec<u8> =
        (0..96 * 64_u32).flat_map(|i| (((i * 37) % 101) as f32 / 50.0 - 1.0).to_le_bytes()).collect();
    let halves: Vec<u8> =
        (0..64 * 64_u32).flat_map(|i| half::bf16::from_f32((i % 89) as f32 - 44.0).to_le_bytes()).collect();
    let (n, m) = (weights.len(), weights.len() + halves.len());
    let header = format!(
        r#"{{"a.weight":{{"dtype":"F32","shape":[96,64],"data_offsets":[0,{n}]}},"b":{{"dtype":"BF16","shape":[64,64],"data_offsets":[{n},{m}]}},"c":{{"dtype":"I64","shape":[2],"data_offsets":[{m},{}]}}}}"#,
        m + 16
    );
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(weights);
    file.extend(halves);
    file.extend([7; 16]);
    file
}

fn in_memory(bytes: Vec<u8>, name: &str) -> Result<Source> {
    Ok(Source::from_storage(Arc::new(bytes), Path::new(name))?)
}

#[test]
fn storage_gets_the_bytes_that_a_file_gets() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (input, output, back) = (folder.path().join("in"), folder.path().join("out"), folder.path().join("back"));
    std::fs::write(&input, checkpoint())?;
    let source = in_memory(checkpoint(), "body")?;
    for &format in Format::ALL {
        for container in [Container::Native, Container::Gguf, Container::Mxfp4] {
            if !format.info().containers.contains(&container) {
                continue;
            }
            let options = QuantizeOptions { container, force: true, ..QuantizeOptions::new(format) };
            let in_file = pollster::block_on(quantize(&Engine::Cpu, &input, &output, &options, &mut |_| {}))?;
            let memory = Memory::new(usize::MAX);
            let stored = pollster::block_on(quantize_into(
                &Engine::Cpu,
                &source,
                Arc::<Memory>::clone(&memory),
                &options,
                &mut |_| {},
            ))?;
            assert!(memory.bytes() == std::fs::read(&output)?, "{format} {}", container.name());
            assert_eq!(in_file.bytes_out, stored.bytes_out);

            let packed = PackedFile::from_source(in_memory(memory.bytes(), "packed")?)?;
            assert_eq!(verify_packed(&source, &packed, &mut |_| {})?.first_mismatch(), None);
            let options = DequantizeOptions { force: true, ..DequantizeOptions::default() };
            pollster::block_on(dequantize(&Engine::Cpu, &output, &back, options, &mut |_| {}))?;
            let memory = Memory::new(usize::MAX);
            let out = Arc::<Memory>::clone(&memory);
            pollster::block_on(dequantize_into(&Engine::Cpu, &packed, out, options, &mut |_| {}))?;
            assert!(memory.bytes() == std::fs::read(&back)?, "{format} {}", container.name());
            assert_eq!(inspect_source(in_memory(memory.bytes(), "back")?)?.tensors.len(), 3);
        }
    }
    Ok(())
}

#[test]
fn storage_can_refuse_and_folders_are_refused() -> Result<()> {
    let source = in_memory(checkpoint(), "body")?;
    let run = |storage: Arc<dyn Storage>, options: &QuantizeOptions| {
        let run = async { quantize_into(&Engine::Cpu, &source, storage, options, &mut |_| {}).await };
        pollster::block_on(run).expect_err("refused").to_string()
    };
    let options = QuantizeOptions::new(Format::Nf4);
    let full = run(Memory::new(2000), &options);
    assert!(full.contains("can't be written"), "{full}");
    let read_only = run(Arc::new(Vec::new()), &options);
    assert!(read_only.contains("can't be written"), "{read_only}");
    let folder = run(Memory::new(usize::MAX), &QuantizeOptions { container: Container::Bnb, ..options.clone() });
    assert!(folder.contains("makes a folder"), "{folder}");
    let shards = run(Memory::new(usize::MAX), &QuantizeOptions { shard_size: Some(1), ..options });
    assert!(shards.contains("makes a folder"), "{shards}");

    let short = checkpoint();
    let cut = in_memory(short[..short.len() - 1].to_vec(), "body").expect_err("cut short").to_string();
    assert!(cut.contains("body") && cut.contains("cut short"), "{cut}");
    let packed = PackedFile::from_source(in_memory(checkpoint(), "body")?).expect_err("plain").to_string();
    assert!(packed.contains("was not quantized"), "{packed}");
    Ok(())
}

/// Memory in which one byte never holds what is written.
#[derive(Debug)]
struct Faulty {
    memory: Arc<Memory>,
    at: usize,
}

impl Storage for Faulty {
    fn n_bytes(&self) -> std::io::Result<u64> {
        self.memory.n_bytes()
    }

    fn read_range(&self, at: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.memory.read_range(at, out)
    }

    fn write_range(&self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        let mut bytes = bytes.to_vec();
        let place = self.at.wrapping_sub(usize::try_from(at).expect("small"));
        if let Some(byte) = bytes.get_mut(place) {
            *byte ^= 0x10;
        }
        self.memory.write_range(at, &bytes)
    }

    fn set_n_bytes(&self, n_bytes: u64) -> std::io::Result<()> {
        self.memory.set_n_bytes(n_bytes)
    }
}

/// Full verification finds a fault of the disk in whatever was written: codes, scales, nested scales, digests, copies.
#[test]
fn what_reads_back_otherwise_is_found() -> Result<()> {
    let source = in_memory(checkpoint(), "body")?;
    for format in [Format::Sym4, Format::Nf4Dq, Format::Q4_0] {
        for container in [Container::Native, Container::Gguf] {
            if !format.info().containers.contains(&container) {
                continue;
            }
            let options = QuantizeOptions { container, verify: Verify::Full, ..QuantizeOptions::new(format) };
            let run = |storage: Arc<dyn Storage>| {
                pollster::block_on(async { quantize_into(&Engine::Cpu, &source, storage, &options, &mut |_| {}).await })
            };
            let sound = Memory::new(usize::MAX);
            run(Arc::<Memory>::clone(&sound))?;
            let file = in_memory(sound.bytes(), "sound")?;
            let n_bytes = usize::try_from(file.n_bytes())?;
            let first = n_bytes - usize::try_from(file.data_bytes())?;
            let covered = |at: usize| {
                let at = (at - first) as u64;
                file.tensors().iter().any(|tensor| (tensor.offset..tensor.offset + tensor.n_bytes).contains(&at))
            };
            for at in (first..n_bytes).step_by(43).filter(|&at| covered(at)) {
                let memory = Memory::new(usize::MAX);
                let error = run(Arc::new(Faulty { memory, at }));
                assert!(error.is_err(), "{format} in {}: the fault at byte {at} went unnoticed", container.name());
            }
        }
    }
    Ok(())
}

/// Every value is counted once before and once after, and the bounds are refused.
#[test]
fn histograms_count_every_value() -> Result<()> {
    let original = in_memory(checkpoint(), "model.safetensors")?;
    let (output, options) = (Memory::new(1 << 20), QuantizeOptions::new(Format::Sym8));
    pollster::block_on(quantize_into(&Engine::Cpu, &original, Arc::<Memory>::clone(&output), &options, &mut |_| {}))?;
    let packed = PackedFile::from_source(in_memory(output.bytes(), "packed.safetensors")?)?;
    let count = |names: &[&str], n_bins| histograms_of((&original, &packed), names, n_bins, &mut |_| {});
    for histogram in count(&["a.weight"], 7)? {
        assert_eq!((histogram.before.len(), histogram.after.len()), (7, 7));
        assert_eq!((histogram.before.iter().sum::<u64>(), histogram.after.iter().sum::<u64>()), (96 * 64, 96 * 64));
        assert!(histogram.min >= -1.01 && histogram.max <= 1.01, "{histogram:?}");
        // Its values are spread evenly.
        assert!(histogram.before.iter().all(|&n| (600..1200).contains(&n)), "{histogram:?}");
    }
    for n_bins in [0, (1 << 16) + 1, usize::MAX] {
        let refused = count(&["a.weight"], n_bins).expect_err("no number of bins").to_string();
        assert!(refused.contains("1 to 65536 bins"), "{refused}");
    }
    let refused = count(&["c"], 7).expect_err("no weight").to_string();
    assert!(refused.contains('c') && refused.contains("is no weight of one shape"), "{refused}");
    Ok(())
}
