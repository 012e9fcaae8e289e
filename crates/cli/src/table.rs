//! Tables and numbers for people.

use comfy_table::{CellAlignment, Table, presets};

/// A column: its heading, and whether it holds numbers.
pub(crate) type Column = (&'static str, Align);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Lines up rows under their headings.
pub(crate) fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_NO_BORDERS);
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for row in rows {
        // Names from files may hold anything; a row stays a row.
        table.add_row(row.into_iter().map(|cell| cell.replace(char::is_control, " ")));
    }
    for (ix, (_, align)) in columns.iter().enumerate() {
        if let (Some(column), Align::Right) = (table.column_mut(ix), align) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Bytes with a fitting unit, as disks are sold: 1 kB is 1,000 bytes.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub(crate) fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// A shape as `[384, 1536]`.
pub(crate) fn shape(dimensions: &[u64]) -> String {
    format!("{dimensions:?}")
}

/// Decibels, or what stands for no error at all.
pub(crate) fn decibels(value: Option<f64>) -> String {
    value.map_or_else(|| "exact".to_owned(), |db| format!("{db:.1} dB"))
}

/// How many times smaller.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub(crate) fn ratio(before: u64, after: u64) -> String {
    format!("{:.2}x", before as f64 / after.max(1) as f64)
}

/// `1 tensor`, `2 tensors`.
pub(crate) fn tensors(n: usize) -> String {
    format!("{n} tensor{}", if n == 1 { "" } else { "s" })
}
