//! What compiles to wasm32: rustup's standard library, or where rustup can't fetch it Debian's compiler with its sources.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::steps::{self, run};

/// The target.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// Where Debian's packages are unpacked, in an ignored folder. They stay there between runs.
const FOLDER: &str = ".fixtures/wasm-rust";

/// A compiler, its libraries for this machine, the standard library's sources, and a linker for wasm. `rustc-web` is the
/// compiler that Debian keeps current for its browsers; nothing of the system changes.
const PACKAGES: [&str; 7] =
    ["rustc-web", "libstd-rust-web-1.96", "libstd-rust-web-dev", "rust-web-src", "libllvm22", "lld-22", "liblld-22"];

/// Gets what is missing.
pub(crate) fn ensure(root: &Path) -> Result<()> {
    if has_target() {
        println!("    rustup's standard library for {TARGET} is there");
        return Ok(());
    }
    if debian(root).is_some() {
        println!("    {FOLDER} is there");
        return Ok(());
    }
    let added = Command::new("rustup").args(["target", "add", TARGET]).stderr(Stdio::null()).status();
    if added.is_ok_and(|status| status.success()) && has_target() {
        return Ok(());
    }
    println!("    rustup can't fetch {TARGET}: Debian's compiler builds the standard library");
    fetch(root).with_context(|| {
        format!("there is no standard library for {TARGET}: run `rustup target add {TARGET}` where that can be fetched")
    })
}

/// `cargo clippy` for the target, where rustup has it: clippy and the standard library must be of one compiler.
pub(crate) fn clippy(root: &Path) -> Option<Command> {
    let mut command = steps::cargo(root);
    command.arg("clippy").args(["--target", TARGET]);
    has_target().then_some(command)
}

/// `cargo build` for the target.
pub(crate) fn cargo(root: &Path) -> Result<Command> {
    let mut command = steps::cargo(root);
    command.arg("build").args(["--target", TARGET]);
    if has_target() {
        return Ok(command);
    }
    let Some(found) = debian(root) else { bail!("{FOLDER} is not complete: run `cargo xtask setup`") };
    let libraries = [found.join("lib/x86_64-linux-gnu"), found.join("lib/llvm-22/lib")];
    command.arg("-Zbuild-std=std,panic_abort");
    command.env("RUSTC", found.join("bin/rustc")).env("RUSTC_BOOTSTRAP", "1");
    command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?);
    command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", found.join("bin/wasm-ld-22"));
    Ok(command)
}

/// Whether the compiler that is used anyway has the target's standard library.
fn has_target() -> bool {
    let found = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    found.is_ok_and(|found| found.status.success() && Path::new(String::from_utf8_lossy(&found.stdout).trim()).is_dir())
}

/// The root of Debian's compiler, if it is complete.
fn debian(root: &Path) -> Option<PathBuf> {
    let found = root.join(FOLDER).join("root/usr");
    let needed = ["bin/rustc", "bin/wasm-ld-22", "lib/rustlib/src/rust/library/std/Cargo.toml"];
    needed.iter().all(|file| found.join(file).is_file()).then_some(found)
}

/// Downloads and unpacks the packages. They appear under their name only when all are there.
fn fetch(root: &Path) -> Result<()> {
    let folder = root.join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    let packages = tempfile::tempdir_in(&folder)?;
    let download = || run(Command::new("apt-get").current_dir(packages.path()).arg("download").args(PACKAGES));
    // Package lists may be missing or old: fetch them only then.
    if download().is_err() {
        run(Command::new("apt-get").arg("update"))?;
        download()?;
    }
    let unpacked = packages.path().join("root");
    for entry in std::fs::read_dir(packages.path())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg").arg("-x").arg(path).arg(&unpacked))?;
        }
    }
    let place = folder.join("root");
    if place.exists() {
        // Of an earlier layout, or half of it.
        std::fs::remove_dir_all(&place)?;
    }
    std::fs::rename(unpacked, place)?;
    if debian(root).is_none() {
        bail!("Debian's packages hold another layout than they should");
    }
    Ok(())
}
