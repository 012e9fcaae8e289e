//! A direct request's work, on a worker's thread.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::oneshot;
use wgquant::checkpoint::{
    Action, DequantizeOptions, PackedFile, Progress, QuantizeOptions, QuantizeReport, Source, VerifyReport,
    dequantize_into, quantize_into, verify_packed,
};
use wgquant::{Container, Engine};

use super::incoming::{Incoming, is_stalled};
use crate::app::App;
use crate::problem::{Kind, Problem, is_of_device};
use crate::queue::{Ran, Work};
use crate::spool::Spool;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Operation {
    /// Of one body, a compressed file.
    Quantize(QuantizeOptions),
    /// Of one compressed body, a plain file.
    Dequantize(DequantizeOptions),
    /// Of two bodies, the original and the compressed, a report.
    Verify,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer {
    Quantized(Arc<Spool>, QuantizeReport),
    Dequantized(Arc<Spool>, Container),
    Verified(VerifyReport),
}

/// The work of one request.
#[derive(Debug)]
pub(crate) struct Direct {
    pub(crate) app: App,
    pub(crate) operation: Operation,
    /// The bodies, with the names that messages call them.
    pub(crate) inputs: Vec<(&'static str, Arc<Incoming>)>,
    /// Set once nobody waits for it.
    pub(crate) cancelled: Arc<AtomicBool>,
    /// Taken when the answer is given.
    pub(crate) reply: Option<oneshot::Sender<Result<Answer, Problem>>>,
}

impl Work for Direct {
    fn is_ready(&self) -> bool {
        self.inputs.iter().all(|(_, input)| input.is_over())
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn run(&mut self, engine: &Engine) -> Ran {
        let done = match self.answer(engine) {
            Err(error) if is_stalled(&error) => return Ran::Stalled,
            Err(error) if is_of_device(&error) => return Ran::DeviceFailed(error),
            Err(error) => Err(error.into()),
            Ok(answer) => answer,
        };
        self.reply(done);
        Ran::Done
    }

    fn fail(&mut self, problem: Problem) {
        self.reply(Err(problem));
    }
}

impl Direct {
    fn reply(&mut self, done: Result<Answer, Problem>) {
        // Who has an answer may send more at once, and finds room.
        self.inputs.clear();
        if let Some(reply) = self.reply.take() {
            // Nobody may wait for it any more.
            let _ = reply.send(done);
        }
    }

    fn answer(&self, engine: &Engine) -> wgquant::Result<Result<Answer, Problem>> {
        let started = Instant::now();
        let mut sources = Vec::with_capacity(self.inputs.len());
        for (name, input) in &self.inputs {
            match self.open(name, input)? {
                Ok(source) => sources.push(source),
                Err(problem) => return Ok(Err(problem)),
            }
        }
        let mut sources = sources.into_iter();
        let (Some(source), second) = (sources.next(), sources.next()) else {
            return Ok(Err(Problem::new(Kind::BadRequest, "there is no body")));
        };
        let cancelled = Arc::clone(&self.cancelled);
        let mut progress = move |progress: Progress<'_>| {
            if cancelled.load(Ordering::Relaxed) {
                progress.give_up();
            }
        };
        let output = Arc::new(Spool::new(Arc::clone(&self.app.budget)));
        let read = source.n_bytes();
        let worked = |operation, n_elems, written| {
            self.app.metrics.worked(operation, n_elems, (read, written), started.elapsed());
        };
        let answer = match &self.operation {
            Operation::Quantize(options) => {
                let to = Arc::clone(&output);
                let report = pollster::block_on(quantize_into(engine, &source, to, options, &mut progress))?;
                let quantized = report.tensors.iter().filter(|tensor| tensor.action == Action::Quantized);
                worked(
                    "quantize",
                    quantized.map(|tensor| tensor.shape.iter().product::<u64>()).sum(),
                    report.bytes_out,
                );
                Answer::Quantized(output, report)
            }
            Operation::Dequantize(options) => {
                let packed = PackedFile::from_source(source)?;
                let to = Arc::clone(&output);
                let report = pollster::block_on(dequantize_into(engine, &packed, to, *options, &mut progress))?;
                worked("dequantize", packed.weights().iter().map(|weight| weight.n_elems).sum(), report.bytes_out);
                Answer::Dequantized(output, report.container)
            }
            Operation::Verify => {
                let Some(second) = second else {
                    return Ok(Err(Problem::new(Kind::BadRequest, "there is no second body")));
                };
                let packed = PackedFile::from_source(second)?;
                let report = verify_packed(&source, &packed, &mut progress)?;
                worked("verify", packed.weights().iter().map(|weight| weight.n_elems).sum(), 0);
                Answer::Verified(report)
            }
        };
        Ok(Ok(answer))
    }

    /// Reads a header, within what it may be.
    fn open(&self, name: &str, input: &Arc<Incoming>) -> wgquant::Result<Result<Source, Problem>> {
        input.begin_header();
        let source = Source::from_storage(Arc::clone(input) as _, Path::new(name))?;
        input.end_header();
        let (n, max) = (source.tensors().len(), self.app.config.max_tensors);
        if n > max {
            let text = format!("{name}: has {n} tensors, and at most {max} are taken");
            return Ok(Err(Problem::new(Kind::TooLarge, text)));
        }
        Ok(Ok(source))
    }
}
