//! The Python package `gguf`, which tests hold our GGUF files against.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::steps::run;

/// What is installed: the package, and all that it imports.
const PACKAGES: [&str; 4] = ["gguf==0.19.0", "numpy==2.4.6", "pyyaml==6.0.4", "tqdm==4.70.1"];
/// Where it goes, in an ignored folder. It stays there between runs; another version needs another name.
const PATH: &str = ".fixtures/gguf-0.19.0";

/// Installs the package where it is missing. The folder appears only when it is whole.
pub(crate) fn ensure(root: &Path) -> Result<()> {
    let path = root.join(PATH);
    if path.is_dir() {
        println!("    {PATH} is there");
        return Ok(());
    }
    let parent = path.parent().context("the package's path has no folder")?;
    std::fs::create_dir_all(parent)?;
    let temp = tempfile::Builder::new().prefix("fetch-").tempdir_in(parent)?;
    let folder = temp.path().join("packages");
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"];
    run(Command::new("python3").args(pip).arg("--target").arg(&folder).args(PACKAGES))?;
    std::fs::rename(folder, path)?;
    Ok(())
}
