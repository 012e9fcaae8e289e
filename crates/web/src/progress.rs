//! How far a job is, to JavaScript and back.

use js_sys::Function;
use wasm_bindgen::{JsCast, JsValue};
use wgquant::checkpoint::Progress;
use wgquant::{Error, Result};

use crate::handle::Handle;
use crate::storage::as_number;

/// A function that is told what is being worked on, what is done and what there is to do, and answers whether to stop.
#[derive(Debug)]
pub(crate) struct Callback(Handle);

impl Callback {
    pub(crate) fn new(function: Function) -> Self {
        Self(Handle::new(function.into()))
    }

    fn says_stop(&self, what: &str, done: u64, total: u64) -> bool {
        let function = self.0.object().unchecked_into::<Function>();
        let answer = function.call3(&JsValue::NULL, &what.into(), &as_number(done).into(), &as_number(total).into());
        // One that throws wants no more either.
        answer.map_or(true, |answer| answer.is_truthy())
    }

    /// For a job on files.
    pub(crate) fn of_job(&self) -> impl FnMut(Progress<'_>) + Send + '_ {
        |progress| {
            if self.says_stop(progress.tensor, progress.done_bytes, progress.total_bytes) {
                progress.give_up();
            }
        }
    }

    /// For a tensor of so many elements.
    ///
    /// # Errors
    /// [`Error::GivenUp`] if it is to stop.
    pub(crate) fn tell(&self, done: u64, total: u64) -> Result<()> {
        if self.says_stop("", done, total) { Err(Error::GivenUp) } else { Ok(()) }
    }
}
