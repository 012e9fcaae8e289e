//! Reports: one HTML page each that needs no other file and no network. Templates are in `templates/`; they escape every
//! text, since names come from files and may say anything.

pub(crate) mod compare;
mod place;
mod plot;
pub(crate) mod report;

use wgquant::verify::ErrorFigures;

use crate::table::{bytes, decibels};
pub(crate) use place::Place;

/// A table that can be sorted.
#[derive(Debug)]
pub(crate) struct Table {
    /// Unique in its page.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// A sentence before it.
    pub(crate) about: Option<&'static str>,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Row>,
}

#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) heading: &'static str,
    pub(crate) kind: Kind,
}

/// What a column holds: how it looks and how it is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Shape,
    Number,
    Digest,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Shape => "shape",
            Self::Number => "number",
            Self::Digest => "digest",
        }
    }
}

/// A row, whose first cell is its heading.
#[derive(Debug)]
pub(crate) struct Row {
    /// Whether it stands out.
    pub(crate) marked: bool,
    pub(crate) cells: Vec<Cell>,
}

#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) text: String,
    /// What it is sorted by; nothing where there is no value.
    pub(crate) value: String,
    /// More about it.
    pub(crate) more: String,
}

impl Cell {
    pub(crate) fn text(text: &str) -> Self {
        let text = printable(text);
        Self { value: text.clone(), text, more: String::new() }
    }

    /// A number, exactly, and how it is shown.
    pub(crate) fn number(value: impl std::fmt::Display, text: String) -> Self {
        Self { text, value: value.to_string(), more: String::new() }
    }

    pub(crate) fn bytes(n: u64) -> Self {
        Self::number(n, bytes(n))
    }

    /// A whole number, with commas between thousands.
    pub(crate) fn count(n: u64) -> Self {
        let digits = n.to_string();
        let mut text = String::new();
        for (ix, digit) in digits.chars().enumerate() {
            if ix > 0 && (digits.len() - ix).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        Self::number(n, text)
    }

    pub(crate) fn none() -> Self {
        Self { text: "–".to_owned(), value: String::new(), more: String::new() }
    }

    /// SQNR, where there are figures.
    pub(crate) fn sqnr(figures: Option<&ErrorFigures>) -> Self {
        figures.map_or_else(Self::none, |figures| {
            let db = figures.sqnr_db();
            let value = db.map_or_else(|| "Infinity".to_owned(), |db| db.to_string());
            Self { text: decibels(db), value, more: String::new() }
        })
    }

    /// Another error figure, where there are any.
    pub(crate) fn error(figures: Option<&ErrorFigures>, of: impl Fn(&ErrorFigures) -> f64) -> Self {
        figures.map(of).map_or_else(Self::none, |value| Self::number(value, format!("{value:.3e}")))
    }
}

/// A number at the top of a page.
#[derive(Debug)]
pub(crate) struct Total {
    pub(crate) id: &'static str,
    pub(crate) label: &'static str,
    pub(crate) value: String,
    pub(crate) text: String,
}

impl Total {
    pub(crate) fn new(id: &'static str, label: &'static str, cell: Cell) -> Self {
        Self { id, label, value: cell.value, text: cell.text }
    }

    /// Sizes before and after, and how many times smaller.
    pub(crate) fn sizes(before: u64, after: u64) -> [Self; 3] {
        #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
        let ratio = before as f64 / after.max(1) as f64;
        [
            Self::new("bytes-in", "before", Cell::bytes(before)),
            Self::new("bytes-out", "after", Cell::bytes(after)),
            Self::new("ratio", "smaller by", Cell::number(ratio, crate::table::ratio(before, after))),
        ]
    }
}

/// A text from a file, without what can't be seen.
pub(crate) fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// A page as text.
fn render(page: &impl askama::Template) -> anyhow::Result<String> {
    use anyhow::Context;
    page.render().context("the report can't be put together")
}
