//! Storage that JavaScript has: `Blob`s, files of the browser's own, typed arrays.

use std::io::{Error, ErrorKind, Result};

use js_sys::{Error as JsError, Uint8Array};
use wasm_bindgen::prelude::*;
use wgquant::checkpoint::Storage;

use crate::handle::Handle;

#[wasm_bindgen]
extern "C" {
    /// Bytes that are read and written by ranges, at once: what is asked for is there when the call returns.
    pub type JsStorage;

    #[wasm_bindgen(method, catch)]
    fn size(this: &JsStorage) -> std::result::Result<f64, JsValue>;

    /// Fills `bytes` from byte `at` on; gives how many there were.
    #[wasm_bindgen(method, catch)]
    fn read(this: &JsStorage, at: f64, bytes: &mut [u8]) -> std::result::Result<f64, JsValue>;

    /// Takes `bytes` at byte `at`; gives how many it took.
    #[wasm_bindgen(method, catch)]
    fn write(this: &JsStorage, at: f64, bytes: &[u8]) -> std::result::Result<f64, JsValue>;

    #[wasm_bindgen(method, catch)]
    fn truncate(this: &JsStorage, n_bytes: f64) -> std::result::Result<(), JsValue>;
}

/// [`JsStorage`] as the library takes it.
#[derive(Debug)]
pub(crate) struct Stored(Handle);

impl Stored {
    pub(crate) fn new(storage: JsStorage) -> Self {
        Self(Handle::new(storage.into()))
    }

    fn storage(&self) -> JsStorage {
        self.0.object().unchecked_into()
    }
}

impl Storage for Stored {
    fn n_bytes(&self) -> Result<u64> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number of bytes")]
        let n_bytes = self.storage().size().map_err(io_error)? as u64;
        Ok(n_bytes)
    }

    fn read_range(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let wanted = as_number(bytes.len() as u64);
        match self.storage().read(as_number(at), bytes).map_err(io_error)? {
            read if read >= wanted => Ok(()),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write_range(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let wanted = as_number(bytes.len() as u64);
        match self.storage().write(as_number(at), bytes).map_err(io_error)? {
            written if written >= wanted => Ok(()),
            _ => Err(Error::new(ErrorKind::StorageFull, "the browser has no more room for this page")),
        }
    }

    fn set_n_bytes(&self, n_bytes: u64) -> Result<()> {
        self.storage().truncate(as_number(n_bytes)).map_err(io_error)
    }
}

/// Bytes of a file as JavaScript counts them: exact below 2^53.
#[expect(clippy::cast_precision_loss, reason = "no file has 2^53 bytes")]
pub(crate) fn as_number(n_bytes: u64) -> f64 {
    n_bytes as f64
}

/// What JavaScript threw, as the system's errors are.
fn io_error(thrown: JsValue) -> Error {
    match thrown.dyn_into::<JsError>() {
        Ok(error) if error.name() == "QuotaExceededError" => {
            Error::new(ErrorKind::StorageFull, "the browser has no more room for this page")
        }
        Ok(error) => Error::other(format!("{} ({})", String::from(error.message()), String::from(error.name()))),
        // A DOMException is no Error to every browser's `instanceof`.
        Err(thrown) => Error::other(text_of(&thrown)),
    }
}

/// What a thrown value says.
pub(crate) fn text_of(thrown: &JsValue) -> String {
    let of = |key: &str| js_sys::Reflect::get(thrown, &key.into()).ok().and_then(|text| text.as_string());
    of("message").or_else(|| thrown.as_string()).unwrap_or_else(|| "the browser does not say why".to_owned())
}

/// A copy in JavaScript's memory.
pub(crate) fn to_js(bytes: &[u8]) -> Uint8Array {
    Uint8Array::from(bytes)
}
