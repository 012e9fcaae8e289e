//! A journal that outlives its output, for who notes elsewhere that a job is done; and a folder whose weights lie elsewhere.

use std::path::Path;
use std::sync::Arc;

use wgquant::checkpoint::{QuantizeOptions, Source, Storage, plan_source, quantize, quantize_source, remove_journal};
use wgquant::{Container, Engine, Error, Format};

/// Two weights and a small tensor, in a safetensors file.
fn model() -> Vec<u8> {
    let mut header = String::from("{");
    let mut data: Vec<u8> = Vec::new();
    for (name, n) in [("a.weight", 8192_u32), ("b.weight", 16384), ("norm", 64)] {
        let start = data.len();
        let shape = if n == 64 { "[64]".to_owned() } else { format!("[{}, 128]", n / 128) };
        data.extend((0..n).flat_map(|i| (f32::from(u16::try_from(i % 977).unwrap()) / 977.0 - 0.5).to_le_bytes()));
        let end = data.len();
        header += &format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[{start},{end}]}},");
    }
    header.pop();
    header.push('}');
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_kept_journal_says_again_what_was_done() {
    for (container, output_is) in [(Container::Native, "a file"), (Container::Bnb, "a folder")] {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (folder.path().join("in"), folder.path().join("out"));
        // A model's folder, so that other files go with it where the output is one.
        std::fs::create_dir(&input).unwrap();
        std::fs::write(input.join("model.safetensors"), model()).unwrap();
        std::fs::write(input.join("tokenizer.json"), "{}").unwrap();
        let options = QuantizeOptions { container, keep_journal: true, ..QuantizeOptions::new(Format::Nf4) };
        let run = |options: &QuantizeOptions| {
            pollster::block_on(quantize(&Engine::Cpu, &input, &output, options, &mut |_| {}))
        };
        let first = run(&options).unwrap();
        assert_eq!(names(folder.path()), ["in", "out", "out.wgquant-journal"], "{output_is}");
        let again = run(&QuantizeOptions { resume: true, ..options.clone() }).unwrap();
        assert_eq!((first.n_resumed, again.n_resumed), (0, again.tensors.len()), "nothing is done twice");
        assert_eq!(format!("{:?}", first.tensors), format!("{:?}", again.tensors));
        // Another job is not taken for this one, and without `resume` an output is an output.
        let other = QuantizeOptions { format: Format::Fp4, resume: true, ..options.clone() };
        assert!(run(&other).unwrap_err().to_string().contains("begun with another format"));
        assert!(run(&options).unwrap_err().to_string().contains("exists already"));
        remove_journal(&output).unwrap();
        remove_journal(&output).unwrap();
        assert_eq!(names(folder.path()), ["in", "out"], "{output_is}");
        assert!(run(&QuantizeOptions { resume: true, ..options }).unwrap_err().to_string().contains("exists already"));
    }
}

/// The journal of an output that is not complete is another run's to go on with.
#[test]
fn the_journal_of_an_unfinished_output_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    std::fs::write(&input, model()).unwrap();
    let options = QuantizeOptions { keep_journal: true, ..QuantizeOptions::new(Format::Nf4) };
    let mut stop = |progress: wgquant::checkpoint::Progress<'_>| {
        if progress.tensor == "b.weight" {
            progress.stop();
        }
    };
    let stopped = pollster::block_on(quantize(&Engine::Cpu, &input, &output, &options, &mut stop)).unwrap_err();
    assert!(matches!(stopped.root(), Error::Stopped), "{stopped}");
    let left = names(folder.path());
    remove_journal(&output).unwrap();
    assert_eq!(names(folder.path()), left);
    assert!(left.contains(&"out.wgquant-journal".to_owned()), "{left:?}");
}

#[test]
fn a_folder_whose_weights_lie_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let small = folder.path().join("small");
    for place in [&whole, &small] {
        std::fs::create_dir(place).unwrap();
        std::fs::write(place.join("config.json"), "{\"model_type\":\"llama\"}").unwrap();
    }
    std::fs::write(whole.join("model.safetensors"), model()).unwrap();
    std::fs::write(small.join("model.safetensors"), "").unwrap();
    let open = |path: &Path| -> wgquant::Result<Arc<dyn Storage>> {
        assert_eq!(path, small.join("model.safetensors"));
        Ok(Arc::new(model()))
    };
    let source = Source::open_folder_with(&small, &open).unwrap();
    let options = QuantizeOptions { container: Container::Bnb, ..QuantizeOptions::new(Format::Nf4) };
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    let planned = plan_source(&source, &one, &options).unwrap();
    let done = pollster::block_on(quantize_source(&Engine::Cpu, &source, &one, &options, &mut |_| {})).unwrap();
    assert_eq!(planned.bytes_out, done.bytes_out);
    pollster::block_on(quantize(&Engine::Cpu, &whole, &other, &options, &mut |_| {})).unwrap();
    assert_eq!(names(&one), names(&other));
    for name in names(&one) {
        assert!(std::fs::read(one.join(&name)).unwrap() == std::fs::read(other.join(&name)).unwrap(), "{name}");
    }
}
