//! The library's case table and its shaders, for tests in a browser.

use js_sys::Function;
use wasm_bindgen::prelude::*;
use wgquant::Engine;
use wgquant::gpu::{Kernel, ProductKernel};
use wgquant::selftest;

use crate::engine::RawEngine;
use crate::errors::{JsResult, refused, thrown};

/// Runs the case table on the engine's GPU; tells `failed` what differs, and gives the number of comparisons.
#[wasm_bindgen(js_name = runCases)]
pub async fn run_cases(engine: &RawEngine, failed: Function) -> JsResult<f64> {
    let Engine::Gpu(gpu) = engine.0.first() else {
        return Err(refused("the case table is for GPUs, and this engine is the CPU"));
    };
    let n_compared = selftest::run(gpu, |failure| {
        let _ = failed.call1(&JsValue::NULL, &failure.to_string().into());
    });
    Ok(crate::storage::as_number(n_compared.await.map_err(thrown)? as u64))
}

/// Every kernel that needs no feature: label, entry point and WGSL, one after the other.
#[wasm_bindgen(js_name = allShaders)]
pub fn all_shaders() -> Vec<String> {
    let kernels = Kernel::all().filter(|kernel| kernel.needs().is_empty());
    let kernels = kernels.map(|kernel| [kernel.label(), kernel.entry_point().to_owned(), kernel.source()]);
    let products =
        ProductKernel::all().map(|kernel| [kernel.label(), kernel.entry_point().to_owned(), kernel.source()]);
    kernels.chain(products).flatten().collect()
}
