//! Runs that are interrupted, and runs that go on with them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Folder, Tensor, failure, file, floats, stderr, tensor};

const UNFINISHED: &str = "out.wgquant-unfinished";
const JOURNAL: &str = "out.wgquant-journal";

/// Many tensors, so that a run can be interrupted between any two.
fn model() -> Vec<Tensor> {
    const NAMES: [&str; 24] = [
        "t00", "t01", "t02", "t03", "t04", "t05", "t06", "t07", "t08", "t09", "t10", "t11", "t12", "t13", "t14", "t15",
        "t16", "t17", "t18", "t19", "t20", "t21", "t22", "t23",
    ];
    let weights = NAMES.iter().zip(1..).map(|(name, seed)| floats(name, "F32", &[256, 1000], seed));
    weights.chain([tensor("ids", "I64", &[4000], vec![3; 32_000])]).collect()
}

fn args(format: &str) -> Vec<&str> {
    vec!["quantize", "in", "-o", "out", "--device", "cpu", "--verify", "full", "--format", format]
}

fn start(folder: &Folder, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgquant"));
    command.args(args).current_dir(folder.root()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Tensors that the journal says are done.
fn n_done(folder: &Folder) -> usize {
    let journal = std::fs::read_to_string(folder.path(JOURNAL)).unwrap_or_default();
    journal.split_inclusive('\n').filter(|line| line.contains("\"done\"") && line.ends_with('\n')).count()
}

/// Killed at 20 moments spread over a run, each time another one ends it: the same bytes, nothing done twice, nothing left.
#[test]
fn killed_and_resumed() {
    let folder = Folder::with("in", &file(&model()));
    for (format, output) in [("sym4", "out"), ("nf4-dq", "out/model-00001-of-00002.safetensors")] {
        let mut run = args(format);
        if output != "out" {
            run.extend(["--shard-size", "2MB"]);
        }
        let started = Instant::now();
        let undisturbed = folder.json(&run);
        let duration = started.elapsed();
        let whole = folder.read(output);
        let remove = || {
            let path = folder.path("out");
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
        };
        remove();
        let resume = [&run[..], &["--resume"]].concat();
        let (mut interrupted, mut resumed_some) = (0, 0);
        for moment in 0..20_u32 {
            let mut child = start(&folder, &run);
            std::thread::sleep(duration * moment / 20);
            child.kill().unwrap(); // SIGKILL
            child.wait().unwrap();
            if folder.path("out").exists() && !folder.path(JOURNAL).exists() {
                remove(); // it was quicker
                continue;
            }
            interrupted += 1;
            let done = n_done(&folder);
            let mut report = folder.json(&resume);
            assert_eq!(report["resumed"], done, "{format}: what was done is not done again");
            resumed_some += usize::from(done > 0);
            assert!(folder.read(output) == whole, "{format}: killed after {moment}/20 of {duration:?}");
            assert_eq!(folder.names(), ["in", "out"]);
            report["resumed"] = 0.into();
            let mut expected = undisturbed.clone();
            for key in ["seconds", "peak_memory"] {
                (report[key], expected[key]) = (Value::Null, Value::Null);
            }
            assert_eq!(report, expected, "the report too");
            remove();
        }
        assert!(
            interrupted > 5 && resumed_some > 2,
            "{format}: {interrupted} interrupted, {resumed_some} with work done"
        );
    }
}

/// A folder with an unfinished run that has done at least two tensors.
fn interrupted() -> Folder {
    let folder = Folder::with("in", &file(&model()));
    for _ in 0..50 {
        let mut child = start(&folder, &args("sym4"));
        let started = Instant::now();
        while n_done(&folder) < 2 && started.elapsed() < Duration::from_secs(20) && !folder.path("out").exists() {}
        child.kill().unwrap();
        child.wait().unwrap();
        if folder.path(UNFINISHED).exists() && !folder.path("out").exists() {
            return folder;
        }
        folder.ok(&[&args("sym4")[..], &["--resume", "--force"]].concat());
        std::fs::remove_file(folder.path("out")).unwrap();
    }
    panic!("the run was never slow enough to be interrupted");
}

#[test]
fn what_an_interrupted_run_left_is_not_lost_by_accident() {
    let folder = interrupted();
    folder.fails(1, &args("sym4"), "out: a run left it unfinished (what is done is in out.wgquant-unfinished)");
    let resume = |format| [&args(format)[..], &["--resume"]].concat();
    folder.fails(1, &resume("sym8"), "out: can't be resumed, because it was begun with another format: start afresh");
    let more = [&resume("sym4")[..], &["--exclude", "t03"]].concat();
    folder.fails(1, &more, "begun with another selection");
    // A changed input, though its size is the same.
    let mut bytes = folder.read("in");
    *bytes.last_mut().unwrap() ^= 1;
    folder.write("in", &bytes);
    folder.fails(1, &resume("sym4"), "out: can't be resumed, because it was begun with another input");
    assert!(n_done(&folder) >= 2);
    let report = folder.json(&[&args("sym4")[..], &["--force"]].concat());
    assert_eq!(report["resumed"], 0);
    folder.ok(&["verify", "in", "out"]);
    assert_eq!(folder.names(), ["in", "out"]);
    // Where there is nothing to go on with, it starts afresh.
    std::fs::remove_file(folder.path("out")).unwrap();
    assert_eq!(folder.json(&resume("sym4"))["resumed"], 0);
    folder.fails(1, &resume("sym4"), "out: exists already");
}

/// After a power cut the journal may say more than is on the disk.
#[test]
fn what_the_disk_lost_is_done_again() {
    let folder = interrupted();
    let path = folder.path(UNFINISHED).join("model.safetensors");
    let done = n_done(&folder);
    let mut bytes = std::fs::read(&path).unwrap();
    let header = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap() + 8;
    bytes[header..].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let report = folder.json(&[&args("sym4")[..], &["--resume"]].concat());
    assert!(report["resumed"].as_u64().unwrap() < done as u64);
    folder.ok(&["verify", "in", "out"]);
}

/// Two runs to one output: the second is refused, whatever it is told.
#[test]
fn two_runs_to_one_output() {
    let folder = Folder::with("in", &file(&model()));
    let journal = std::fs::File::create(folder.path(JOURNAL)).unwrap();
    journal.lock().unwrap();
    for more in [&[][..], &["--resume"], &["--force"]] {
        let run = [&args("sym4")[..], more].concat();
        folder.fails(1, &run, "out: another run is writing it at this moment: wait for that, or give another name");
    }
    drop(journal);
    folder.ok(&[&args("sym4")[..], &["--resume"]].concat());
    assert_eq!(folder.names(), ["in", "out"]);
}

/// A disk that is full after some tensors: they are kept, and the run goes on where there is room again.
#[test]
fn a_full_disk_loses_nothing() {
    let folder = Folder::with("in", &file(&model()));
    folder.ok(&args("sym4"));
    let expected = folder.read("out");
    std::fs::remove_file(folder.path("out")).unwrap();
    let script = r#"mount -t tmpfs -o size=1500k tmpfs "$1" || exit 99
        "$2" quantize in -o "$1/out" --format sym4 --device cpu --verify full --quiet 2> error
        test $? = 1 || exit 98
        ls -A "$1" > left
        mount -o remount,size=40m "$1" || exit 97
        "$2" quantize in -o "$1/out" --format sym4 --device cpu --verify full --quiet --resume --json > report || exit 96
        ls -A "$1" >> left
        cp "$1/out" out"#;
    let disk = tempfile::tempdir().unwrap();
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let mut unshare = Command::new("unshare");
    unshare.arg(if is_root { "-m" } else { "-rm" }).args(["sh", "-c", script, "sh"]);
    let output = unshare.arg(disk.path()).arg(env!("CARGO_BIN_EXE_wgquant")).current_dir(folder.root()).output();
    let output = output.expect("this test needs unshare (util-linux) and mount");
    assert!(output.status.success(), "{output:?}: {}", stderr(&output));
    let error = String::from_utf8(folder.read("error")).unwrap();
    assert!(error.contains("out: can't be written: No space left on device"), "{error}");
    assert!(error.contains("finished tensors are kept in") && error.contains("run it again with --resume"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert_eq!(folder.read("left"), b"out.wgquant-journal\nout.wgquant-unfinished\nout\n");
    let report: Value = serde_json::from_slice(&folder.read("report")).unwrap();
    assert!(report["resumed"].as_u64().unwrap() > 0);
    assert!(folder.read("out") == expected);
}

/// A shard that is written to while it is read: the run ends, and nothing that came of it gets a name.
#[test]
fn an_input_that_changes_during_the_run() {
    let folder = Folder::with("in", &file(&model()));
    for _ in 0..20 {
        let mut child = {
            let mut command = Command::new(env!("CARGO_BIN_EXE_wgquant"));
            command.args(args("sym4")).current_dir(folder.root()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        while n_done(&folder) < 1 && child.try_wait().unwrap().is_none() {}
        touch(&folder.path("in"));
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            let text = stderr(&output);
            let last = text.lines().last().unwrap_or_default();
            assert!(last.contains("in: was changed while it was read"), "{text}");
            assert_eq!(folder.names(), ["in"], "nothing is left");
            return;
        }
        std::fs::remove_file(folder.path("out")).unwrap();
    }
    panic!("the run was never slow enough to be disturbed");
}

/// Writes a byte of a file anew.
fn touch(path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100_000).unwrap();
    file.write_all_at(&byte, 100_000).unwrap();
}

/// An unfinished output of `dequantize`, which is not resumed, is in nobody's way.
#[test]
fn leftovers_of_other_jobs() {
    let folder = Folder::with("in", &file(&model()));
    folder.ok(&args("sym8"));
    std::fs::create_dir(folder.path("back.wgquant-unfinished")).unwrap();
    folder.write("back.wgquant-journal", b"torn");
    folder.ok(&["dequantize", "out", "-o", "back", "--device", "cpu"]);
    assert_eq!(folder.names(), ["back", "in", "out"]);
    let output = folder.run(&["quantize", "back", "-o", "out", "--device", "cpu", "--format", "sym8"]);
    failure(&output, 1, "out: exists already");
}
