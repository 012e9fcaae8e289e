//! The web package in a headless Chromium, on the software WebGPU that the browser brings.
//!
//! `cargo xtask web` makes what is looked at here.

#![cfg(test)] // so that lints know every helper for a part of a test

mod api;
mod common;
mod files;
mod gpu;
mod page;
