//! JavaScript objects by number.
//!
//! The library wants storage and callbacks that go from thread to thread. JavaScript's objects can't, but their numbers can;
//! and there is only the one thread, whose table this is.

use std::cell::RefCell;
use std::collections::HashMap;

use wasm_bindgen::JsValue;

thread_local! {
    static TABLE: RefCell<Table> = RefCell::default();
}

#[derive(Default)]
struct Table {
    objects: HashMap<u32, JsValue>,
    next: u32,
}

/// An object that is in the table as long as this lives.
#[derive(Debug)]
pub(crate) struct Handle(u32);

impl Handle {
    pub(crate) fn new(object: JsValue) -> Self {
        TABLE.with_borrow_mut(|table| {
            let number = table.next;
            table.next = table.next.wrapping_add(1);
            table.objects.insert(number, object);
            Self(number)
        })
    }

    /// The object: another reference to it, so that the table is free while it is called.
    pub(crate) fn object(&self) -> JsValue {
        TABLE.with_borrow(|table| table.objects.get(&self.0).cloned().unwrap_or_default())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // When the thread ends, the table may be gone before.
        let _ = TABLE.try_with(|table| table.try_borrow_mut().map(|mut table| table.objects.remove(&self.0)));
    }
}
