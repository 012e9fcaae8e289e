//! The steps of a job, spread over the engines that it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::engine::Engine;
use crate::error::{Error, Result};

/// What came of all steps.
pub(crate) struct Spread<T> {
    /// One a step, in order.
    pub(crate) results: Vec<T>,
    /// Sentences that a person should read: engines that dropped out.
    pub(crate) notices: Vec<String>,
}

/// Does steps `0..n_steps`, each with the engine that is free first. A step whose engine loses its device, or fails for
/// another reason of its own, is done again by another engine, and that one gets no more. One engine works on the thread
/// of the caller, several on a thread each while the caller's waits.
///
/// # Errors
/// That of the first step which has one, whichever came first in time; steps behind it are not begun any more. If no
/// engine is left, the last one's reason.
pub(crate) async fn spread<T: Send>(
    engines: &[Engine],
    n_steps: usize,
    work: impl AsyncFn(&Engine, usize) -> Result<T> + Sync,
) -> Result<Spread<T>> {
    let board = Board::new(n_steps);
    let mut left: Vec<&Engine> = engines.iter().collect();
    // Again, because a step may come back when the other engines are through.
    while board.has_more() && !left.is_empty() {
        let stays = match left[..] {
            [engine] => vec![work_off(engine, &board, &work).await],
            _ => work_off_beside(&left, &board, &work).await,
        };
        let mut stays = stays.into_iter();
        left.retain(|_| stays.next().unwrap_or_default());
    }
    board.finish()
}

/// Does steps with one engine until there are no more; `false` if it dropped out.
async fn work_off<T>(engine: &Engine, board: &Board<T>, work: &impl AsyncFn(&Engine, usize) -> Result<T>) -> bool {
    while let Some(step) = board.take() {
        match work(engine, step).await {
            Ok(result) => board.done(step, result),
            Err(error) if error.is_of_engine() => {
                board.give_back(step, engine, error);
                return false;
            }
            Err(error) => board.fail(step, error),
        }
    }
    true
}

/// [`work_off`] for each engine on a thread of its own.
#[cfg(not(target_family = "wasm"))]
async fn work_off_beside<T: Send>(
    engines: &[&Engine],
    board: &Board<T>,
    work: &(impl AsyncFn(&Engine, usize) -> Result<T> + Sync),
) -> Vec<bool> {
    std::thread::scope(|scope| {
        let start = |engine| {
            let thread = std::thread::Builder::new().name("wgquant-engine".to_owned());
            thread.spawn_scoped(scope, move || pollster::block_on(work_off(engine, board, work)))
        };
        let threads: Vec<_> = engines.iter().copied().map(start).collect();
        let ended = threads.into_iter().map(|thread| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => {
                board.fail(0, super::data::io_error("a thread can't be started", error));
                true
            }
        });
        ended.collect()
    })
}

/// [`work_off`] for one engine after the other: there are no threads, so the first does everything.
#[cfg(target_family = "wasm")]
async fn work_off_beside<T>(
    engines: &[&Engine],
    board: &Board<T>,
    work: &impl AsyncFn(&Engine, usize) -> Result<T>,
) -> Vec<bool> {
    let mut stays = Vec::new();
    for engine in engines {
        stays.push(work_off(engine, board, work).await);
    }
    stays
}

/// What is to be done, and what was.
struct Board<T>(Mutex<Steps<T>>);

struct Steps<T> {
    todo: BTreeSet<usize>,
    results: Vec<Option<T>>,
    /// The first step that failed.
    failed: Option<(usize, Error)>,
    /// Steps whose engines dropped out, with the reason.
    given_back: BTreeMap<usize, Error>,
    notices: Vec<String>,
}

impl<T> Steps<T> {
    /// Whether a step may be begun: none behind one that failed.
    fn may_begin(&self, step: usize) -> bool {
        self.failed.as_ref().is_none_or(|&(failed, _)| step < failed)
    }
}

impl<T> Board<T> {
    fn new(n_steps: usize) -> Self {
        Self(Mutex::new(Steps {
            todo: (0..n_steps).collect(),
            results: (0..n_steps).map(|_| None).collect(),
            failed: None,
            given_back: BTreeMap::new(),
            notices: Vec::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Steps<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_more(&self) -> bool {
        let steps = self.lock();
        steps.todo.first().is_some_and(|&step| steps.may_begin(step))
    }

    fn take(&self) -> Option<usize> {
        let mut steps = self.lock();
        let step = *steps.todo.first()?;
        (steps.may_begin(step) && steps.todo.remove(&step)).then_some(step)
    }

    fn done(&self, step: usize, result: T) {
        let mut steps = self.lock();
        if let Some(place) = steps.results.get_mut(step) {
            *place = Some(result);
        }
    }

    fn fail(&self, step: usize, error: Error) {
        let mut steps = self.lock();
        if steps.may_begin(step) {
            steps.failed = Some((step, error));
        }
    }

    fn give_back(&self, step: usize, engine: &Engine, error: Error) {
        let mut steps = self.lock();
        let reason = match error.root() {
            Error::DeviceLost { reason, .. } => format!("was lost while working ({reason})"),
            other => format!("dropped out ({other})"),
        };
        steps.notices.push(format!("{} {reason}, so the other devices did its work", engine.description()));
        steps.todo.insert(step);
        steps.given_back.insert(step, error);
    }

    fn finish(self) -> Result<Spread<T>> {
        let mut steps = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, error)) = steps.failed {
            return Err(error);
        }
        if let Some(error) = steps.todo.first().and_then(|step| steps.given_back.remove(step)) {
            return Err(error);
        }
        match steps.results.into_iter().collect() {
            Some(results) => Ok(Spread { results, notices: steps.notices }),
            None => Err(Error::Refused("there is no engine to work with".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn lost() -> Error {
        Error::DeviceLost { adapter: "x".to_owned(), reason: "gone".to_owned() }
    }

    fn run(
        n_engines: usize,
        n_steps: usize,
        work: impl AsyncFn(&Engine, usize) -> Result<usize> + Sync,
    ) -> Result<Spread<usize>> {
        let engines: Vec<_> = (0..n_engines).map(|_| Engine::Cpu).collect();
        pollster::block_on(spread(&engines, n_steps, work))
    }

    #[test]
    fn results_are_in_order_and_each_step_is_done_once() {
        for n_engines in 1..4 {
            let n_calls = AtomicUsize::new(0);
            let done = run(n_engines, 100, async |_, step| {
                n_calls.fetch_add(1, Ordering::Relaxed);
                Ok(step)
            });
            assert_eq!(done.expect("no error").results, (0..100).collect::<Vec<_>>());
            assert_eq!(n_calls.into_inner(), 100);
        }
        assert!(run(0, 1, async |_, step| Ok(step)).is_err());
        assert!(run(1, 0, async |_, step| Ok(step)).is_ok());
    }

    #[test]
    fn engines_work_beside_each_other() {
        let both = Barrier::new(2);
        run(2, 2, async |_, step| {
            both.wait(); // would wait for ever with one
            Ok(step)
        })
        .expect("no error");
    }

    #[test]
    fn the_first_step_that_fails_counts_and_none_behind_it_is_begun() {
        let (both, most) = (Barrier::new(2), AtomicUsize::new(0));
        let failed = run(2, 50, async |_, step| {
            most.fetch_max(step, Ordering::Relaxed);
            match step {
                0 => {
                    both.wait();
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    Err(Error::Refused("the first".to_owned()))
                }
                1 => {
                    both.wait();
                    Err(Error::Refused("the second, and sooner".to_owned()))
                }
                step => Ok(step),
            }
        });
        assert_eq!(failed.err().expect("two failed").to_string(), "the first");
        assert_eq!(most.into_inner(), 1);
    }

    #[test]
    fn a_step_of_a_lost_engine_goes_to_another() {
        // The engine with the last step drops out when the other has nothing left to do.
        let (both, n_lost) = (Barrier::new(2), AtomicUsize::new(0));
        let done = run(2, 2, async |_, step| {
            if n_lost.load(Ordering::Relaxed) == 0 {
                both.wait();
            }
            if step == 1 && n_lost.fetch_add(1, Ordering::Relaxed) == 0 {
                std::thread::sleep(std::time::Duration::from_millis(50));
                return Err(lost());
            }
            Ok(step)
        })
        .expect("the other does it");
        assert_eq!(done.results, [0, 1]);
        assert_eq!(done.notices, ["CPU was lost while working (gone), so the other devices did its work"]);
        // None is left.
        for n_engines in 1..3 {
            let n_calls = AtomicUsize::new(0);
            let error =
                run(
                    n_engines,
                    9,
                    async |_, step| {
                        if n_calls.fetch_add(1, Ordering::Relaxed) < 4 { Ok(step) } else { Err(lost()) }
                    },
                );
            assert!(matches!(error, Err(Error::DeviceLost { .. })));
            assert_eq!(n_calls.into_inner(), 4 + n_engines);
        }
    }
}
