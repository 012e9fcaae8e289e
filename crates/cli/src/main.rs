//! `wgquant`: compresses the weights of a checkpoint, and proves that what came out is right.

use std::process::ExitCode;

fn main() -> ExitCode {
    hush_wayland();
    ExitCode::from(wgquant_cli::run(std::env::args_os()))
}

/// Keeps standard error to this program's own sentences. Mesa's Vulkan layer asks for a Wayland display, and where
/// `XDG_RUNTIME_DIR` is unset, as in containers and on servers, libwayland prints an error about that itself. A folder
/// that is not there has no display either, and libwayland says nothing.
fn hush_wayland() {
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: this is the first thing that main does, so no other thread reads or writes the environment.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", "/nonexistent") };
    }
}
