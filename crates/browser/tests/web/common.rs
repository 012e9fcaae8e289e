//! What the tests share.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use wgquant_browser::{Page, Server, WEBGPU};

/// What the longest of them takes, on a machine that does other things too.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// A page without anything: where tests of the package run.
const BLANK: &str = "<!doctype html><meta charset=utf-8><title>test</title><link rel=icon href='data:,'>\
                     <input type=file id=files multiple>";

/// The page as it is served.
pub(crate) fn site() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder));
    let site = target.join("web/site");
    assert!(site.join("wgquant/wasm/wgquant_bg.wasm").is_file(), "there is no web package: run `cargo xtask web`");
    site
}

pub(crate) fn serve() -> Server {
    Server::start(&site(), &[("blank.html", BLANK)])
}

/// A page with the package in `wgquant`, and WebGPU.
pub(crate) fn package() -> (Server, Page) {
    let server = serve();
    let mut page = Page::start(WEBGPU);
    page.go_to(&server.url("blank.html"));
    page.eval("import('/wgquant/index.js').then((module) => { globalThis.wgquant = module; })");
    (server, page)
}

/// The real checkpoint.
pub(crate) fn real_checkpoint() -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.fixtures/all-minilm-l6-v2/model.safetensors");
    // Browsers take no path with dots in it.
    file.canonicalize().expect("there is no real checkpoint: run `cargo xtask setup`")
}

/// Runs the command line.
pub(crate) fn command_line(arguments: &[&dyn AsRef<std::ffi::OsStr>]) {
    let arguments: Vec<OsString> = std::iter::once("wgquant".into())
        .chain(arguments.iter().map(|argument| argument.as_ref().to_owned()))
        .collect();
    assert_eq!(wgquant_cli::run(arguments.clone()), 0, "{arguments:?}");
}

/// Clicks a link to `file`, an expression, and gives what is downloaded.
pub(crate) fn download(page: &mut Page, file: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    page.download_to(folder.path());
    page.eval(&format!(
        "{{ const link = document.createElement('a'); link.href = URL.createObjectURL({file}); link.download = 'it'; \
         document.body.append(link); link.click(); }}"
    ));
    downloaded(folder.path(), "it")
}

/// A download, once it is complete.
pub(crate) fn downloaded(folder: &Path, name: &str) -> Vec<u8> {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    // It has another name until it is complete.
    while !folder.join(name).is_file() {
        assert!(std::time::Instant::now() < deadline, "{name} never came");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::fs::read(folder.join(name)).unwrap()
}

/// A list of strings.
pub(crate) fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Bytes are equal, or the place where they first differ is told.
pub(crate) fn assert_same(actual: &[u8], expected: &[u8], what: &str) {
    let at = actual.iter().zip(expected).position(|(actual, expected)| actual != expected);
    assert!(
        at.is_none() && actual.len() == expected.len(),
        "{what}: {} bytes for {}, {at:?} differs first",
        actual.len(),
        expected.len()
    );
}
