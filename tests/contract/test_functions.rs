//! Finds the test functions of the library and of its integration tests by reading their sources.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use syn::{Attribute, Item, Meta};

/// Names of functions, as `cargo test` prints them. Those of an integration test follow the name of its file.
#[derive(Debug, Default)]
pub(crate) struct TestFunctions {
    /// Functions that `cargo test` runs.
    pub(crate) tests: BTreeSet<String>,
    /// Kani's harnesses.
    pub(crate) kani_proofs: BTreeSet<String>,
}

/// Under which conditional compilation a piece of code stands.
#[derive(Clone, Copy, PartialEq)]
enum Built {
    /// In an ordinary test run.
    Tested,
    /// Under `cfg(kani)` alone.
    Kani,
    /// Under some other condition, so that no test there can be relied on.
    Perhaps,
}

impl TestFunctions {
    /// All of this crate.
    pub(crate) fn collect() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = Self::default();
        found.read_file(&root.join("src/lib.rs"), &root.join("src"), "", Built::Tested);
        for entry in std::fs::read_dir(root.join("tests")).expect("the crate has tests") {
            let path = entry.expect("a readable folder").path();
            let stem = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            let main = path.join("main.rs");
            if path.extension().is_some_and(|extension| extension == "rs") {
                found.read_file(&path, &root.join("tests"), &format!("{stem}::"), Built::Tested);
            } else if main.exists() {
                found.read_file(&main, &path, &format!("{stem}::"), Built::Tested);
            }
        }
        found
    }

    /// Reads a module's file; `folder` is where the files of its own modules are.
    fn read_file(&mut self, path: &Path, folder: &Path, prefix: &str, built: Built) {
        let source = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = syn::parse_file(&source).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.read_items(&file.items, folder, prefix, narrowed(built, &file.attrs));
    }

    /// Reads items of source text, for tests of this reader.
    pub(crate) fn of_text(source: &str) -> Self {
        let mut found = Self::default();
        let file = syn::parse_file(source).expect("Rust");
        found.read_items(&file.items, Path::new(""), "", Built::Tested);
        found
    }

    fn read_items(&mut self, items: &[Item], folder: &Path, prefix: &str, built: Built) {
        for item in items {
            match item {
                Item::Fn(function) => {
                    let built = narrowed(built, &function.attrs);
                    let has = |name: &str| function.attrs.iter().any(|attr| path_of(attr) == name);
                    let name = format!("{prefix}{}", function.sig.ident);
                    if built == Built::Tested && has("test") && !has("ignore") {
                        self.tests.insert(name);
                    } else if built == Built::Kani && has("kani::proof") {
                        self.kani_proofs.insert(name);
                    }
                }
                Item::Mod(module) => {
                    let built = narrowed(built, &module.attrs);
                    let name = module.ident.to_string();
                    let (folder, prefix) = (folder.join(&name), format!("{prefix}{name}::"));
                    match &module.content {
                        Some((_, items)) => self.read_items(items, &folder, &prefix, built),
                        None => self.read_file(&module_file(&folder), &folder, &prefix, built),
                    }
                }
                _ => {}
            }
        }
    }
}

/// `mod x;` is `x.rs` or `x/mod.rs`.
fn module_file(folder: &Path) -> PathBuf {
    let beside = folder.with_extension("rs");
    if beside.exists() { beside } else { folder.join("mod.rs") }
}

/// `built`, further narrowed by the `cfg`s among attributes.
fn narrowed(built: Built, attrs: &[Attribute]) -> Built {
    attrs.iter().filter(|attr| path_of(attr) == "cfg").fold(built, |built, attr| {
        let condition = match &attr.meta {
            Meta::List(list) => list.tokens.to_string(),
            _ => String::new(),
        };
        match (built, condition.as_str()) {
            (built, "test") => built,
            (Built::Tested, "kani") => Built::Kani,
            _ => Built::Perhaps,
        }
    })
}

fn path_of(attr: &Attribute) -> String {
    attr.path().segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>().join("::")
}
