//! `wgquant inspect`.

use serde_json::json;
use wgquant::checkpoint::{InspectedTensor, hex, inspect};

use crate::args::InspectArgs;
use crate::console::Console;
use crate::table::{self, Align, bytes, shape, table};

pub(crate) fn run(console: Console, args: &InspectArgs) -> anyhow::Result<()> {
    let report = inspect(&args.file)?;
    let tensors: Vec<_> = report.tensors.iter().map(InspectedTensor::document).collect();
    let document = json!({
        "file": args.file.display().to_string(),
        "container": report.container.map(wgquant::Container::name),
        "bytes": report.n_bytes,
        "metadata": report.metadata,
        "tensors": tensors,
    });
    console.result(&document, || {
        let columns = [
            ("tensor", Align::Left),
            ("format", Align::Left),
            ("dtype", Align::Left),
            ("shape", Align::Left),
            ("bytes", Align::Right),
            ("digest", Align::Left),
        ];
        let rows = report.tensors.iter().map(|tensor| {
            vec![
                tensor.name.clone(),
                tensor.format.map_or("-", wgquant::Format::name).to_owned(),
                tensor.dtype.to_string(),
                shape(&tensor.shape),
                tensor.n_bytes.to_string(),
                tensor.digest.as_ref().map_or_else(|| "-".to_owned(), hex),
            ]
        });
        let container = report.container.map_or("plain safetensors", wgquant::Container::name);
        let (n, size) = (table::tensors(report.tensors.len()), bytes(report.n_bytes));
        format!("{}: {container}, {n}, {size}\n{}", args.file.display(), table(&columns, rows))
    })
}
