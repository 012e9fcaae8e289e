//! How fast it is: `cargo xtask bench`.

use std::path::Path;

use anyhow::Result;

use crate::interop;
use crate::steps::{cargo, run};

/// Builds the bench crate, which is a workspace of its own, and runs it; beside Python's peers where they are installed.
pub(crate) fn bench(root: &Path, options: &[&str]) -> Result<()> {
    let mut bench = cargo(root);
    bench.args(["run", "--quiet", "--locked", "--release", "--manifest-path", "crates/bench/Cargo.toml", "--"]);
    let python = root.join(interop::VENV).join("bin/python");
    if python.exists() {
        bench.arg("--python").arg(python);
    }
    run(bench.args(options))
}
