//! A packed tensor, as JavaScript holds it.

use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use wgquant::Packed;

use crate::errors::{JsResult, named, thrown};
use crate::storage::{as_number, to_js};

/// Codes and scales in wasm's memory.
#[wasm_bindgen(js_name = RawPacked)]
#[derive(Debug)]
pub struct RawPacked(pub(crate) Packed);

#[wasm_bindgen(js_class = RawPacked)]
impl RawPacked {
    /// From parts that were kept.
    #[wasm_bindgen(js_name = fromParts)]
    pub fn from_parts(
        format: &str,
        n_elems: f64,
        codes: Vec<u8>,
        scales: Vec<u8>,
        nested_absmax: Vec<u8>,
        nested_offset: f32,
    ) -> JsResult<Self> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number, as JavaScript checks"
        )]
        let n_elems = n_elems as u64;
        let format = named(format)?;
        let packed = Packed::from_nested_parts(format, n_elems, codes, scales, nested_absmax, nested_offset);
        packed.map(Self).map_err(thrown)
    }

    #[wasm_bindgen(getter)]
    pub fn format(&self) -> String {
        self.0.format().name().to_owned()
    }

    #[wasm_bindgen(getter)]
    pub fn length(&self) -> f64 {
        as_number(self.0.n_elems())
    }

    #[wasm_bindgen(getter)]
    pub fn codes(&self) -> Uint8Array {
        to_js(self.0.codes())
    }

    #[wasm_bindgen(getter)]
    pub fn scales(&self) -> Uint8Array {
        to_js(self.0.scales())
    }

    #[wasm_bindgen(getter, js_name = nestedAbsmax)]
    pub fn nested_absmax(&self) -> Uint8Array {
        to_js(self.0.nested_absmax())
    }

    #[wasm_bindgen(getter, js_name = nestedOffset)]
    pub fn nested_offset(&self) -> f32 {
        self.0.nested_offset()
    }

    #[wasm_bindgen(getter, js_name = byteLength)]
    pub fn byte_length(&self) -> f64 {
        as_number(self.0.size_in_bytes() as u64)
    }

    #[wasm_bindgen(getter)]
    pub fn digest(&self) -> String {
        wgquant::checkpoint::hex(&self.0.digest())
    }
}
