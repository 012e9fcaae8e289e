//! The project's own commands: `cargo xtask help` lists them.

mod bench;
mod checkpoint;
mod fixture;
mod fuzz;
mod gguf_package;
mod interop;
mod packages;
mod python;
mod serve;
mod steps;
mod wasm_toolchain;
mod web;

use std::path::Path;
use std::process::ExitCode;

const HELP: &str = "\
Commands:
  cargo xtask test     set up what the tests need, then formatting, clippy, documentation and every test
  cargo xtask setup    only set up what the tests need: software adapters where there is no GPU, a browser, a real checkpoint
  cargo xtask python   only the Python package: builds the wheel and runs its tests, those on a local Ray cluster too
  cargo xtask web      only the web package: compiles it to wasm and makes the page, in target/web
  cargo xtask serve    only the service's interface: what its OpenAPI document says, tried against it running
  cargo xtask interop  the live comparison with transformers, llama.cpp and others (compiles for minutes at first)
  cargo xtask bench    how fast all of it is: one table of ratios, also written into docs/benchmarks.md (half an hour)
  cargo xtask bench cpu|gpu|commands [OPTION]...
                       one of its parts, with its own table: the CPU path beside what memory allows and beside peers,
                       kernels on every adapter beside copies, or whole commands beside cp
  cargo xtask fuzz N   hostile files for N seconds a reader (10 minutes each before a release)
  cargo xtask make-checkpoint --size 8GiB
                       a synthetic model in shards, in .fixtures/, for benches/checkpoint.py
  cargo xtask help     this text
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["test"] => steps::test(root()),
        ["setup"] => steps::setup(root()),
        ["python"] => python::ensure(root())
            .and_then(|()| steps::build_program(root()))
            .and_then(|()| python::test(root(), python::Tests::All)),
        ["serve"] => {
            serve::ensure(root()).and_then(|()| steps::build_program(root())).and_then(|()| serve::test(root()))
        }
        ["interop"] => interop::interop(root()),
        ["web"] => wasm_toolchain::ensure(root()).and_then(|()| web::build(root())),
        ["make-checkpoint", "--size", size] => checkpoint::make(root(), size),
        ["bench"] => bench::all(root()),
        ["bench", "cpu", ref options @ ..] => bench::cpu(root(), options),
        ["bench", "gpu", ref options @ ..] => bench::gpu(root(), options),
        ["bench", "commands", ref options @ ..] => bench::commands(root(), options),
        ["fuzz", seconds] => fuzz::fuzz(root(), seconds),
        ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root.
fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}
