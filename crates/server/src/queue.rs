//! The queue before the devices: bounded, and it says no when it is full.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wgquant::{Engine, Error};

use crate::problem::{Kind, Problem};
use crate::spool::lock;

/// Something to be done on a device.
pub trait Work: fmt::Debug + Send {
    /// Whether it can go through without waiting for a client.
    fn is_ready(&self) -> bool {
        true
    }

    /// Whether nobody wants it any more.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// Does it, on the worker's thread. Called again after [`Ran::Stalled`] and [`Ran::DeviceFailed`].
    fn run(&mut self, engine: &Engine) -> Ran;

    /// It can't be done: its device failed twice, or a fault of the service came between.
    fn fail(&mut self, problem: Problem);
}

/// What became of work.
#[derive(Debug)]
pub enum Ran {
    /// It is done, well or not, and its owner knows.
    Done,
    /// It waits for a slow client while other work could be done: it goes back until all of its input is there.
    Stalled,
    /// The device failed, and the work can be done again.
    DeviceFailed(Error),
}

/// Who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// A client waits for it now. These go first.
    Direct,
    /// A job in the background.
    Job,
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Direct, Self::Job];

    /// For metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Job => "job",
        }
    }
}

/// Work that waits, or runs, with what the queue knows of it.
#[derive(Debug)]
pub struct Item {
    /// The work.
    pub work: Box<dyn Work>,
    /// Its lane.
    pub lane: Lane,
    /// Whether it waits until it is ready, as it was begun before and stalled.
    pub must_be_ready: bool,
    /// How often a device has failed it.
    pub n_failed: usize,
}

/// Work that waits for one of the workers.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    max: [usize; 2],
    n_workers: usize,
}

#[derive(Debug, Default)]
struct State {
    lanes: [VecDeque<Item>; 2],
    n_running: [usize; 2],
    refused: [u64; 2],
    /// Nothing more is taken.
    is_closed: bool,
    /// How long direct work took lately, for Retry-After.
    mean_seconds: f64,
}

impl Queue {
    /// An empty queue before `n_workers`, where so many may wait in each lane.
    #[must_use]
    pub fn new(max_direct: usize, max_jobs: usize, n_workers: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), max: [max_direct, max_jobs], n_workers }
    }

    /// Adds work at the end of its lane.
    ///
    /// # Errors
    /// [`Kind::QueueFull`] with when to try again, and [`Kind::Unavailable`] where the service is stopping.
    pub fn push(&self, lane: Lane, work: Box<dyn Work>) -> Result<(), Problem> {
        let mut state = lock(&self.state);
        if state.is_closed {
            return Err(stopping());
        }
        state.lanes[lane as usize].retain(|item| !item.work.is_cancelled());
        let idle = self.n_workers.saturating_sub(state.n_running.iter().sum());
        if state.lanes[lane as usize].len() >= self.max[lane as usize].saturating_add(idle) {
            state.refused[lane as usize] += 1;
            let seconds = retry_after(&state, self.n_workers);
            let text = format!(
                "{} wait already, as many as may: try again in {seconds} s",
                if lane == Lane::Direct { "requests" } else { "jobs" }
            );
            return Err(Problem::new(Kind::QueueFull, text).retry_after(seconds));
        }
        state.lanes[lane as usize].push_back(Item { work, lane, must_be_ready: false, n_failed: 0 });
        self.changed.notify_one();
        Ok(())
    }

    /// Adds work that another process had taken already, so that it can't be refused any more.
    pub fn restore(&self, lane: Lane, work: Box<dyn Work>) {
        let item = Item { work, lane, must_be_ready: false, n_failed: 0 };
        lock(&self.state).lanes[lane as usize].push_back(item);
        self.changed.notify_one();
    }

    /// Puts work back that was begun, before all other; it counts against no limit.
    pub fn put_back(&self, item: Item) {
        let mut state = lock(&self.state);
        state.n_running[item.lane as usize] -= 1;
        state.lanes[item.lane as usize].push_front(item);
        self.changed.notify_all();
    }

    /// Tells the workers that something has become ready, or was given up.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits for work; `None` once the queue is closed and no direct work is left.
    pub fn pop(&self) -> Option<Item> {
        let mut state = lock(&self.state);
        loop {
            if let Some(item) = next(&mut state) {
                state.n_running[item.lane as usize] += 1;
                return Some(item);
            }
            if state.is_closed && state.lanes[Lane::Direct as usize].is_empty() {
                return None;
            }
            // Looked at now and then even if nobody calls, for what was given up.
            let waited = self.changed.wait_timeout(state, Duration::from_secs(1));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Says that work which was taken is done.
    pub fn done(&self, lane: Lane, started: Instant) {
        let mut state = lock(&self.state);
        state.n_running[lane as usize] -= 1;
        if lane == Lane::Direct {
            let seconds = started.elapsed().as_secs_f64();
            state.mean_seconds =
                if state.mean_seconds == 0.0 { seconds } else { state.mean_seconds.mul_add(0.8, seconds * 0.2) };
        }
        self.changed.notify_all();
    }

    /// Whether other work could be done at once, by a worker that waits for a client.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        let state = lock(&self.state);
        let mut items = state.lanes.iter().flatten();
        items.any(|item| item.work.is_ready() && !item.work.is_cancelled())
    }

    /// Takes nothing more. Direct work that is there is still done; jobs stay where they are.
    pub fn close(&self) {
        lock(&self.state).is_closed = true;
        self.changed.notify_all();
    }

    /// Whether it was closed, so that a job that runs shall stop.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        lock(&self.state).is_closed
    }

    /// How much waits and runs in a lane, and how much was refused.
    #[must_use]
    pub fn counts(&self, lane: Lane) -> (usize, usize, u64) {
        let state = lock(&self.state);
        (state.lanes[lane as usize].len(), state.n_running[lane as usize], state.refused[lane as usize])
    }
}

/// That the service is stopping.
pub(crate) fn stopping() -> Problem {
    Problem::new(Kind::Unavailable, "the service is stopping: try again when it is back").retry_after(5)
}

/// Seconds until a place may be free.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "clamped")]
fn retry_after(state: &State, n_workers: usize) -> u64 {
    let n = state.lanes[Lane::Direct as usize].len() + state.n_running[Lane::Direct as usize];
    let seconds = state.mean_seconds * n as f64 / n_workers.max(1) as f64 / 2.0;
    seconds.ceil().clamp(1.0, 60.0) as u64
}

/// What is done next: direct work that is ready; else direct work whose client is still sending; else jobs.
fn next(state: &mut State) -> Option<Item> {
    let [direct, jobs] = &mut state.lanes;
    for lane in [&mut *direct, &mut *jobs] {
        lane.retain(|item| !item.work.is_cancelled());
    }
    let ready = direct.iter().position(|item| item.work.is_ready());
    if let Some(ix) = ready.or_else(|| direct.iter().position(|item| !item.must_be_ready)) {
        return direct.remove(ix);
    }
    if state.is_closed { None } else { jobs.pop_front() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[derive(Clone, Default)]
    struct Fake {
        name: u8,
        ready: Arc<AtomicBool>,
        cancelled: Arc<AtomicBool>,
    }

    impl fmt::Debug for Fake {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}", self.name)
        }
    }

    impl Work for Fake {
        fn is_ready(&self) -> bool {
            self.ready.load(Ordering::Relaxed)
        }

        fn is_cancelled(&self) -> bool {
            self.cancelled.load(Ordering::Relaxed)
        }

        fn run(&mut self, _: &Engine) -> Ran {
            Ran::Done
        }

        fn fail(&mut self, _: Problem) {}
    }

    fn fake(name: u8) -> (Fake, Box<dyn Work>) {
        let fake = Fake { name, ..Fake::default() };
        (fake.clone(), Box::new(fake))
    }

    fn name(item: &Item) -> String {
        format!("{:?}", item.work)
    }

    #[test]
    fn a_full_queue_says_no_and_when_to_come_again() {
        let queue = Queue::new(1, 1, 1);
        assert!(queue.push(Lane::Direct, fake(1).1).is_ok(), "one for the worker");
        let (waiting, work) = fake(2);
        assert!(queue.push(Lane::Direct, work).is_ok(), "one that waits");
        let refused = queue.push(Lane::Direct, fake(3).1).expect_err("full");
        assert_eq!(refused.kind(), Kind::QueueFull);
        assert_eq!(queue.counts(Lane::Direct), (2, 0, 1));
        // A client that goes away frees its place at once.
        waiting.cancelled.store(true, Ordering::Relaxed);
        assert!(queue.push(Lane::Direct, fake(4).1).is_ok());
        let item = queue.pop().expect("work");
        assert_eq!(name(&item), "1");
        assert!(queue.push(Lane::Direct, fake(5).1).is_err(), "one runs, one waits");
        queue.done(Lane::Direct, Instant::now());
        assert_eq!(name(&queue.pop().expect("work")), "4");
    }

    #[test]
    fn what_is_ready_goes_first_and_jobs_last() {
        let queue = Queue::new(9, 9, 1);
        queue.push(Lane::Job, fake(1).1).expect("a place");
        queue.push(Lane::Direct, fake(2).1).expect("a place");
        let (ready, work) = fake(3);
        ready.ready.store(true, Ordering::Relaxed);
        queue.push(Lane::Direct, work).expect("a place");
        assert!(queue.has_ready());
        assert_eq!(name(&queue.pop().expect("work")), "3");
        assert!(!queue.has_ready());
        let mut slow = queue.pop().expect("work");
        assert_eq!(name(&slow), "2");
        slow.must_be_ready = true;
        queue.put_back(slow);
        assert_eq!(name(&queue.pop().expect("work")), "1", "what stalled waits until it is ready");
    }

    #[test]
    fn a_closed_queue_finishes_direct_work_alone() {
        let queue = Queue::new(9, 9, 1);
        queue.push(Lane::Job, fake(1).1).expect("a place");
        queue.push(Lane::Direct, fake(2).1).expect("a place");
        queue.close();
        assert_eq!(queue.push(Lane::Direct, fake(3).1).expect_err("closed").kind(), Kind::Unavailable);
        assert_eq!(name(&queue.pop().expect("work")), "2");
        assert!(queue.pop().is_none());
        assert_eq!(queue.counts(Lane::Job).0, 1, "the job stays");
    }
}
