//! One job on several engines: the same bytes as on one, whoever does what; and what happens when devices are lost.

mod common;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wgquant::checkpoint::{DequantizeOptions, Progress, QuantizeOptions, QuantizeReport, dequantize, quantize};
use wgquant::{Engine, Error, Format, Result};

const N_TENSORS: usize = 24;
const ROWS: usize = 128;
const COLUMNS: usize = 1024;

/// A checkpoint of `N_TENSORS` matrices in `f32`; those of `broken` have a NaN near their end.
fn checkpoint(folder: &Path, broken: &[usize]) -> PathBuf {
    let n_bytes = ROWS * COLUMNS * 4;
    let entry = |n: usize| {
        let (start, end) = (n * n_bytes, (n + 1) * n_bytes);
        format!(r#""t{n:02}":{{"dtype":"F32","shape":[{ROWS},{COLUMNS}],"data_offsets":[{start},{end}]}}"#)
    };
    let header = format!("{{{}}}", (0..N_TENSORS).map(entry).collect::<Vec<_>>().join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    for tensor in 0..N_TENSORS {
        for element in 0..ROWS * COLUMNS {
            let value = f32::from(u16::try_from((element * 7919 + tensor * 104_729) % 65_521).expect("small")) - 3e4;
            let is_nan = broken.contains(&tensor) && element == ROWS * COLUMNS - 7;
            bytes.extend(if is_nan { f32::NAN } else { value }.to_le_bytes());
        }
    }
    let path = folder.join("in");
    std::fs::write(&path, bytes).expect("a temporary folder");
    path
}

/// Small pieces, so that a device can be lost within a tensor.
fn gpu(name: &str) -> Engine {
    Engine::Gpu(common::open(name).with_max_chunk_bytes(64 << 10))
}

fn device(engine: &Engine) -> wgpu::Device {
    let Engine::Gpu(gpu) = engine else { unreachable!("a GPU") };
    gpu.device().clone()
}

struct Run {
    folder: tempfile::TempDir,
    input: PathBuf,
    output: PathBuf,
}

impl Run {
    fn new(broken: &[usize]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (input, output) = (checkpoint(folder.path(), broken), folder.path().join("out"));
        Self { folder, input, output }
    }

    fn quantize(
        &self,
        engines: &[Engine],
        format: Format,
        resume: bool,
        mut progress: impl FnMut(Progress<'_>) + Send,
    ) -> Result<QuantizeReport> {
        let options = QuantizeOptions { resume, ..QuantizeOptions::new(format) };
        pollster::block_on(quantize(engines, &self.input, &self.output, &options, &mut progress))
    }

    /// The output, which goes away.
    fn take(&self) -> Vec<u8> {
        let bytes = std::fs::read(&self.output).expect("an output");
        std::fs::remove_file(&self.output).expect("an output");
        assert_eq!(self.names(), ["in"], "nothing else is left");
        bytes
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).expect("a folder");
        let mut names: Vec<_> =
            entries.map(|e| e.expect("an entry").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }
}

/// Every adapter and the CPU path together.
#[test]
fn the_bytes_are_those_of_one_engine() {
    let run = Run::new(&[]);
    for format in [Format::Sym4, Format::Nf4Dq] {
        run.quantize(&[Engine::Cpu], format, false, |_| {}).expect("finite");
        let expected = run.take();
        let mut engines: Vec<_> = common::adapter_names().iter().map(|name| gpu(name)).collect();
        engines.push(Engine::Cpu);
        let (mut threads, mut last) = (HashSet::new(), 0);
        let report = run.quantize(&engines, format, false, |progress| {
            threads.insert(std::thread::current().id());
            assert!(progress.done_bytes > last, "bytes are counted once");
            last = progress.done_bytes;
        });
        let report = report.expect("finite");
        assert!(threads.len() > 1, "{format}: one engine did everything");
        assert_eq!(last, (N_TENSORS * ROWS * COLUMNS * 4) as u64);
        assert_eq!(report.adapter, Engine::description_of(&engines));
        assert_eq!(report.adapter.matches(" + ").count(), engines.len() - 1);
        assert_eq!(report.notices, [""; 0]);
        let names: Vec<_> = report.tensors.iter().map(|tensor| tensor.name.clone()).collect();
        assert!(names.is_sorted() && names.len() == N_TENSORS, "{names:?}");
        let back = |engines: &[Engine]| {
            let (path, options) = (run.folder.path().join("back"), DequantizeOptions::default());
            pollster::block_on(dequantize(engines, &run.output, &path, options, &mut |_| {})).expect("whole");
            let bytes = std::fs::read(&path).expect("an output");
            std::fs::remove_file(&path).expect("an output");
            bytes
        };
        assert!(back(&engines) == back(&[Engine::Cpu]), "{format}: other values");
        assert!(run.take() == expected, "{format}: another file");
    }
}

/// One of two engines loses its device within a tensor: the other does that tensor again and the rest.
#[test]
fn the_others_do_what_a_lost_device_has_left() {
    let run = Run::new(&[]);
    run.quantize(&[Engine::Cpu], Format::Sym4, false, |_| {}).expect("finite");
    let expected = run.take();
    for name in common::adapter_names() {
        for lose in [true, false] {
            let engines = [gpu(&name), Engine::Cpu];
            let device = device(&engines[0]);
            let (mut n_calls, mut done_bytes) = (0, 0);
            let report = run.quantize(&engines, Format::Sym4, false, |progress| {
                n_calls += 1;
                done_bytes = progress.done_bytes;
                if n_calls == 1 && lose {
                    // Both have a tensor by then, and wait here once they have done a piece.
                    std::thread::sleep(Duration::from_millis(300));
                    device.destroy();
                }
            });
            let notices = report.expect("the CPU does it").notices;
            assert_eq!(done_bytes, (N_TENSORS * ROWS * COLUMNS * 4) as u64, "{name}: what was lost is not counted");
            if lose {
                assert_eq!(notices.len(), 1, "{name}");
                assert!(notices[0].contains(" was lost while working ("), "{name}: {notices:?}");
                assert!(notices[0].ends_with("so the other devices did its work"), "{name}: {notices:?}");
            } else {
                assert_eq!(notices, [""; 0], "{name}");
            }
            assert!(run.take() == expected, "{name}: another file");
        }
    }
}

/// No engine is left, be it the only one or the last: what is done is kept, and another run goes on with it.
#[test]
fn a_job_without_devices_can_be_resumed() {
    let run = Run::new(&[]);
    run.quantize(&[Engine::Cpu], Format::Sym4, false, |_| {}).expect("finite");
    let expected = run.take();
    for name in common::adapter_names() {
        for n_engines in [1, 2] {
            let engines: Vec<_> = (0..n_engines).map(|_| gpu(&name)).collect();
            let devices: Vec<_> = engines.iter().map(device).collect();
            let error = run.quantize(&engines, Format::Sym4, false, |progress| {
                // Within the fourth tensor or a later one.
                if progress.done_bytes > (7 * ROWS * COLUMNS * 4 / 2) as u64 {
                    devices.iter().for_each(wgpu::Device::destroy);
                }
            });
            let error = error.expect_err("no device is left");
            assert!(matches!(error.root(), Error::DeviceLost { .. }), "{name}: {error}");
            let Error::Kept { n_done, .. } = error else { panic!("{name}: nothing is kept: {error}") };
            assert!(error.to_string().contains(&format!("; {n_done} finished tensors are kept in ")), "{error}");
            let report = run.quantize(&[Engine::Cpu], Format::Sym4, true, |_| {}).expect("finite");
            assert_eq!(report.n_resumed, n_done, "{name}");
            assert!(n_done > 0 && n_done < N_TENSORS, "{name}: {n_done}");
            assert!(run.take() == expected, "{name}: another file");
        }
    }
}

/// Of two tensors with a NaN the first is named, and none of the output remains.
#[test]
fn the_first_of_several_errors() {
    let run = Run::new(&[4, 5]);
    for _ in 0..10 {
        let engines = [Engine::Cpu, Engine::Cpu];
        let error = run.quantize(&engines, Format::Sym8, false, |_| {}).expect_err("two are broken").to_string();
        assert!(error.contains("tensor \"t04\": element 131065 is NaN"), "{error}");
        assert_eq!(run.names(), ["in"]);
    }
}

/// A job that is told to stop keeps what it has, and leaves nothing where that is nothing; one that is given up never does.
#[test]
fn a_job_that_is_stopped() {
    let run = Run::new(&[]);
    for engines in [&[Engine::Cpu][..], &[Engine::Cpu, Engine::Cpu]] {
        let error = run.quantize(engines, Format::Sym4, false, |progress| progress.stop()).expect_err("stopped");
        assert!(matches!(error, Error::Stopped), "{error}");
        assert_eq!(run.names(), ["in"]);
        let half = |progress: &Progress<'_>| progress.done_bytes > (N_TENSORS / 2 * ROWS * COLUMNS * 4) as u64;
        let error = run.quantize(engines, Format::Sym4, false, |progress| {
            if half(&progress) {
                progress.give_up();
            }
        });
        assert!(matches!(error.expect_err("given up"), Error::GivenUp));
        assert_eq!(run.names(), ["in"]);
        let error = run.quantize(engines, Format::Sym4, false, |progress| {
            if half(&progress) {
                progress.stop();
            }
        });
        let error = error.expect_err("stopped");
        let Error::Kept { ref source, n_done, .. } = error else { panic!("nothing is kept: {error}") };
        assert!(matches!(**source, Error::Stopped) && n_done > N_TENSORS / 3, "{error}");
        let report = run.quantize(engines, Format::Sym4, true, |_| {}).expect("finite");
        assert_eq!(report.n_resumed, n_done);
        run.take();
    }
}
