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
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

    use rayon::{ThreadPool, ThreadPoolBuilder};

    /// What a worker's stack takes. Little: it counts as address space, which may be limited, once for each core.
    const STACK_BYTES: usize = 256 << 10;

    /// Turns of waiting for others before going to sleep: some tens of microseconds.
    const SPINS: usize = 1000;

    /// `None` where no thread can be started: then the caller's does the work.
    static POOL: LazyLock<Option<ThreadPool>> = LazyLock::new(|| {
        let name = |index| format!("wgquant-{index}");
        ThreadPoolBuilder::new().stack_size(STACK_BYTES).thread_name(name).build().ok()
    });

    /// How many threads share work: all cores, or the threads of the rayon pool that this is called in.
    pub(crate) fn count() -> usize {
        if rayon::current_thread_index().is_some() {
            return rayon::current_num_threads();
        }
        POOL.as_ref().map_or(1, ThreadPool::current_num_threads)
    }

    /// What `work` makes of each part, in order: on all cores, or on the threads of the rayon pool that this is called in.
    ///
    /// The caller's thread is one of those that work, as waking another takes as long as some ten thousand weights.
    pub(crate) fn map<T: Send, R: Send>(parts: Vec<T>, work: impl Fn(T) -> R + Send + Sync) -> Vec<R> {
        // Asking how many threads there are starts them.
        if parts.len() < 2 || count() < 2 {
            return parts.into_iter().map(work).collect();
        }
        let n_others = count().min(parts.len()) - 1;
        let mut results: Vec<_> = parts.iter().map(|_| None).collect();
        let left = Mutex::new(parts.into_iter().zip(&mut results));
        let n_ended = AtomicUsize::new(0);
        let work_off = || {
            while let Some((part, result)) = { lock(&left).next() } {
                *result = Some(work(part));
            }
        };
        in_scope(|scope| {
            for _ in 0..n_others {
                scope.spawn(|_| {
                    work_off();
                    n_ended.fetch_add(1, Ordering::Release);
                });
            }
            work_off();
            // The others are about to end. To sleep and be woken would take longer.
            for _ in 0..SPINS {
                if n_ended.load(Ordering::Acquire) == n_others {
                    break;
                }
                std::hint::spin_loop();
            }
        });
        drop(left);
        // All are there: a panic of one has gone on from the scope.
        results.into_iter().flatten().collect()
    }

    /// A scope of the pool that this is called in, else of our own. Where there is none, nothing may be spawned.
    fn in_scope<'scope, R>(work: impl FnOnce(&rayon::Scope<'scope>) -> R) -> R {
        if rayon::current_thread_index().is_none()
            && let Some(pool) = &*POOL
        {
            return pool.in_place_scope(work);
        }
        rayon::in_place_scope(work)
    }

    /// Runs `other` on another thread while `here` runs on this one; where there is no other thread, one after the other.
    pub(crate) fn beside<A: Send, B>(other: impl FnOnce() -> A + Send, here: impl FnOnce() -> B) -> (A, B) {
        let Some(pool) = &*POOL else { return (other(), here()) };
        let result = Mutex::new(None);
        let here = pool.in_place_scope(|scope| {
            scope.spawn(|_| {
                let value = other();
                *lock(&result) = Some(value);
            });
            here()
        });
        // The scope has waited for it, and passes its panic on.
        match result.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(value) => (value, here),
            None => unreachable!("a scope ends when all of it is done"),
        }
    }

    /// The data under a lock. Nobody holds one while something of the caller's runs.
    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use super::{count, map};

    #[test]
    fn results_come_in_order_from_any_thread() {
        let squares = || map((0..1000_u64).collect(), |part| part * part);
        let expected: Vec<_> = (0..1000).map(|part| part * part).collect();
        assert_eq!(squares(), expected);
        for n_threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("threads start");
            assert_eq!(pool.install(|| (count(), squares())), (n_threads, expected.clone()));
        }
        // One within another, and many at a time.
        let sums = map((0..20).collect(), |_: u32| squares().iter().sum::<u64>());
        assert_eq!(sums, vec![expected.iter().sum::<u64>(); 20]);
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(squares)).collect();
            all.into_iter().for_each(|squares| assert_eq!(squares.join().expect("no panic"), expected));
        });
        assert!(map(Vec::new(), |part: u32| part).is_empty());
    }

    #[test]
    fn a_panic_goes_on_and_the_next_work_is_done() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads start");
        for bad in [0, 7, 99] {
            let all = || map((0..100).collect(), |part: u32| assert_ne!(part, bad));
            assert!(std::panic::catch_unwind(all).is_err(), "{bad}");
            let in_pool = std::panic::AssertUnwindSafe(|| pool.install(all));
            assert!(std::panic::catch_unwind(in_pool).is_err(), "{bad} in a pool");
        }
        assert_eq!(map((0..100).collect(), |part: u32| part).len(), 100);
    }
}
