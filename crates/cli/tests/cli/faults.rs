//! What may go wrong while a job runs: signals, and shards that go away.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::common::{Folder, file, floats, raw_file, stderr};

const UNFINISHED: &str = "out.wgquant-unfinished";
const JOURNAL: &str = "out.wgquant-journal";
const QUANTIZE: [&str; 11] =
    ["quantize", "in", "-o", "out", "--device", "cpu", "--verify", "full", "--format", "sym4", "--quiet"];
const LAST_SHARD: &str = "in/model-00002-of-00002.safetensors";

/// A model of many tensors in two shards; the last one's are read at the end of a job.
fn sharded() -> Folder {
    const NAMES: [[&str; 10]; 2] = [
        ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9"],
        ["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b9"],
    ];
    let folder = Folder::new();
    std::fs::create_dir(folder.path("in")).unwrap();
    let mut weight_map = json!({});
    for (number, names) in NAMES.iter().enumerate() {
        let shard = format!("model-0000{}-of-00002.safetensors", number + 1);
        let tensors: Vec<_> =
            names.iter().zip(1..).map(|(name, seed)| floats(name, "F32", &[512, 1000], seed)).collect();
        folder.write(&format!("in/{shard}"), &file(&tensors));
        for name in names {
            weight_map[name] = json!(shard);
        }
    }
    folder.write("in/model.safetensors.index.json", json!({ "weight_map": weight_map }).to_string().as_bytes());
    folder
}

fn start(folder: &Folder, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgquant"));
    command.args(args).current_dir(folder.root()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn n_done(folder: &Folder) -> usize {
    std::fs::read_to_string(folder.path(JOURNAL)).unwrap_or_default().matches("{\"done\"").count()
}

/// Runs a job and does something to it as soon as `is_time`; `None` where it was quicker. Tried until it works.
fn disturbed(
    folder: &Folder,
    args: &[&str],
    is_time: impl Fn() -> bool,
    disturb: impl Fn(&Child),
    was_quicker: impl Fn(&Output) -> bool,
) -> Output {
    for _ in 0..50 {
        let mut child = start(folder, args);
        while !is_time() && child.try_wait().unwrap().is_none() {}
        disturb(&child);
        let output = child.wait_with_output().unwrap();
        if !was_quicker(&output) {
            return output;
        }
        for name in ["out", "back"] {
            let path = folder.path(name);
            let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
    }
    panic!("the run was never slow enough to be disturbed");
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    // It may have ended by itself.
    let _ = sent;
}

fn read_all(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> =
        entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect();
    files.sort();
    files
}

/// Ctrl-C and SIGTERM: one sentence, the shell's exit code, and what is done is kept.
#[test]
fn signals_leave_something_to_go_on_with() {
    let folder = sharded();
    folder.ok(&QUANTIZE);
    let expected = read_all(&folder.path("out"));
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        std::fs::remove_dir_all(folder.path("out")).unwrap();
        let is_time = || n_done(&folder) >= 2;
        let output =
            disturbed(&folder, &QUANTIZE, is_time, |child| send(signal, child), |output| output.status.success());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        let n_done = n_done(&folder);
        let wanted = format!(
            "error: it was stopped before it was done; {n_done} finished tensors are kept in {UNFINISHED}: run it again \
             with --resume\n"
        );
        assert_eq!(text, wanted);
        let args: Vec<_> = QUANTIZE.iter().copied().filter(|&arg| arg != "--quiet").chain(["--resume"]).collect();
        assert_eq!(folder.json(&args)["resumed"], n_done);
        assert!(read_all(&folder.path("out")) == expected, "{signal}: another file");
        assert_eq!(folder.names(), ["in", "out"]);
    }
}

/// `dequantize` leaves nothing of its output, and `verify` ends as well.
#[test]
fn signals_end_other_commands() {
    const N_BYTES: u64 = 512 << 20;
    let header = format!(r#"{{"w":{{"dtype":"F32","shape":[{},1024],"data_offsets":[0,{N_BYTES}]}}}}"#, N_BYTES / 4096);
    let folder = Folder::with("in", &raw_file(&header, &[], 0));
    let input = std::fs::OpenOptions::new().append(true).open(folder.path("in")).unwrap();
    input.set_len(input.metadata().unwrap().len() + N_BYTES).unwrap();
    folder.quantize("sym8", &["--verify", "none"]);
    let dequantize = ["dequantize", "out", "-o", "back", "--device", "cpu", "--quiet"];
    let verify = ["verify", "in", "out", "--quiet"];
    let keep = folder.read("out").len();
    for (args, is_time) in [
        (&dequantize[..], &(|| folder.path("back.wgquant-unfinished").exists()) as &dyn Fn() -> bool),
        (&verify, &|| {
            std::thread::sleep(Duration::from_millis(20));
            true
        }),
    ] {
        let mut code = None;
        for _ in 0..20 {
            let mut child = start(&folder, args);
            while !is_time() && child.try_wait().unwrap().is_none() {}
            std::thread::sleep(Duration::from_millis(20));
            send("-TERM", &child);
            let output = child.wait_with_output().unwrap();
            code = output.status.code();
            if code == Some(143) {
                assert_eq!(stderr(&output), "error: it was stopped before it was done\n", "{args:?}");
                break;
            }
            // Sooner than it listens, or later than it works.
            let _ = std::fs::remove_file(folder.path("back"));
        }
        assert_eq!(code, Some(143), "{args:?}");
        let names: Vec<_> = folder.names();
        assert_eq!(names, ["in", "out"], "{args:?}");
        assert_eq!(folder.read("out").len(), keep);
    }
}

/// A shard that is removed while it is open can still be read: the job ends well, with all of its bytes.
#[cfg(unix)]
#[test]
fn a_shard_that_is_removed_during_the_run() {
    let folder = sharded();
    folder.ok(&QUANTIZE);
    let expected = read_all(&folder.path("out"));
    std::fs::remove_dir_all(folder.path("out")).unwrap();
    let shard = folder.read(LAST_SHARD);
    let remove = |_: &Child| std::fs::remove_file(folder.path(LAST_SHARD)).unwrap();
    let output = disturbed(
        &folder,
        &QUANTIZE,
        || n_done(&folder) >= 1,
        remove,
        |output| {
            let in_time = output.status.success();
            folder.write(LAST_SHARD, &shard);
            !in_time
        },
    );
    assert_eq!(stderr(&output), "");
    assert!(read_all(&folder.path("out")) == expected, "another output");
}

/// A shard that loses its bytes while it is read: a sentence with its name, and nothing that came of it remains.
#[test]
fn a_shard_that_is_cut_short_during_the_run() {
    let folder = sharded();
    let shard = folder.read(LAST_SHARD);
    let cut = |_: &Child| std::fs::File::create(folder.path(LAST_SHARD)).map(drop).unwrap();
    let output = disturbed(
        &folder,
        &QUANTIZE,
        || n_done(&folder) >= 1,
        cut,
        |output| {
            folder.write(LAST_SHARD, &shard);
            output.status.success()
        },
    );
    let wanted = format!("error: {LAST_SHARD}: was changed while it was read, so what came of it is worthless");
    assert!(stderr(&output).starts_with(&wanted), "{}", stderr(&output));
    assert_eq!(folder.names(), ["in"]);
}

/// A shard that is gone when a job is to be resumed: a sentence, nothing is lost, and it goes on once the shard is back.
#[test]
fn a_shard_that_is_gone_at_the_next_run() {
    let folder = sharded();
    folder.ok(&QUANTIZE);
    let expected = read_all(&folder.path("out"));
    std::fs::remove_dir_all(folder.path("out")).unwrap();
    let kill = |child: &Child| send("-KILL", child);
    disturbed(&folder, &QUANTIZE, || n_done(&folder) >= 1, kill, |output| output.status.success());
    let done = n_done(&folder);
    std::fs::rename(folder.path(LAST_SHARD), folder.path("elsewhere")).unwrap();
    let resume = [&QUANTIZE[..], &["--resume"]].concat();
    folder.fails(1, &resume, &format!("{LAST_SHARD}: can't be opened: No such file"));
    std::fs::rename(folder.path("elsewhere"), folder.path(LAST_SHARD)).unwrap();
    assert_eq!(folder.json(&resume)["resumed"], done);
    assert!(read_all(&folder.path("out")) == expected, "another output");
    assert_eq!(folder.names(), ["in", "out"]);
}
