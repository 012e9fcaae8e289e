//! Measurements that run in turn.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Something to measure.
struct Row<'a> {
    name: String,
    n_elems: usize,
    run: Box<dyn FnMut() -> Result<Duration> + 'a>,
}

/// All that is measured.
#[derive(Default)]
pub(crate) struct Runner<'a> {
    rows: Vec<Row<'a>>,
}

impl<'a> Runner<'a> {
    /// Adds a measurement of `n_elems` elements that gives its own time.
    pub(crate) fn add_timed(
        &mut self,
        name: impl Into<String>,
        n_elems: usize,
        run: impl FnMut() -> Result<Duration> + 'a,
    ) {
        self.rows.push(Row { name: name.into(), n_elems, run: Box::new(run) });
    }

    /// Adds a measurement of the time that `run` takes.
    pub(crate) fn add(&mut self, name: impl Into<String>, n_elems: usize, mut run: impl FnMut() -> Result<()> + 'a) {
        self.add_timed(name, n_elems, move || {
            let start = Instant::now();
            run()?;
            Ok(start.elapsed())
        });
    }

    /// Runs each once to warm up, then all of them in turn, `n_repetitions` times.
    pub(crate) fn run(mut self, n_repetitions: usize) -> Result<Results> {
        let mut results = Results::default();
        for repetition in 0..=n_repetitions {
            for row in &mut self.rows {
                let seconds = (row.run)()?.as_secs_f64();
                if repetition > 0 {
                    results.rates.entry(row.name.clone()).or_default().push(row.n_elems as f64 / seconds / 1e9);
                }
            }
        }
        Ok(results)
    }
}

/// Rates in G elements/s, one a repetition, by name.
#[derive(Default)]
pub(crate) struct Results {
    rates: BTreeMap<String, Vec<f64>>,
}

impl Results {
    /// The rate of the fastest repetition.
    pub(crate) fn rate(&self, name: &str) -> Option<f64> {
        self.rates.get(name)?.iter().copied().max_by(f64::total_cmp)
    }

    /// One rate over another, or over the highest of several: of each repetition, and of those the median. What memory allows may
    /// change in the middle of a run, where a machine is shared, so only what was measured within seconds is compared.
    pub(crate) fn ratio(&self, name: &str, of: &[&str]) -> Option<f64> {
        let of: Vec<_> = of.iter().filter_map(|of| self.rates.get(*of)).collect();
        let highest = |at: usize| of.iter().map(|rates| rates[at]).max_by(f64::total_cmp);
        let ratios = self.rates.get(name)?.iter().enumerate().map(|(at, rate)| Some(rate / highest(at)?));
        let mut ratios = ratios.collect::<Option<Vec<_>>>()?;
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied()
    }
}
