//! What `cargo xtask test` does, in order. The first step that fails ends it.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{fixture, gguf_package, packages, python, serve, wasm_toolchain, web};

/// Optimized, with overflow checks and assertions: see Cargo.toml. All steps use it, so that nothing is built twice.
pub(crate) const PROFILE: [&str; 2] = ["--profile", "checked"];

/// Tells GPU tests which adapters they must find.
const ADAPTERS: &str = "WGQUANT_TEST_ADAPTERS";
/// Where a session's sockets are.
const RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";

/// Sets up what the tests need.
pub(crate) fn setup(root: &Path) -> Result<()> {
    let mut summary = Summary::default();
    set_up(root, &mut summary)
}

/// Sets up what the tests need, then runs every check there is.
pub(crate) fn test(root: &Path) -> Result<()> {
    let mut summary = Summary::default();
    set_up(root, &mut summary)?;

    let workspace = ["--workspace", "--locked"];
    summary.step("formatting", || run(cargo(root).args(["fmt", "--all", "--check"])))?;
    summary.step("clippy", || {
        run(cargo(root).arg("clippy").args(workspace).args(PROFILE).args(["--all-targets", "--", "-D", "warnings"]))
    })?;
    summary.step("documentation", || {
        let mut doc = cargo(root);
        doc.arg("doc").args(workspace).args(PROFILE).arg("--no-deps").env("RUSTDOCFLAGS", "-D warnings");
        run(&mut doc)
    })?;
    // Before the tests, which look at it in a browser.
    summary.step("web package", || web::build(root).and_then(|()| web::check_types(root)))?;
    // All of them run even if one fails, so that one run shows everything that is broken.
    summary.step("tests", || {
        let mut tests = cargo(root);
        tests.arg("test").args(workspace).args(PROFILE).arg("--no-fail-fast");
        // Both translations of the shaders must be there: without this, one that is missing would be passed over.
        if let (Some(adapters), None) = (packages::promised_adapters(), std::env::var_os(ADAPTERS)) {
            tests.env(ADAPTERS, adapters);
        }
        // GL drivers complain on every start where it is not set.
        let runtime_dir = tempfile::tempdir()?;
        if std::env::var_os(RUNTIME_DIR).is_none() {
            tests.env(RUNTIME_DIR, runtime_dir.path());
        }
        run(&mut tests)
    })?;
    summary.step("Python package", || python::test(root, python::Tests::WithoutCluster))?;
    summary.step("service checks", || serve::test(root))?;
    summary.print();
    Ok(())
}

/// Builds the command line's program where the tests, which build it too, were not run before. Of this package alone crates have
/// fewer features than in the workspace, so that all of them are compiled anew.
pub(crate) fn build_program(root: &Path) -> Result<()> {
    run(cargo(root).args(["build", "--locked", "--package", "wgquant-cli"]).args(PROFILE))
}

fn set_up(root: &Path, summary: &mut Summary) -> Result<()> {
    summary.step("system packages", packages::ensure)?;
    summary.step("real checkpoint", || fixture::ensure(root))?;
    summary.step("wasm compiler", || wasm_toolchain::ensure(root))?;
    summary.step("TypeScript", || web::ensure_compiler(root))?;
    summary.step("package gguf", || gguf_package::ensure(root))?;
    summary.step("Python's tools", || python::ensure(root))?;
    summary.step("service's tools", || serve::ensure(root))
}

/// The cargo that runs this, in the workspace's root.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// Where builds go.
pub(crate) fn target(root: &Path) -> std::path::PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder))
}

/// Runs a command to its end, showing what it prints.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = display(command);
    println!("    $ {line}");
    let status = command.status().with_context(|| format!("`{line}` could not be started"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// A command as one would type it.
fn display(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    std::iter::once(program).chain(command.get_args()).map(|part| part.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Names and durations of the steps that are done.
#[derive(Default)]
struct Summary(Vec<(&'static str, f64)>);

impl Summary {
    fn step(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("==> {name}");
        let start = Instant::now();
        let done = work();
        let seconds = start.elapsed().as_secs_f64();
        match &done {
            Ok(()) => println!("==> {name}: done in {seconds:.1} s"),
            Err(_) => println!("==> {name}: FAILED after {seconds:.1} s"),
        }
        self.0.push((name, seconds));
        done.with_context(|| format!("step {name:?} failed"))
    }

    fn print(&self) {
        println!("\nEvery step passed:");
        for (name, seconds) in &self.0 {
            println!("  {name:<16} {seconds:>7.1} s");
        }
        println!("  {:<16} {:>7.1} s", "all", self.0.iter().map(|(_, seconds)| seconds).sum::<f64>());
    }
}
