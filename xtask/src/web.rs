//! The web package: compiles the library to wasm, makes the npm package around it, and the page.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::steps::{cargo, run, target};
use crate::wasm_toolchain;

/// The package's crate, a workspace of its own.
const CRATE: &str = "crates/web";
/// What the wasm module may have, gzipped.
const MAX_GZIPPED: usize = 3 << 19;

/// Where the TypeScript compiler is, and the package as an app has it.
const TYPES: &str = ".fixtures/types";
const TYPESCRIPT: &str = "typescript@7.0.2";

/// Checks the crate, builds the package and the page, and packs it with npm.
pub(crate) fn build(root: &Path) -> Result<()> {
    let manifest = format!("{CRATE}/Cargo.toml");
    let packages = ["--package", "wgquant-web", "--package", "wgquant-web-bindgen"];
    run(cargo(root).args(["fmt", "--check", "--manifest-path", &manifest]).args(packages))?;
    let module = compile(root)?;
    let folder = target(root).join("web");
    let package = folder.join("package");
    // Only what is built now.
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => std::fs::create_dir_all(&package)?,
    }
    let mut bindgen = cargo(root);
    bindgen.args([
        "run",
        "--quiet",
        "--locked",
        "--manifest-path",
        &manifest,
        "--package",
        "wgquant-web-bindgen",
        "--",
    ]);
    // A profile and a folder of its own: its workspace is another.
    bindgen.env("CARGO_TARGET_DIR", target(root).join("web-tools"));
    run(bindgen.arg(&module).arg(package.join("wasm")))?;
    let wasm = package.join("wasm/wgquant_bg.wasm");
    let n_gzipped = gzipped(&wasm)?;
    let size = format!("The wasm module is {} KiB gzipped.", n_gzipped.div_ceil(1024));
    println!("    {size}");
    ensure!(n_gzipped <= MAX_GZIPPED, "{n_gzipped} bytes are more than the {MAX_GZIPPED} that it may have");

    copy_all(&root.join(CRATE).join("js"), &package)?;
    std::fs::copy(root.join(CRATE).join("package.json"), package.join("package.json"))?;
    let readme = std::fs::read_to_string(root.join(CRATE).join("README.md"))?;
    std::fs::write(package.join("README.md"), with_size(&readme, &size)?)?;
    let site = folder.join("site");
    copy_all(&root.join(CRATE).join("page"), &site)?;
    let mut npm = Command::new("npm");
    npm.current_dir(&package).args(["pack", "--ignore-scripts", "--silent", "--pack-destination"]).arg(&folder);
    run(&mut npm).context("Debian has this in npm")?;
    // The page gets what the package holds, and so does whoever installs it.
    let unpacked = tempfile::tempdir()?;
    let archive = archive_in(&folder)?;
    run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(unpacked.path()))?;
    copy_all(&unpacked.path().join("package"), &site.join("wgquant"))?;
    println!("    the page is in {}", site.display());
    Ok(())
}

/// Brings the TypeScript compiler that [`check_types`] runs.
pub(crate) fn ensure_compiler(root: &Path) -> Result<()> {
    let folder = root.join(TYPES);
    if folder.join("node_modules/.bin/tsc").exists()
        && std::fs::read_to_string(folder.join("version")).is_ok_and(|version| version == TYPESCRIPT)
    {
        return Ok(());
    }
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("package.json"), r#"{ "private": true, "type": "module" }"#)?;
    let mut npm = Command::new("npm");
    npm.current_dir(&folder).args(["install", "--silent", "--no-audit", "--no-fund", "--no-save", "--no-package-lock"]);
    run(npm.args(["--ignore-scripts", TYPESCRIPT]))?;
    Ok(std::fs::write(folder.join("version"), TYPESCRIPT)?)
}

/// Compiles what an app writes against the package that was packed, with its types.
pub(crate) fn check_types(root: &Path) -> Result<()> {
    let folder = root.join(TYPES);
    let installed = folder.join("node_modules/wgquant");
    copy_all(&target(root).join("web/site/wgquant"), &installed)?;
    copy_all(&root.join(CRATE).join("types"), &folder.join("src"))?;
    let mut tsc = Command::new(folder.join("node_modules/.bin/tsc"));
    tsc.current_dir(&folder).args(["--noEmit", "--strict", "--noUncheckedIndexedAccess", "--module", "nodenext"]);
    run(tsc.args(["--target", "esnext", "--lib", "esnext,dom", "src/use.ts"]))
}

/// Compiles the crate, and gives the module.
fn compile(root: &Path) -> Result<PathBuf> {
    let folder = target(root).join("wasm");
    let mut build = wasm_toolchain::cargo(root)?;
    build.current_dir(root.join(CRATE)).env("CARGO_TARGET_DIR", &folder);
    let package = ["--package", "wgquant-web", "--release", "--locked"];
    run(build.args(package))?;
    if let Some(mut clippy) = wasm_toolchain::clippy(root) {
        clippy.current_dir(root.join(CRATE)).env("CARGO_TARGET_DIR", &folder);
        run(clippy.args(package).args(["--", "-D", "warnings"]))?;
    }
    Ok(folder.join(wasm_toolchain::TARGET).join("release/wgquant_web.wasm"))
}

/// Bytes of a file after gzip.
fn gzipped(file: &Path) -> Result<usize> {
    let output = Command::new("gzip").arg("-9c").arg(file).stderr(Stdio::inherit()).output().context("gzip")?;
    ensure!(output.status.success(), "gzip failed ({})", output.status);
    Ok(output.stdout.len())
}

/// The text with the size in its place.
fn with_size(readme: &str, size: &str) -> Result<String> {
    let (before, rest) = readme.split_once("<!-- size -->").context("the README has no place for the size")?;
    let (_, after) = rest.split_once("<!-- /size -->").context("the README has no end of the place for the size")?;
    Ok(format!("{before}{size}{after}"))
}

fn archive_in(folder: &Path) -> Result<PathBuf> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tgz") {
            return Ok(path);
        }
    }
    bail!("npm left no package")
}

/// Copies a folder's files, and those of folders in it.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let (from, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name())))?;
        if from.is_dir() {
            copy_all(&from, &to)?;
        } else {
            std::fs::copy(from, to)?;
        }
    }
    Ok(())
}
