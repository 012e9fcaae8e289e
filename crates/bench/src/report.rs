//! Tables for people.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use wgquant::Format;

use crate::cpu::{self, ALL, DEQUANTIZE, DEQUANTIZE_BF16, ONE, QUANTIZE, QUANTIZE_BF16, QUANTIZE_CACHED};
use crate::runner::Results;
use crate::{candle, limits, peers};

/// What it ran on, and when.
pub(crate) fn machine(n_elems: usize, n_repetitions: usize) -> String {
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() / 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year}-{month:02}-{day:02}: {} (family {}, model {}), {n_threads} threads, {}; {} Mi weights, {n_repetitions} repetitions.",
        field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        field("cpu family").unwrap_or_default(),
        field("model\t").unwrap_or_default(),
        instructions(),
        n_elems >> 20,
    )
}

/// The name of the instruction set in use.
fn instructions() -> String {
    let level = format!("{:?}", fearless_simd::Level::new());
    level.split('(').next().unwrap_or_default().to_lowercase()
}

/// Year, month and day of a day since 1970 (Howard Hinnant's days_from_civil, backwards).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (year + era * 400 + u64::from(month <= 2), month, day)
}

/// A number, or a dash.
fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"))
}

/// Appends what it ran on, then what counts, a ratio a line.
pub(crate) fn ratios(machine: &str, results: &Results, path: &Path) -> Result<()> {
    let mut lines = format!("{machine}\n");
    let mut line = |what: &str, format: &str, ratio: Option<f64>| {
        lines.extend(ratio.map(|ratio| format!("{what}\t{format}\t{ratio:.3}\n")));
    };
    for (direction, limit, verb, scaling) in [
        (QUANTIZE, &[limits::READ][..], "reading", results.ratio(limits::READ, &[limits::READ_ONE])),
        (DEQUANTIZE, limits::WRITING, "writing", results.ratio(limits::WRITE, &[limits::WRITE_ONE])),
    ] {
        for format in cpu::formats() {
            let (one, all) = (cpu::name(format, direction, ONE), cpu::name(format, direction, ALL));
            line(&format!("CPU, {direction}: of {verb} memory"), format.name(), results.ratio(&all, limit));
            line(&format!("CPU, {direction}: all threads to one"), format.name(), results.ratio(&all, &[&one]));
            let own = scaling.zip(results.ratio(&all, &[&one])).map(|(memory, ours)| ours / memory);
            line(&format!("CPU, {direction}: all threads to one, of {verb}'s own"), format.name(), own);
        }
    }
    for format in cpu::formats() {
        let [_, _, ratio] = cached(results, format);
        line(&format!("CPU, {QUANTIZE_CACHED}: all threads to one"), format.name(), ratio);
    }
    for (format, peer) in peers() {
        let ours = cpu::name(format, QUANTIZE, ALL);
        let name = peer.split([':', ' ']).next().unwrap_or(peer);
        line(&format!("CPU, {QUANTIZE}: times {name}"), format.name(), results.ratio(&ours, &[peer]));
    }
    OpenOptions::new().append(true).create(true).open(path)?.write_all(lines.as_bytes())?;
    Ok(())
}

/// Rates in cores' caches, of one thread and of all, and their ratio. There nothing is shared, so that of each the fastest
/// repetition counts.
fn cached(results: &Results, format: Format) -> [Option<f64>; 3] {
    let [one, all] = [ONE, ALL].map(|threads| results.rate(&cpu::name(format, QUANTIZE_CACHED, threads)));
    [one, all, one.zip(all).map(|(one, all)| all / one)]
}

/// Peers, and the format whose bytes they make.
fn peers() -> impl Iterator<Item = (Format, &'static str)> {
    let ggml = peers::GGML.iter().map(|&(format, peer)| (format, peer));
    ggml.chain([("q4_0", candle::Q4_0), ("q8_0", candle::Q8_0), ("nf4", peers::BITSANDBYTES)])
        .filter_map(|(format, peer)| Some((Format::from_name(format).ok()?, peer)))
}

pub(crate) fn tables(results: &Results) {
    println!("Rates are in G elements/s. Limits of memory, in f32:\n");
    println!("| threads | reading | writing 64 bytes at a time | past the caches | memset |");
    println!("| --- | --- | --- | --- | --- |");
    let limit = |name| cell(results.rate(name));
    let [write, past_caches, fill] = [limits::WRITE, limits::PAST_CACHES, limits::FILL].map(limit);
    println!("| all | {} | {write} | {past_caches} | {fill} |", limit(limits::READ));
    let [read, write, past_caches] = [limits::READ_ONE, limits::WRITE_ONE, limits::PAST_CACHES_ONE].map(limit);
    println!("| 1 | {read} | {write} | {past_caches} | |\n");

    direction(results, "CPU: quantize", QUANTIZE, QUANTIZE_BF16, "reading", &[limits::READ]);
    direction(results, "CPU: dequantize", DEQUANTIZE, DEQUANTIZE_BF16, "writing", limits::WRITING);

    println!("## CPU: {QUANTIZE_CACHED}\n");
    println!("| format | 1 thread | all threads | all / 1 |\n| --- | --- | --- | --- |");
    for format in cpu::formats() {
        let [one, all, ratio] = cached(results, format).map(cell);
        println!("| `{format}` | {one} | {all} | {ratio} |");
    }
    println!();

    println!("## Peers, all threads\n");
    println!("| peer | rate | ours, same bytes | times | sym4, times |\n| --- | --- | --- | --- | --- |");
    for (format, peer) in peers().filter(|(_, peer)| results.rate(peer).is_some()) {
        let ours = cpu::name(format, QUANTIZE, ALL);
        println!(
            "| {peer} | {} | {} | {} | {} |",
            results.rate(peer).map_or_else(String::new, |rate| format!("{rate:.3}")),
            cell(results.rate(&ours)),
            cell(results.ratio(&ours, &[peer])),
            cell(results.ratio(&cpu::name(Format::Sym4, QUANTIZE, ALL), &[peer])),
        );
    }
    println!();
}

fn direction(results: &Results, title: &str, f32: &str, bf16: &str, verb: &str, limit: &[&str]) {
    println!("## {title}\n");
    println!("| format | f32, 1 thread | all threads | all / 1 | of {verb} | bf16, all threads |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for format in cpu::formats() {
        let (one, all) = (cpu::name(format, f32, ONE), cpu::name(format, f32, ALL));
        println!(
            "| `{format}` | {} | {} | {} | {} | {} |",
            cell(results.rate(&one)),
            cell(results.rate(&all)),
            cell(results.ratio(&all, &[&one])),
            cell(results.ratio(&all, limit)),
            cell(results.rate(&cpu::name(format, bf16, ALL))),
        );
    }
    println!();
}
