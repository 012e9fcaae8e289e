//! Hostile files, made by a coverage-guided fuzzer: `cargo xtask fuzz`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::steps::run;

/// The targets in `fuzz/fuzz_targets`.
const TARGETS: [&str; 3] = ["safetensors_header", "gguf_header", "quant_state"];

/// What a reader may take: far more than a header needs, far less than a hostile length asks for.
const LIMITS: [&str; 4] = ["-timeout=10", "-rss_limit_mb=1024", "-malloc_limit_mb=64", "-max_len=4096"];

/// Runs each target for so many seconds. What it finds new is kept beside the build, and not in the committed corpus.
pub(crate) fn fuzz(root: &Path, seconds: &str) -> Result<()> {
    let n: u32 = seconds.parse().with_context(|| format!("{seconds:?} is no number of seconds"))?;
    for target in TARGETS {
        println!("==> {target} for {n} s");
        let found = root.join("fuzz/target/corpus").join(target);
        std::fs::create_dir_all(&found).with_context(|| format!("{} can't be made", found.display()))?;
        let mut fuzz = Command::new("cargo");
        fuzz.current_dir(root.join("fuzz")).args(["fuzz", "run", target]).arg(&found).arg(format!("corpus/{target}"));
        // The sanitizers need compiler flags that a stable compiler takes only so.
        fuzz.arg("--").arg(format!("-max_total_time={n}")).args(LIMITS).env("RUSTC_BOOTSTRAP", "1");
        run(&mut fuzz).context("fuzzing needs cargo-fuzz (cargo install cargo-fuzz), or found something")?;
    }
    Ok(())
}
