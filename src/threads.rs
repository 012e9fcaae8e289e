//! Work on all cores.

use crate::error::Result;

#[cfg(not(target_family = "wasm"))]
pub(crate) use native::{beside, count, map};

/// Runs `work` on each part, and gives the error of the first part that has one, whichever came first in time.
pub(crate) fn first_error<T: Send>(parts: Vec<T>, work: impl Fn(T) -> Result<()> + Send + Sync) -> Result<()> {
    map(parts, work).into_iter().collect()
}

/// How many threads share work.
#[cfg(target_family = "wasm")]
pub(crate) const fn count() -> usize {
    1
}

/// What `work` makes of each part, in order.
#[cfg(target_family = "wasm")]
pub(crate) fn map<T, R>(parts: Vec<T>, work: impl Fn(T) -> R) -> Vec<R> {
    parts.into_iter().map(work).collect()
}

/// Runs `other` on another thread while `here` runs on this one; where there is no other thread, one after the other.
#[cfg(target_family = "wasm")]
pub(crate) fn beside<A, B>(other: impl FnOnce() -> A, here: impl FnOnce() -> B) -> (A, B) {
    (other(), here())
}

#[cfg(not(target_family = "wasm"))]
mod native {
    use std::sync::{LazyLock, Mutex, PoisonError};

    use rayon::prelude::*;
    use rayon::{ThreadPool, ThreadPoolBuilder};

    /// What a worker's stack takes. Little: it counts as address space, which may be limited, once for each core.
    const STACK_BYTES: usize = 256 << 10;

    /// `None` where no thread can be started: then the caller's does the work.
    static POOL: LazyLock<Option<ThreadPool>> = LazyLock::new(|| {
        let name = |index| format!("wgquant-{index}");
        ThreadPoolBuilder::new().stack_size(STACK_BYTES).thread_name(name).build().ok()
    });

    /// How many threads share work: all cores, or the threads of the rayon pool that this is called in.
    pub(crate) fn count() -> usize {
        match &*POOL {
            _ if rayon::current_thread_index().is_some() => rayon::current_num_threads(),
            Some(pool) => pool.current_num_threads(),
            None => 1,
        }
    }

    /// What `work` makes of each part, in order: on all cores, or on the threads of the rayon pool that this is called in.
    pub(crate) fn map<T: Send, R: Send>(parts: Vec<T>, work: impl Fn(T) -> R + Send + Sync) -> Vec<R> {
        if parts.len() < 2 {
            return parts.into_iter().map(work).collect();
        }
        let in_pool = |parts: Vec<T>| parts.into_par_iter().map(&work).collect();
        match &*POOL {
            _ if rayon::current_thread_index().is_some() => in_pool(parts),
            Some(pool) => pool.install(|| in_pool(parts)),
            None => parts.into_iter().map(work).collect(),
        }
    }

    /// Runs `other` on another thread while `here` runs on this one; where there is no other thread, one after the other.
    pub(crate) fn beside<A: Send, B>(other: impl FnOnce() -> A + Send, here: impl FnOnce() -> B) -> (A, B) {
        let Some(pool) = &*POOL else { return (other(), here()) };
        let result = Mutex::new(None);
        let here = pool.in_place_scope(|scope| {
            scope.spawn(|_| {
                let value = other();
                *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            });
            here()
        });
        // The scope has waited for it, and passes its panic on.
        match result.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(value) => (value, here),
            None => unreachable!("a scope ends when all of it is done"),
        }
    }
}
