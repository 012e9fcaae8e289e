//! Progress on standard error: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use wgquant::checkpoint::Progress;

use crate::console::Console;

/// Plain lines are at least this far apart, so that logs stay short.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Shows how far a job is.
pub(crate) enum Reporter {
    Nothing,
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Reporter {
    pub(crate) fn new(console: Console) -> Self {
        if console.quiet {
            return Self::Nothing;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines { last: Instant::now() };
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3}% {bytes_per_sec} {eta} {wide_msg}") {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    /// Shows where the job is now.
    pub(crate) fn show(&mut self, progress: Progress<'_>) {
        match self {
            Self::Nothing => {}
            Self::Bar(bar) => {
                bar.set_length(progress.total_bytes);
                bar.set_position(progress.done_bytes);
                bar.set_message(printable(progress.tensor));
            }
            Self::Lines { last } => {
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    let percent = progress.done_bytes.saturating_mul(100) / progress.total_bytes.max(1);
                    // A closed standard error is no reason to stop.
                    let _ = writeln!(std::io::stderr().lock(), "{percent:>3} % {}", printable(progress.tensor));
                }
            }
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
