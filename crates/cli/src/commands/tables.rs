//! `wgquant adapters` and `wgquant formats`.

use serde_json::{Map, Value, json};
use wgquant::{Format, gpu};

use crate::console::Console;
use crate::table::{Align, table};

pub(crate) fn adapters(console: Console) -> anyhow::Result<()> {
    let adapters = pollster::block_on(gpu::adapters());
    let list: Vec<_> = adapters
        .iter()
        .map(|adapter| {
            let limits: Map<_, _> = adapter.limits.iter().map(|&(name, n)| (name.to_owned(), n.into())).collect();
            json!({
                "name": adapter.name,
                "backend": adapter.backend,
                "type": adapter.device_type,
                "driver": adapter.driver,
                "limits": Value::Object(limits),
                "features": adapter.features,
            })
        })
        .collect();
    console.result(&json!({ "adapters": list }), || {
        if adapters.is_empty() {
            return "no GPU adapters; --device cpu works without".to_owned();
        }
        let blocks = adapters.iter().map(|adapter| {
            let gpu::Adapter { name, backend, device_type, driver, .. } = adapter;
            let limits: String = adapter.limits.iter().map(|(limit, n)| format!("\n  {limit} {n}")).collect();
            let features = if adapter.features.is_empty() { "none".to_owned() } else { adapter.features.join(", ") };
            let heading = format!("{backend}:{name} ({device_type}, {driver})").replace(char::is_control, " ");
            format!("{heading}{limits}\n  features: {features}")
        });
        blocks.collect::<Vec<_>>().join("\n")
    })
}

pub(crate) fn formats(console: Console) -> anyhow::Result<()> {
    let rows: Vec<_> = Format::ALL.iter().map(|format| format.info()).collect();
    let containers = |row: &wgquant::FormatInfo| row.containers.iter().map(|c| c.name()).collect::<Vec<_>>();
    let list: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name,
                "summary": row.summary,
                "bits_per_weight": row.bits_per_weight(),
                "block": row.block,
                "scale": row.scale.name(),
                "containers": containers(row),
            })
        })
        .collect();
    console.result(&json!({ "formats": list }), || {
        let columns = [
            ("format", Align::Left),
            ("bits/weight", Align::Right),
            ("block", Align::Right),
            ("scale", Align::Left),
            ("containers", Align::Left),
            ("what it is", Align::Left),
        ];
        table(
            &columns,
            rows.iter().map(|row| {
                vec![
                    row.name.to_owned(),
                    row.bits_per_weight().to_string(),
                    row.block.to_string(),
                    row.scale.name().to_owned(),
                    containers(row).join(", "),
                    row.summary.to_owned(),
                ]
            }),
        )
    })
}
