//! Debian packages that the tests need: software adapters where there is no GPU, and a few tools.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::steps::run;

/// A package, and how to see whether what it is needed for is there. Files decide, not the package database: a driver
/// may have come another way.
struct Package {
    name: &'static str,
    is_there: fn() -> bool,
}

/// Software Vulkan (lavapipe) and GL (llvmpipe).
const SOFTWARE_ADAPTERS: &[Package] = &[
    Package { name: "libvulkan1", is_there: || has_library("libvulkan.so.1") },
    Package { name: "mesa-vulkan-drivers", is_there: || vulkan_drivers().any(|path| name_starts(&path, "lvp_icd")) },
    Package { name: "libegl1", is_there: || has_library("libEGL.so.1") },
    Package { name: "libgles2", is_there: || has_library("libGLESv2.so.2") },
    Package { name: "libgl1-mesa-dri", is_there: has_gl_driver },
];

/// What the tests call. Full disks and unwritable folders are made with the first three; reports are looked at in the last.
const TOOLS: &[Package] = &[
    Package { name: "e2fsprogs", is_there: || has_program("chattr") },
    Package { name: "util-linux", is_there: || has_program("unshare") },
    Package { name: "mount", is_there: || has_program("mount") },
    Package { name: "python3", is_there: || has_program("python3") },
    Package { name: "python3-pip", is_there: has_pip },
    Package { name: "python3-venv", is_there: has_venv },
    Package { name: "chromium", is_there: has_chromium },
    Package { name: "npm", is_there: || has_program("npm") },
];

/// Installs what is missing, or says what to install.
pub(crate) fn ensure() -> Result<()> {
    if !cfg!(target_os = "linux") {
        println!("    not Linux: the system's own GPU drivers are used");
        return Ok(());
    }
    let missing = missing();
    if missing.is_empty() {
        println!("    everything is there: {}", adapters());
        return Ok(());
    }
    install(&missing)?;
    let missing = self::missing();
    if !missing.is_empty() {
        bail!("{} still can't be found after installing", missing.join(", "));
    }
    Ok(())
}

/// Names of the packages that are needed here and not there.
fn missing() -> Vec<&'static str> {
    let adapters = if has_gpu() { &[] } else { SOFTWARE_ADAPTERS };
    adapters.iter().chain(TOOLS).filter(|package| !(package.is_there)()).map(|package| package.name).collect()
}

fn adapters() -> &'static str {
    if has_gpu() { "this machine's GPU" } else { "software adapters, as there is no GPU" }
}

/// The adapters that GPU tests must find here, as `--device` takes them. Where there is a GPU, they take what they find.
pub(crate) fn promised_adapters() -> Option<&'static str> {
    (cfg!(target_os = "linux") && !has_gpu()).then_some("vulkan:llvmpipe,gl:llvmpipe")
}

/// A GPU and a Vulkan driver for it.
fn has_gpu() -> bool {
    let is_gpu = |path: &PathBuf| name_starts(path, "renderD");
    let device = Path::new("/dev/nvidia0").exists() || entries("/dev/dri").any(|path| is_gpu(&path));
    device && vulkan_drivers().any(|path| !name_starts(&path, "lvp_icd")) && has_library("libvulkan.so.1")
}

fn install(packages: &[&str]) -> Result<()> {
    let line = format!("apt-get install --yes --no-install-recommends {}", packages.join(" "));
    if !has_program("apt-get") {
        bail!(
            "the tests need what Debian calls {}; install it with this system's package manager",
            packages.join(", ")
        );
    }
    if !is_root() {
        bail!("the tests need {}; as root, run: apt-get update && {line}", packages.join(", "));
    }
    let apt_get =
        |arguments: &[&str]| run(Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive"));
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    // Package lists may be missing or old: fetch them only then.
    if apt_get(&install).is_err() {
        apt_get(&["update"])?;
        apt_get(&install)?;
    }
    Ok(())
}

/// Vulkan driver manifests.
fn vulkan_drivers() -> impl Iterator<Item = PathBuf> {
    let is_manifest = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    entries("/usr/share/vulkan/icd.d").chain(entries("/etc/vulkan/icd.d")).filter(is_manifest)
}

/// Mesa's GL driver, whether one file a driver or all in one.
fn has_gl_driver() -> bool {
    let has = |folder: &Path, prefix: &str| entries(folder).any(|path| name_starts(&path, prefix));
    entries("/usr/lib").any(|folder| has(&folder.join("dri"), "swrast_dri") || has(&folder, "libgallium"))
}

fn has_library(name: &str) -> bool {
    ["ldconfig", "/sbin/ldconfig"].iter().any(|program| {
        let listed = Command::new(program).arg("-p").output();
        listed.is_ok_and(|listed| String::from_utf8_lossy(&listed.stdout).split_whitespace().any(|word| word == name))
    })
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|folder| folder.join(name).is_file())
}

fn has_pip() -> bool {
    let pip =
        Command::new("python3").args(["-m", "pip", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    pip.is_ok_and(|status| status.success())
}

fn has_venv() -> bool {
    let venv = Command::new("python3").args(["-c", "import ensurepip"]).stderr(Stdio::null()).status();
    venv.is_ok_and(|status| status.success())
}

/// The browser, under any of the names that the tests look for.
fn has_chromium() -> bool {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    std::env::var_os("WGQUANT_TEST_CHROMIUM").is_some() || names.into_iter().any(has_program)
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}

/// What is in a folder; nothing where there is no such folder.
fn entries(folder: impl AsRef<Path>) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn name_starts(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}
