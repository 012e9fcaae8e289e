//! How fast it is: `cargo xtask bench`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::interop;
use crate::steps::{cargo, run};

/// Where figures are kept, and the lines in it between which the last run's stand.
const DOCUMENT: &str = "docs/benchmarks.md";
const BEGIN: &str = "<!-- cargo xtask bench writes from here -->\n";
const END: &str = "<!-- to here -->\n";

/// Measures the CPU path, every adapter's kernels and whole commands, and writes one table of ratios into the document.
pub(crate) fn all(root: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("ratios");
    let ratios = path.to_str().context("a temporary folder's name is no text")?;
    cpu(root, &["--ratios", ratios])?;
    gpu(root, &["--dtype", "f32,bf16", "--access", "used", "--ratios", ratios])?;
    commands(root, &["--ratios", ratios])?;

    let ratios = std::fs::read_to_string(&path)?;
    let notes: Vec<_> = ratios.lines().filter(|line| !line.contains('\t')).collect();
    let section = format!("{}\n{}\n\n{}", notes.join("\n"), circumstances(root)?, table(&ratios));
    println!("\n{section}");
    let path = root.join(DOCUMENT);
    let document = std::fs::read_to_string(&path)?;
    std::fs::write(&path, replaced(&document, &section).with_context(|| format!("{DOCUMENT} lost its marks"))?)?;
    println!("Written to {DOCUMENT}.");
    Ok(())
}

/// The CPU path, beside what memory allows and beside peers: those in Python where they are installed.
pub(crate) fn cpu(root: &Path, options: &[&str]) -> Result<()> {
    let mut bench = own_workspace(root, "crates/bench");
    let python = root.join(interop::VENV).join("bin/python");
    if python.exists() {
        bench.arg("--python").arg(python);
    }
    run(bench.args(options))
}

/// Kernels on every adapter, beside kernels that only copy.
pub(crate) fn gpu(root: &Path, options: &[&str]) -> Result<()> {
    run(own_workspace(root, "benches/gpu").args(options))
}

/// Whole commands on the real checkpoint, beside `cp`.
pub(crate) fn commands(root: &Path, options: &[&str]) -> Result<()> {
    run(cargo(root).args(["build", "--quiet", "--locked", "--release", "--package", "wgquant-cli"]))?;
    let script = ["benches/commands.py", "target/release/wgquant", ".fixtures/all-minilm-l6-v2/model.safetensors"];
    run(Command::new("python3").current_dir(root).args(script).args(options))
}

/// A bench crate, which ordinary builds never compile, built in the project's target folder.
fn own_workspace(root: &Path, folder: &str) -> Command {
    let mut bench = cargo(root);
    bench.args(["run", "--quiet", "--locked", "--release", "--target-dir", "target", "--manifest-path"]);
    bench.arg(format!("{folder}/Cargo.toml")).arg("--");
    bench
}

/// The commit and the machine's load: without them figures mean little.
fn circumstances(root: &Path) -> Result<String> {
    let commit = Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(root).output();
    let commit = String::from_utf8(commit.context("git not found")?.stdout)?;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').nth(1).unwrap_or("unknown");
    Ok(format!("Commit {}; load {load} at the end.", commit.trim()))
}

/// A row for each measurement, a column for each format, in the order in which they come.
fn table(ratios: &str) -> String {
    let (mut rows, mut columns, mut cells) = (Vec::new(), Vec::new(), BTreeMap::new());
    for line in ratios.lines() {
        let [row, column, ratio] = *line.split('\t').collect::<Vec<_>>() else { continue };
        for (list, name) in [(&mut rows, row), (&mut columns, column)] {
            if !list.contains(&name) {
                list.push(name);
            }
        }
        cells.insert((row, column), ratio);
    }
    let mut out = format!("| ratio | {} |\n| --- |{}\n", columns.join(" | "), " ---: |".repeat(columns.len()));
    for row in rows {
        let cell = |column| cells.get(&(row, column)).and_then(|r| r.parse::<f64>().ok()).map(|r| format!("{r:.2}"));
        let cells: Vec<_> = columns.iter().map(|column| cell(*column).unwrap_or_default()).collect();
        out.push_str(&format!("| {row} | {} |\n", cells.join(" | ")));
    }
    out
}

/// The document with another section between its marks; `None` where it has no marks.
fn replaced(document: &str, section: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{section}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::{BEGIN, END, replaced, table};

    #[test]
    fn a_table_has_a_row_for_each_measurement() {
        let lines = "CPU: of reading\tsym4\t0.914\nCPU: of reading\tnf4\t0.5\nCPU: times ggml\tq4_0\t3.55\n";
        let expected = "| ratio | sym4 | nf4 | q4_0 |\n| --- | ---: | ---: | ---: |\n\
            | CPU: of reading | 0.91 | 0.50 |  |\n| CPU: times ggml |  |  | 3.55 |\n";
        assert_eq!(table(lines), expected);
    }

    #[test]
    fn a_run_replaces_the_one_before_and_nothing_else() {
        let document = format!("a\n{BEGIN}old\n{END}b\n");
        let once = replaced(&document, "new").expect("marks");
        assert_eq!(once, format!("a\n{BEGIN}\nnew\n{END}b\n"));
        assert_eq!(replaced(&once, "new").as_deref(), Some(&*once));
        assert_eq!(replaced("a\nb\n", "new"), None);
    }
}
