//! The live comparison with the peers' own code: `cargo xtask interop`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::steps::{cargo, run, target};
use crate::{fixture, python as package};

/// Where the virtual environment is, in an ignored folder. It stays there between runs.
pub(crate) const VENV: &str = ".fixtures/interop/venv";
/// The peers, each with its version.
const REQUIREMENTS: &str = "tests/interop/requirements.txt";
/// What is run; each takes the folder of the real model and our binary.
const SCRIPTS: [&str; 6] = [
    "tests/interop/python_package.py",
    "tests/interop/checkpoint.py",
    "tests/interop/peer_bitsandbytes.py",
    "tests/interop/peer_compressed_tensors.py",
    "tests/interop/peer_llama_cpp.py",
    "tests/interop/tied_heads.py",
];

/// Installs the peers where they are missing, builds our binary, and runs every script.
pub(crate) fn interop(root: &Path) -> Result<()> {
    println!("==> real model");
    fixture::ensure(root)?;
    println!("==> peers");
    let python = root.join(VENV).join("bin/python");
    if !python.exists() {
        let mut venv = Command::new("python3");
        run(venv.current_dir(root).args(["-m", "venv", VENV])).context("Debian has this in python3-venv")?;
    }
    let mut pip = Command::new(&python);
    pip.current_dir(root).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS]);
    // ggml multiplies by AMX where the compiler says that the CPU has it, and crashes where the kernel doesn't let it.
    if cfg!(target_arch = "x86_64") {
        pip.envs(["CFLAGS", "CXXFLAGS"].map(|flags| (flags, "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16")));
    }
    run(&mut pip)
        .context("llama-cpp-python is compiled, for which it needs a C++ compiler; the others are downloads")?;
    println!("==> wgquant");
    run(cargo(root).args(["build", "--locked", "--profile", "checked", "--package", "wgquant-cli"]))?;
    let target = target(root);
    package::ensure(root)?;
    package::install(root, &Command::new(&python))?;
    for script in SCRIPTS {
        println!("==> {script}");
        let mut compare = Command::new(&python);
        compare.current_dir(root).arg(script).arg(fixture::FOLDER).arg(target.join("checked/wgquant"));
        // Results must not depend on cores, nor on what a hub serves today.
        compare.envs([("OMP_NUM_THREADS", "2"), ("HF_HUB_OFFLINE", "1"), ("PYTHONDONTWRITEBYTECODE", "1")]);
        run(compare.env("TQDM_DISABLE", "1"))?;
    }
    Ok(())
}
