//! Standard output for results, standard error for everything else.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

/// How a run talks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Console {
    /// One JSON document is the result.
    pub(crate) json: bool,
    /// Nothing but errors and the document.
    pub(crate) quiet: bool,
    /// Plain lines of progress are at least this far apart.
    pub(crate) progress_interval: Duration,
}

impl Console {
    /// Prints the result: the document with `--json`, else the text that `text` makes, unless `--quiet`.
    pub(crate) fn result(self, document: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let mut out = if self.json {
            serde_json::to_string_pretty(document)?
        } else if self.quiet {
            return Ok(());
        } else {
            text()
        };
        out.push('\n');
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush()) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written.context("the result can't be written to standard output"),
        }
    }

    /// Prints a sentence for a person on standard error.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            print_line("note", text);
        }
    }
}

/// Prints an error as one line on standard error.
pub(crate) fn print_error(text: &str) {
    print_line("error", text);
}

fn print_line(kind: &str, text: &str) {
    // Names from files and the command line may hold anything; the line stays one, and the terminal as it was.
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // Nothing is left to say it to if standard error is closed.
    let _ = writeln!(std::io::stderr().lock(), "{kind}: {text}");
}

/// What is wrong with the command line, as one sentence: clap's own first paragraphs, without usage and hints.
pub(crate) fn usage_sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no command was given (see wgquant --help)".to_owned();
    }
    let said = text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let words: Vec<_> = said.flat_map(str::split_whitespace).collect();
    format!("{} (see wgquant --help)", words.join(" ").trim_start_matches("error: "))
}
