//! Makes the JavaScript that goes with a wasm module: wasm-bindgen's own library, of the version that the module was built with.

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let module = arguments.next().context("name the wasm module")?;
    let folder = arguments.next().context("name the folder for what is made")?;
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    bindgen.input_path(module).web(true)?.typescript(false).out_name("wgquant");
    bindgen.remove_name_section(true).remove_producers_section(true);
    bindgen.generate(folder)
}
