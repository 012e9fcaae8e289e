//! Progress on standard error: a bar on a terminal, plain lines elsewhere.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use wgquant::checkpoint::Progress;

use crate::console::Console;
use crate::table::bytes;

/// Plain lines are at least this far apart, so that logs stay short.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// A rate is that of the last seconds, so that it follows a disk that gets slow.
const RATE_WINDOW: Duration = Duration::from_secs(15);

/// Shows how far a job is.
pub(crate) struct Reporter {
    console: Console,
    /// A sentence to be said once work begins.
    note: Option<&'static str>,
    way: Way,
}

enum Way {
    Nothing,
    Bar(ProgressBar),
    Lines { last: Instant, meter: Meter },
}

impl Way {
    fn bar() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let template = "{bar:24} {percent:>3} % {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, \
                        {eta} left: {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }
}

impl Reporter {
    pub(crate) fn new(console: Console, note: Option<&'static str>) -> Self {
        let way = match () {
            () if console.quiet => Way::Nothing,
            () if !std::io::stderr().is_terminal() => Way::Lines { last: Instant::now(), meter: Meter::default() },
            () => Way::bar(),
        };
        Self { console, note, way }
    }

    /// Shows where the job is now. A job may follow another.
    pub(crate) fn show(&mut self, progress: Progress<'_>) {
        if let Some(note) = self.note.take() {
            self.console.note(note);
        }
        match &mut self.way {
            Way::Nothing => {}
            Way::Bar(bar) => {
                if progress.done_bytes < bar.position() {
                    bar.reset();
                }
                bar.set_length(progress.total_bytes);
                bar.set_position(progress.done_bytes);
                bar.set_message(printable(progress.tensor));
            }
            Way::Lines { last, meter } => {
                let now = Instant::now();
                if meter.is_new(progress.done_bytes) || now.duration_since(*last) >= LINE_INTERVAL {
                    let rate = meter.rate(now, progress.done_bytes);
                    if now.duration_since(*last) >= LINE_INTERVAL {
                        *last = now;
                        // A closed standard error is no reason to stop.
                        let _ = writeln!(std::io::stderr().lock(), "{}", line(progress, rate));
                    }
                }
            }
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Way::Bar(bar) = &self.way {
            bar.finish_and_clear();
        }
    }
}

/// Measures how fast bytes get done.
#[derive(Debug, Default)]
struct Meter {
    /// Moments of the last seconds and one before, and the bytes that were done.
    moments: VecDeque<(Instant, u64)>,
}

impl Meter {
    /// Whether a job begins.
    fn is_new(&self, done: u64) -> bool {
        self.moments.back().is_none_or(|&(_, before)| done < before)
    }

    /// Takes a moment, and gives the bytes a second since the first that counts; `None` where that is the only one.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn rate(&mut self, now: Instant, done: u64) -> Option<f64> {
        if self.is_new(done) {
            self.moments.clear();
        }
        self.moments.push_back((now, done));
        while self.moments.get(1).is_some_and(|&(at, _)| now.duration_since(at) >= RATE_WINDOW) {
            self.moments.pop_front();
        }
        let &(then, before) = self.moments.front()?;
        let seconds = now.duration_since(then).as_secs_f64();
        (seconds > 0.0).then(|| (done - before) as f64 / seconds)
    }
}

/// A plain line.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
fn line(progress: Progress<'_>, rate: Option<f64>) -> String {
    let Progress { tensor, done_bytes, total_bytes, .. } = progress;
    let percent = u128::from(done_bytes) * 100 / u128::from(total_bytes.max(1));
    let left = total_bytes.saturating_sub(done_bytes);
    let pace = match rate {
        Some(rate) if rate > 0.0 => {
            format!("{}/s, {} left", bytes(rate as u64), duration((left as f64 / rate).ceil() as u64))
        }
        _ => "time left unknown".to_owned(),
    };
    format!("{percent:>3} % {} of {}, {pace}: {}", bytes(done_bytes), bytes(total_bytes), printable(tensor))
}

/// Seconds as people say them.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_bytes_rate_and_time_left() {
        let progress = |done_bytes, total_bytes| Progress::new("a\n.weight", done_bytes, total_bytes);
        let line = |done, total, rate| line(progress(done, total), rate);
        assert_eq!(
            line(420_000_000, 1_000_000_000, Some(58e6)),
            " 42 % 420.0 MB of 1.0 GB, 58.0 MB/s, 10 s left: a .weight"
        );
        assert_eq!(line(1, 1 << 40, Some(1e6)), "  0 % 1 B of 1.1 TB, 1.0 MB/s, 305 h 25 min left: a .weight");
        assert_eq!(line(5, 5, Some(1.0)), "100 % 5 B of 5 B, 1 B/s, 0 s left: a .weight");
        assert_eq!(line(0, 65, Some(1.0)), "  0 % 0 B of 65 B, 1 B/s, 1 min 5 s left: a .weight");
        assert_eq!(line(0, 0, None), "  0 % 0 B of 0 B, time left unknown: a .weight");
    }

    #[test]
    fn a_rate_is_that_of_the_last_seconds() {
        let (start, mut meter) = (Instant::now(), Meter::default());
        let mut rate = |seconds: u64, done| meter.rate(start + Duration::from_secs(seconds), done);
        // A job that goes on from where another stopped has not done that part itself.
        assert_eq!(rate(0, 1000), None);
        assert_eq!(rate(10, 2000), Some(100.0));
        assert_eq!(rate(20, 3000), Some(100.0));
        // 10 s at 100 and 20 s at 10, of which the last 15 and a little more count.
        assert_eq!(rate(30, 3100), Some(55.0));
        assert_eq!(rate(40, 3200), Some(10.0));
        // Another job.
        assert_eq!(rate(41, 7), None);
        assert_eq!(rate(43, 9), Some(1.0));
    }
}
