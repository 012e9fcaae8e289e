//! How far jobs are that have not ended: what the one that works on a job says, for any number of listeners.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;

use super::store::State;

/// A rate is that of the last seconds, so that it follows a disk that gets slow.
const RATE_WINDOW: Duration = Duration::from_secs(15);

/// Listeners hear no more often of progress.
const INTERVAL: Duration = Duration::from_millis(100);

/// How far a job is, as the command line shows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub(crate) struct JobProgress {
    /// What is being done: `quantizing`, or `uploading` to a store.
    pub(crate) phase: &'static str,
    /// The tensor that is being worked on, or the file that is being uploaded.
    pub(crate) tensor: String,
    /// Bytes done. Those of the input count as the job goes through them; one that verifies all counts them again.
    pub(crate) done_bytes: u64,
    /// Bytes there are to do.
    pub(crate) total_bytes: u64,
    /// Of the last seconds; null where that is not known yet.
    pub(crate) bytes_per_second: Option<u64>,
    /// At this rate.
    pub(crate) seconds_left: Option<u64>,
}

/// What a listener hears.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heard {
    /// Counts up.
    pub(crate) number: u64,
    pub(crate) state: State,
    pub(crate) progress: Option<JobProgress>,
}

/// A job that has not ended.
#[derive(Debug)]
pub(crate) struct Live {
    heard: watch::Sender<Heard>,
    cancelled: AtomicBool,
    meter: Mutex<Meter>,
}

/// Measures how fast bytes get done.
#[derive(Debug, Default)]
struct Meter {
    phase: &'static str,
    told: Option<Instant>,
    /// Moments of the last seconds and one before, and the bytes that were done.
    moments: VecDeque<(Instant, u64)>,
}

impl Live {
    pub(super) fn new(state: State, cancelled: bool) -> Self {
        let heard = watch::Sender::new(Heard { number: 0, state, progress: None });
        Self { heard, cancelled: AtomicBool::new(cancelled), meter: Mutex::default() }
    }

    /// Asks for the job's end.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether somebody has asked for that.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Hears of everything from now on, and of where the job is now.
    pub(super) fn listen(&self) -> watch::Receiver<Heard> {
        self.heard.subscribe()
    }

    /// Where the job is.
    pub(super) fn now(&self) -> Heard {
        self.heard.borrow().clone()
    }

    /// Tells that the job's state is another.
    pub(super) fn tell_state(&self, state: State) {
        self.heard.send_modify(|heard| {
            heard.number += 1;
            heard.state = state;
            if state == State::Queued {
                heard.progress = None;
            }
        });
    }

    /// Tells how far the job is, if listeners have not just been told.
    pub(super) fn tell(&self, phase: &'static str, tensor: &str, (done_bytes, total_bytes): (u64, u64)) {
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_new = meter.phase != phase;
        let recent = meter.told.is_some_and(|told| now.duration_since(told) < INTERVAL);
        if recent && !is_new && done_bytes != total_bytes {
            return;
        }
        let rate = meter.rate(now, phase, done_bytes);
        meter.told = Some(now);
        let left = total_bytes.saturating_sub(done_bytes);
        let progress = JobProgress {
            phase,
            tensor: tensor.to_owned(),
            done_bytes,
            total_bytes,
            bytes_per_second: rate,
            seconds_left: rate.filter(|&rate| rate > 0).map(|rate| left.div_ceil(rate)),
        };
        self.heard.send_modify(|heard| {
            heard.number += 1;
            heard.progress = Some(progress);
        });
    }
}

impl Meter {
    /// Takes a moment, and gives the bytes a second since the first that counts; `None` where that is the only one.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "for people"
    )]
    fn rate(&mut self, now: Instant, phase: &'static str, done: u64) -> Option<u64> {
        if self.phase != phase || self.moments.back().is_some_and(|&(_, before)| done < before) {
            self.moments.clear();
            self.phase = phase;
        }
        self.moments.push_back((now, done));
        while self.moments.get(1).is_some_and(|&(at, _)| now.duration_since(at) >= RATE_WINDOW) {
            self.moments.pop_front();
        }
        let &(then, before) = self.moments.front()?;
        let seconds = now.duration_since(then).as_secs_f64();
        (seconds > 0.0).then(|| ((done - before) as f64 / seconds) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_hear_the_newest() {
        let live = Live::new(State::Queued, false);
        let heard = live.listen();
        live.tell_state(State::Running);
        live.tell("quantizing", "a", (1, 100));
        live.tell("quantizing", "b", (50, 100)); // too soon after that
        assert_eq!(heard.borrow().progress.as_ref().map(|progress| progress.done_bytes), Some(1));
        live.tell("quantizing", "c", (100, 100)); // the last is always told
        let now = heard.borrow().clone();
        assert_eq!((now.number, now.state), (3, State::Running));
        let progress = now.progress.unwrap();
        assert_eq!((progress.tensor.as_str(), progress.done_bytes, progress.seconds_left), ("c", 100, Some(0)));
        live.tell_state(State::Queued);
        assert_eq!(live.now().progress, None);
    }

    #[test]
    fn a_rate_is_that_of_the_last_seconds() {
        let (start, mut meter) = (Instant::now(), Meter::default());
        let mut rate = |seconds: u64, done| meter.rate(start + Duration::from_secs(seconds), "quantizing", done);
        assert_eq!(rate(0, 1000), None, "what an earlier run did tells nothing");
        assert_eq!(rate(10, 2000), Some(100));
        assert_eq!(rate(20, 3000), Some(100));
        assert_eq!(rate(30, 3100), Some(55));
        assert_eq!(rate(40, 3200), Some(10));
        assert_eq!(rate(41, 7), None, "another device begins anew");
    }
}
