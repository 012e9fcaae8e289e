//! The README says what the code says.

#![cfg(test)] // so that lints know every helper for a part of a test

use std::fmt::Write as _;

use wgquant::{Container, Format};

const README: &str = include_str!("../README.md");

/// The table of formats, from the table in `src/format.rs`.
fn format_table() -> String {
    let mut table = "\
| format | what it is | bits per weight | block | scale | containers |
| --- | --- | --- | --- | --- | --- |
"
    .to_owned();
    for &format in Format::ALL {
        let info = format.info();
        let containers: Vec<_> = info.containers.iter().copied().map(Container::name).collect();
        let (bits, block, scale, containers) =
            (info.bits_per_weight(), info.block, info.scale.name(), containers.join(", "));
        let row = writeln!(table, "| `{format}` | {} | {bits} | {block} | {scale} | {containers} |", info.summary);
        row.expect("a String takes everything");
    }
    table
}

#[test]
fn the_readme_has_the_table_of_formats() {
    let (_, rest) = README.split_once("<!-- formats: ").expect("the README marks where its table starts");
    let (_, rest) = rest.split_once("-->\n").expect("the mark ends");
    let (table, _) = rest.split_once("<!-- /formats -->").expect("the README marks where its table ends");
    let expected = format_table();
    assert!(table.trim() == expected.trim(), "the README's table should be:\n{expected}");
}

#[test]
fn the_readme_names_the_two_commands() {
    for command in ["cargo run --release -- demo", "cargo xtask test"] {
        assert!(README.contains(command), "{command}");
    }
}

/// Every link to a file of this repository leads somewhere.
#[test]
fn links_between_the_documents_work() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let text = std::fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let is_elsewhere = target.contains("://") || target.starts_with('#');
            assert!(is_elsewhere || root.join(target).exists(), "{name} links to {target}, which does not exist");
        }
    }
}
