//! Outputs that can't be, or must not be, written.

use std::path::Path;
use std::process::Command;

use crate::common::{Folder, failure, file, floats, mixed};

const QUANTIZE: [&str; 8] = ["quantize", "in", "-o", "out", "--format", "sym4", "--device", "cpu"];

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// A 1 MiB tmpfs in a mount namespace of its own, which goes away with the process. What is left there is listed before.
#[test]
fn full_disk() {
    let folder = Folder::with("in", &file(&[floats("w", "F32", &[2048, 2048], 1)]));
    let script = r#"mount -t tmpfs -o size=1M tmpfs "$1" || exit 99
        "$2" quantize in -o "$1/out" --format sym4 --device cpu --quiet
        status=$?
        ls -A "$1" > left
        exit $status"#;
    let disk = tempfile::tempdir().unwrap();
    let mut unshare = Command::new("unshare");
    unshare.arg(if is_root() { "-m" } else { "-rm" }).args(["sh", "-c", script, "sh"]);
    let output = unshare.arg(disk.path()).arg(env!("CARGO_BIN_EXE_wgquant")).current_dir(folder.root()).output();
    let output = output.expect("this test needs unshare (util-linux)");
    assert_ne!(output.status.code(), Some(99), "this test needs to mount a tmpfs: {output:?}");
    failure(&output, 1, "out: can't be written: No space left on device");
    assert_eq!(folder.read("left"), b"", "nothing may be left on the full disk");
}

/// Takes the immutable flag off again, whatever happens.
struct Immutable<'a>(&'a Path);

impl Drop for Immutable<'_> {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(self.0).status();
    }
}

/// Root may write wherever mode bits say no, so there the folder is made immutable.
#[test]
fn unwritable_folder() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::with("in", &file(&mixed()));
    let place = folder.path("place");
    std::fs::create_dir(&place).unwrap();
    let args = ["quantize", "in", "-o", "place/out", "--format", "sym4", "--device", "cpu"];
    let (output, wanted) = if is_root() {
        let chattr = Command::new("chattr").arg("+i").arg(&place).status();
        let _guard = Immutable(&place);
        assert!(chattr.is_ok_and(|status| status.success()), "this test needs chattr +i on a file system that has it");
        (folder.run(&args), "place/out: can't be created: Operation not permitted")
    } else {
        std::fs::set_permissions(&place, PermissionsExt::from_mode(0o555)).unwrap();
        let output = folder.run(&args);
        std::fs::set_permissions(&place, PermissionsExt::from_mode(0o755)).unwrap();
        (output, "place/out: can't be created: Permission denied")
    };
    failure(&output, 1, wanted);
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
}

#[test]
fn missing_folder_and_missing_input() {
    let folder = Folder::with("in", &file(&mixed()));
    let run = |args: [&str; 4], wanted| {
        folder.fails(1, &[&["quantize"], &args[..], &["sym4", "--device", "cpu"]].concat(), wanted);
    };
    run(["in", "-o", "no/such/out", "--format"], "no/such/out: its folder does not exist: make it first");
    run(["gone", "-o", "out", "--format"], "gone: can't be opened: No such file or directory");
    run([".", "-o", "out", "--format"], "is a folder");
    run(["/dev/null", "-o", "out", "--format"], "/dev/null: is no regular file");
    run(["in", "-o", "..", "--format"], "exists already");
}

#[test]
fn existing_output_needs_force() {
    let folder = Folder::with("in", &file(&mixed()));
    folder.write("out", b"precious");
    folder.fails(1, &QUANTIZE, "out: exists already: give another name, or --force to replace it");
    assert_eq!(folder.read("out"), b"precious");
    folder.quantize("sym4", &["--force", "--sync"]);
    folder.ok(&["verify", "in", "out"]);

    folder.write("back", b"precious");
    let args = ["dequantize", "out", "-o", "back", "--device", "cpu"];
    folder.fails(1, &args, "back: exists already");
    folder.ok(&[&args[..], &["--force"]].concat());
    assert_ne!(folder.read("back"), b"precious");
}

#[test]
fn force_never_replaces_what_is_no_file() {
    let folder = Folder::with("in", &file(&mixed()));
    std::fs::create_dir(folder.path("out")).unwrap();
    let force = [&QUANTIZE[..], &["--force"]].concat();
    folder.fails(1, &force, "out: is no regular file");
    let device = ["quantize", "in", "-o", "/dev/null", "--format", "sym4", "--device", "cpu", "--force"];
    folder.fails(1, &device, "/dev/null: is no regular file");
    std::fs::remove_dir(folder.path("out")).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.path("out")).unwrap();
    folder.fails(1, &QUANTIZE, "out: exists already");
    folder.fails(1, &force, "out: is a link that leads nowhere");
}

/// `--force` writes where a link leads, and the link stays.
#[test]
fn force_follows_links() {
    let folder = Folder::with("in", &file(&mixed()));
    folder.write("target", b"old");
    std::os::unix::fs::symlink("target", folder.path("out")).unwrap();
    folder.quantize("sym4", &["--force"]);
    assert!(std::fs::symlink_metadata(folder.path("out")).unwrap().is_symlink());
    assert_eq!(folder.names(), ["in", "out", "target"]);
    folder.ok(&["verify", "in", "target"]);
}

#[test]
fn output_equal_to_input() {
    let bytes = file(&mixed());
    let folder = Folder::with("in", &bytes);
    std::os::unix::fs::symlink("in", folder.path("soft")).unwrap();
    std::fs::hard_link(folder.path("in"), folder.path("hard")).unwrap();
    for name in ["in", "./in", "soft", "hard"] {
        let args = ["quantize", "in", "-o", name, "--format", "sym4", "--device", "cpu", "--force"];
        folder.fails(1, &args, "the output is the input: give it another name");
    }
    assert_eq!(folder.read("in"), bytes);
    folder.quantize("sym4", &[]);
    folder.fails(1, &["dequantize", "out", "-o", "out", "--force", "--device", "cpu"], "the output is the input");
}

/// As any program's file: not the 0600 of temporary ones.
#[test]
fn output_has_ordinary_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::with("in", &file(&mixed()));
    folder.quantize("sym4", &[]);
    let mode = |name: &str| std::fs::metadata(folder.path(name)).unwrap().permissions().mode();
    assert_eq!(mode("out"), mode("in"));
}
