//! `wgquant demo`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use wgquant::checkpoint::{
    Action, Progress, QuantizeOptions, QuantizeReport, Selection, StoredDtype, quantize, verify,
};
use wgquant::verify::Verify;
use wgquant::{Engine, Format};

use super::open_engines;
use crate::args::DemoArgs;
use crate::console::Console;
use crate::table::{Align, bytes, decibels, ratio, table};

#[derive(Debug, Serialize)]
struct Document<'a> {
    adapter: &'a str,
    formats: &'a [Row],
}

/// Figures over all quantized tensors of the demo's checkpoint.
#[derive(Debug, Serialize)]
struct Row {
    format: &'static str,
    bits_per_weight: f64,
    bytes_in: u64,
    bytes_out: u64,
    max_abs_error: f64,
    mse: f64,
    sqnr_db: Option<f64>,
    verified: &'static str,
}

pub(crate) fn run(console: Console, args: &DemoArgs) -> anyhow::Result<()> {
    let (engines, mut reporter) = open_engines(console, &args.device)?;
    let folder = tempfile::tempdir().context("no temporary folder can be made")?;
    let original = folder.path().join("model.safetensors");
    std::fs::write(&original, checkpoint()?).context("the demo's checkpoint can't be written")?;
    let mut rows = Vec::new();
    for &format in Format::ALL {
        let quantized = folder.path().join(format!("{format}.safetensors"));
        let mut options = QuantizeOptions::new(format);
        options.verify = Verify::Full;
        // Small tensors too, so that blocks and bytes are cut short everywhere.
        options.selection = Selection { min_elements: Some(1), copy_unfit: true, ..Selection::default() };
        let mut show = |progress: Progress<'_>| reporter.show(progress);
        let report = pollster::block_on(quantize(&engines, &original, &quantized, &options, &mut show))?;
        rows.push(row(&original, &quantized, &report)?);
    }
    drop(reporter);
    let adapter = Engine::description_of(&engines);
    console.result(&Document { adapter: &adapter, formats: &rows }, || text(&adapter, &rows))
}

/// A whole file's figures, after the command `verify` has found every byte right.
fn row(original: &Path, quantized: &Path, report: &QuantizeReport) -> anyhow::Result<Row> {
    let found = verify(original, quantized, &mut |_| {})?;
    anyhow::ensure!(found.first_mismatch().is_none(), "{}", found.first_mismatch().unwrap_or_default());
    let (mut elems, mut squared_error, mut squared, mut max_abs_error) = (0.0, 0.0, 0.0, 0.0_f64);
    let (mut bytes_in, mut bytes_out) = (0, 0);
    for tensor in report.tensors.iter().filter(|tensor| tensor.action == Action::Quantized) {
        (bytes_in, bytes_out) = (bytes_in + tensor.bytes_in, bytes_out + tensor.bytes_out);
        let Some(figures) = tensor.figures else { continue };
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let n = figures.n_elems as f64;
        let error = figures.mse() * n;
        elems += n;
        squared_error += error;
        squared += figures.sqnr_db().map_or(0.0, |db| error * 10_f64.powf(db / 10.0));
        max_abs_error = max_abs_error.max(figures.max_abs_error);
    }
    Ok(Row {
        format: report.format.name(),
        bits_per_weight: report.format.info().bits_per_weight(),
        bytes_in,
        bytes_out,
        max_abs_error,
        mse: squared_error / elems,
        sqnr_db: (squared_error > 0.0).then(|| 10.0 * (squared / squared_error).log10()),
        verified: Verify::Full.name(),
    })
}

fn text(adapter: &str, rows: &[Row]) -> String {
    let columns = [
        ("format", Align::Left),
        ("bits/weight", Align::Right),
        ("size", Align::Right),
        ("ratio", Align::Right),
        ("max error", Align::Right),
        ("MSE", Align::Right),
        ("SQNR", Align::Right),
        ("verified", Align::Left),
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.format.to_owned(),
            row.bits_per_weight.to_string(),
            bytes(row.bytes_out),
            ratio(row.bytes_in, row.bytes_out),
            format!("{:.3e}", row.max_abs_error),
            format!("{:.3e}", row.mse),
            decibels(row.sqnr_db),
            row.verified.to_owned(),
        ]
    });
    let before = bytes(rows.first().map_or(0, |row| row.bytes_in));
    format!("{before} of weights on {adapter}; every byte equals the CPU reference's\n{}", table(&columns, cells))
}

/// A small checkpoint of several types and shapes, odd tails among them: the same bytes every time.
fn checkpoint() -> anyhow::Result<Vec<u8>> {
    let tensors: [(&str, &[usize], StoredDtype); 6] = [
        ("encoder.embed.weight", &[1000, 96], StoredDtype::F32),
        ("encoder.layer.0.attention.weight", &[96, 96], StoredDtype::F16),
        ("encoder.layer.0.mlp.weight", &[129, 77], StoredDtype::BF16),
        ("encoder.layer.0.norm.weight", &[96], StoredDtype::F32),
        ("encoder.layer.0.relative_bias", &[3, 43], StoredDtype::F32),
        ("head.weight", &[65, 1], StoredDtype::F32),
    ];
    let mut noise = Noise(1);
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, shape, dtype) in tensors {
        let start = data.len();
        for _ in 0..shape.iter().product::<usize>() {
            let bits = noise.next().to_bits();
            match dtype {
                StoredDtype::F32 => data.extend(bits.to_le_bytes()),
                StoredDtype::BF16 => data.extend(&bits.to_le_bytes()[2..]),
                _ => data.extend(half::f16::from_f32(f32::from_bits(bits)).to_le_bytes()),
            }
        }
        let dtype = dtype.to_string();
        let entry = BTreeMap::from([
            ("dtype", serde_json::to_value(dtype)?),
            ("shape", serde_json::to_value(shape)?),
            ("data_offsets", serde_json::to_value([start, data.len()])?),
        ]);
        header.insert(name.to_owned(), serde_json::to_value(entry)?);
    }
    let header = serde_json::to_vec(&header)?;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.append(&mut data);
    Ok(file)
}

/// Bell-shaped values of standard deviation 0.05 from a counter: the sum of four 16-bit numbers.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 ^ (self.0 >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let sum: f32 = mixed.to_le_bytes().chunks_exact(2).map(|b| f32::from(u16::from_le_bytes([b[0], b[1]]))).sum();
        // Four uniform numbers below 65,536 have a standard deviation of 37,837.
        (sum - 131_070.0) / 37_837.0 * 0.05
    }
}
