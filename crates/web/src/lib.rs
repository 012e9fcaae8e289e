//! The library in a browser: what `js/` builds its own interface on. Nothing here is for others to call.
// Bad input must reach the user as a sentence.
#![warn(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod checks;
mod engine;
mod errors;
mod handle;
mod jobs;
mod packed;
mod progress;
mod report;
mod storage;

use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(text: &str);
}

/// A panic is a mistake of ours; the console gets to know where, as the trap that follows says nothing.
#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|panic| console_error(&panic.to_string())));
}
