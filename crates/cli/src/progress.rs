//! Progress on standard error: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use wgquant::checkpoint::Progress;

use crate::console::Console;

/// Plain lines are at least this far apart, so that logs stay short.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

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
    Lines { last: Instant },
}

impl Way {
    fn bar() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3}% {bytes_per_sec} {eta} {wide_msg}") {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }
}

impl Reporter {
    pub(crate) fn new(console: Console, note: Option<&'static str>) -> Self {
        let way = match () {
            () if console.quiet => Way::Nothing,
            () if !std::io::stderr().is_terminal() => Way::Lines { last: Instant::now() },
            () => Way::bar(),
        };
        Self { console, note, way }
    }

    /// Shows where the job is now.
    pub(crate) fn show(&mut self, progress: Progress<'_>) {
        if let Some(note) = self.note.take() {
            self.console.note(note);
        }
        match &mut self.way {
            Way::Nothing => {}
            Way::Bar(bar) => {
                bar.set_length(progress.total_bytes);
                bar.set_position(progress.done_bytes);
                bar.set_message(printable(progress.tensor));
            }
            Way::Lines { last } => {
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
        if let Way::Bar(bar) = &self.way {
            bar.finish_and_clear();
        }
    }
}

fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
