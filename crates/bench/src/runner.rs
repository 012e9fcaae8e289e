//! Measurements that run in turn.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Something to measure.
pub(crate) struct Row<'a> {
    name: String,
    n_elems: usize,
    /// Rows that are measured again just before it, and that [`Results::ratio`] compares it with: what memory allows changes
    /// within seconds, where a machine is shared.
    pub(crate) beside: &'static [&'static str],
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
    ) -> &mut Row<'a> {
        let at = self.rows.len();
        self.rows.push(Row { name: name.into(), n_elems, beside: &[], run: Box::new(run) });
        &mut self.rows[at]
    }

    /// Adds a measurement of the time that `run` takes.
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        n_elems: usize,
        mut run: impl FnMut() -> Result<()> + 'a,
    ) -> &mut Row<'a> {
        self.add_timed(name, n_elems, move || {
            let start = Instant::now();
            run()?;
            Ok(start.elapsed())
        })
    }

    /// Runs each once to warm up, then all of them in turn, `n_repetitions` times.
    pub(crate) fn run(mut self, n_repetitions: usize) -> Result<Results> {
        let mut results = Results::default();
        for repetition in 0..=n_repetitions {
            for at in 0..self.rows.len() {
                let (name, limits) = (self.rows[at].name.clone(), self.rows[at].beside);
                let again = self.rows.iter().enumerate().filter(|(_, row)| limits.contains(&&*row.name));
                let again: Vec<_> = again.map(|(at, row)| (at, beside(&row.name, &name))).collect();
                for (at, name) in again.into_iter().chain([(at, name)]) {
                    let row = &mut self.rows[at];
                    let seconds = (row.run)()?.as_secs_f64();
                    if repetition > 0 {
                        results.rates.entry(name).or_default().push(row.n_elems as f64 / seconds / 1e9);
                    }
                }
            }
        }
        Ok(results)
    }
}

/// What a row is called that was measured again just before another.
fn beside(limit: &str, name: &str) -> String {
    format!("{limit}, before {name}")
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
    /// change in the middle of a run, where a machine is shared, so what was measured [beside](Row::beside) it is compared.
    pub(crate) fn ratio(&self, name: &str, of: &[&str]) -> Option<f64> {
        let rates = |of: &&str| self.rates.get(&beside(of, name)).or_else(|| self.rates.get(*of));
        let of: Vec<_> = of.iter().filter_map(rates).collect();
        let highest = |at: usize| of.iter().map(|rates| rates[at]).max_by(f64::total_cmp);
        let ratios = self.rates.get(name)?.iter().enumerate().map(|(at, rate)| Some(rate / highest(at)?));
        let mut ratios = ratios.collect::<Option<Vec<_>>>()?;
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied()
    }
}
