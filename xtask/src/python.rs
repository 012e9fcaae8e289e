//! The Python package: builds the wheel, installs it, and runs its tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::steps::{PROFILE, cargo, run, target};

/// The package's crate, a workspace of its own.
const CRATE: &str = "crates/python";
/// What builds and tests it, each with its version.
const REQUIREMENTS: &str = "crates/python/tests/requirements.txt";
/// Where the virtual environment is, in an ignored folder. It stays there between runs.
const VENV: &str = ".fixtures/python/venv";
/// Where the wheel goes.
const WHEELS: &str = ".fixtures/python/wheels";

/// Makes the virtual environment where it is missing or was made for other requirements.
pub(crate) fn ensure(root: &Path) -> Result<()> {
    ensure_venv(root, VENV, REQUIREMENTS)
}

/// The same for any virtual environment.
pub(crate) fn ensure_venv(root: &Path, venv: &str, requirements: &str) -> Result<()> {
    let stamp = root.join(venv).join("requirements.txt");
    let wanted = std::fs::read(root.join(requirements))?;
    if std::fs::read(&stamp).is_ok_and(|found| found == wanted) {
        println!("    {venv} is there");
        return Ok(());
    }
    let mut make = Command::new("python3");
    run(make.current_dir(root).args(["-m", "venv", venv])).context("Debian has this in python3-venv")?;
    let mut pip = Command::new(root.join(venv).join("bin/python"));
    pip.current_dir(root);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]);
    run(pip.args(["-r", requirements]))?;
    std::fs::write(stamp, wanted)?;
    Ok(())
}

/// Which of its tests run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tests {
    All,
    /// Without those whose Ray nodes start and die for a minute, or that move large files to measure memory: how that goes
    /// depends on what else the machine does.
    WithoutCluster,
}

/// Checks the crate, builds the wheel, installs it in the virtual environment and runs pytest. The command line's program is there
/// already.
pub(crate) fn test(root: &Path, which: Tests) -> Result<()> {
    let manifest = format!("{CRATE}/Cargo.toml");
    run(cargo(root).args(["fmt", "--check", "--manifest-path", &manifest]))?;
    let clippy = ["clippy", "--locked", "--manifest-path", &manifest];
    run(shared_target(root, &mut cargo(root)).args(clippy).args(PROFILE).args(["--", "-D", "warnings"]))?;
    install(root, &python(root))?;
    let mut tests = python(root);
    if which == Tests::WithoutCluster {
        tests.env("PYTEST_ADDOPTS", "-m 'not cluster'");
    }
    tests.args(["-m", "pytest", "-q", CRATE]).env("WGQUANT_TEST_BINARY", target(root).join("checked/wgquant"));
    // Nothing of Ray's leaves the machine.
    run(tests.envs([("RAY_USAGE_STATS_ENABLED", "0"), ("PYTHONDONTWRITEBYTECODE", "1")]))
}

/// Builds the wheel and installs it where `python` is from.
pub(crate) fn install(root: &Path, python: &Command) -> Result<()> {
    let folder = root.join(WHEELS);
    // Only the one that is built now.
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut maturin = self::python(root);
    shared_target(root, &mut maturin).args(["-m", "maturin", "build", "--quiet", "--locked"]).args(PROFILE);
    run(maturin.args(["--manifest-path", &format!("{CRATE}/Cargo.toml"), "--out", WHEELS]))?;
    let wheels = std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    let mut pip = Command::new(python.get_program());
    pip.current_dir(root).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    run(pip.args(["--force-reinstall", "--no-deps"]).args(wheels))
}

/// The virtual environment's Python.
fn python(root: &Path) -> Command {
    let mut python = Command::new(root.join(VENV).join("bin/python"));
    python.current_dir(root);
    python
}

/// Lets a build in the package's workspace use what the other one has built.
fn shared_target<'a>(root: &Path, command: &'a mut Command) -> &'a mut Command {
    command.env("CARGO_TARGET_DIR", target(root))
}
