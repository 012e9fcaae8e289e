//! A job as a worker does it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use wgquant::checkpoint::{Progress, QuantizeOptions, QuantizeReport, Source, quantize_source};
use wgquant::{Engine, Error};

use super::files::{LocalDestination, LocalSource, Names};
use super::live::Live;
use super::objects::{Bucket, Destination, Ended, RemoteSource};
use super::request::JobRequest;
use super::roots::Place;
use super::store::{Ending, Record, State, StoreError};
use super::{Jobs, report};
use crate::problem::{Kind, Problem, carried, is_of_device};
use crate::queue::{Ran, Work};

/// A job in the queue.
pub(super) struct Run {
    jobs: Arc<Jobs>,
    live: Arc<Live>,
    job: Record,
    /// Whether a worker has begun it in this process.
    is_begun: bool,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("job", &self.job.id).finish_non_exhaustive()
    }
}

/// Why a job ends before it is done.
enum Stop {
    /// Its error.
    Problem(Problem),
    /// The device failed.
    Device(Error),
    /// Somebody asked for that.
    Cancelled,
    /// The service stops, and the next process goes on.
    Stopping,
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl Run {
    pub(super) fn new(jobs: Arc<Jobs>, live: Arc<Live>, job: Record) -> Self {
        Self { jobs, live, job, is_begun: false }
    }

    /// Takes the job from the database; `false` if it has ended meanwhile.
    ///
    /// # Errors
    /// The database can't be used now.
    fn begin(&mut self) -> Result<bool, StoreError> {
        if !self.is_begun {
            let Some(job) = self.jobs.store.begin(&self.job.id)? else { return Ok(false) };
            self.job = job;
            self.is_begun = true;
            self.live.tell_state(State::Running);
            tracing::info!(job = self.job.id, attempt = self.job.attempts, "begun");
        }
        Ok(true)
    }

    /// Does it, from where an earlier run has left it.
    fn quantize(&self, engine: &Engine) -> Result<Ending, Stop> {
        let jobs = &self.jobs;
        let request: JobRequest = serde_json::from_str(&self.job.request)
            .map_err(|_| Problem::new(Kind::Internal, "the job was written by another release, and can't be read"))?;
        let mut options = request.options().map_err(|text| Problem::new(Kind::BadRequest, text))?;
        options.resume = options.resume || self.is_repeated();
        options.keep_journal = true;
        let memory = request.memory().map_err(|text| Problem::new(Kind::BadRequest, text))?;
        let shared = memory.map(|n_bytes| engine.share_with_memory(n_bytes)).transpose().map_err(Problem::from)?;
        let engine = shared.as_ref().unwrap_or(engine);

        let mut names = Names::default();
        let destination = Output::open(jobs, &self.job, &request, &mut options, &mut names)?;
        let made = self.make(engine, &request, &options, &destination, names);
        if let (Err(Stop::Cancelled | Stop::Problem(_)), Output::Remote(remote)) = (&made, &destination) {
            // This run's or an earlier one's.
            remote.take_back();
        }
        made
    }

    /// Makes the output, and brings it to its store.
    fn make(
        &self,
        engine: &Engine,
        request: &JobRequest,
        options: &QuantizeOptions,
        destination: &Output,
        mut names: Names,
    ) -> Result<Ending, Stop> {
        let (jobs, started) = (&self.jobs, Instant::now());
        let source = Input::open(jobs, request, &mut names)?;
        jobs.check_source(source.source(), request)?;
        let output = destination.path();
        if let Output::Remote(_) = destination {
            jobs.check_stage(source.source(), &output, options, request).map_err(|error| stop(error, &names))?;
        }
        let report = self.run(engine, source.source(), &output, options).map_err(|error| stop(error, &names))?;
        if let Output::Remote(destination) = destination {
            self.upload(destination)?;
        }
        let document = report::document(&report, started.elapsed().as_secs_f64());
        Ok(Ending::Done {
            report: document.to_string(),
            bytes_in: report.bytes_in,
            bytes_out: report.bytes_out,
            adapter: report.adapter,
        })
    }

    /// Whether a run before this one may have begun the output.
    fn is_repeated(&self) -> bool {
        self.job.attempts > 1
    }

    /// Brings the output to its store.
    fn upload(&self, destination: &Destination) -> Result<(), Stop> {
        let mut tell = |file: &str, bytes: (u64, u64)| {
            self.live.tell("uploading", file, bytes);
            !self.live.is_cancelled() && !self.jobs.queue.is_closed()
        };
        destination.upload(&mut tell).map_err(|ended| match ended {
            Ended::Asked if self.live.is_cancelled() => Stop::Cancelled,
            Ended::Asked => Stop::Stopping,
            Ended::Problem(problem) => Stop::Problem(problem),
        })
    }

    fn run(
        &self,
        engine: &Engine,
        source: &Source,
        output: &Path,
        options: &QuantizeOptions,
    ) -> Result<QuantizeReport, Error> {
        let mut progress = |progress: Progress<'_>| {
            if self.live.is_cancelled() {
                progress.give_up();
            } else if self.jobs.queue.is_closed() {
                progress.stop();
            }
            self.live.tell("quantizing", progress.tensor, (progress.done_bytes, progress.total_bytes));
        };
        pollster::block_on(quantize_source(engine, source, output, options, &mut progress))
    }

    fn end(&self, ending: &Ending) {
        self.jobs.end(&self.job, ending);
    }
}

/// A source that is open.
enum Input {
    Local { source: Source, _held: LocalSource },
    Remote(RemoteSource),
}

impl Input {
    fn open(jobs: &Jobs, request: &JobRequest, names: &mut Names) -> Result<Self, Problem> {
        let (place, _) = jobs.places(request)?;
        if let Place::Object { bucket, key } = &place {
            let bucket = Bucket::open(bucket, &jobs.runtime)?;
            let place = (request.source.as_str(), jobs.folder.as_path());
            return RemoteSource::open(&bucket, key, place, names, jobs.limits.max_header_bytes).map(Self::Remote);
        }
        let Some(local) = jobs.source(&place, request, names)? else {
            return Err(Problem::new(Kind::Internal, "the job's source is of no known kind"));
        };
        let source = Source::open(local.path()).map_err(|error| names.problem(error))?;
        Ok(Self::Local { source, _held: local })
    }

    fn source(&self) -> &Source {
        match self {
            Self::Local { source, .. } => source,
            Self::Remote(remote) => remote.source(),
        }
    }
}

/// A destination that is open.
enum Output {
    Local(LocalDestination),
    Remote(Destination),
}

impl Output {
    fn open(
        jobs: &Jobs,
        job: &Record,
        request: &JobRequest,
        options: &mut QuantizeOptions,
        names: &mut Names,
    ) -> Result<Self, Problem> {
        let (_, place) = jobs.places(request)?;
        if let Place::Object { bucket, key } = &place {
            let bucket = Bucket::open(bucket, &jobs.runtime)?;
            let folder = jobs.stage(&job.id);
            let destination = Destination::open(bucket, key, &request.destination, folder, options.force)?;
            names.add(&destination.path(), &request.destination);
            // The folder is the job's own, so what is there is what an earlier run has made.
            (options.resume, options.force) = (true, false);
            return Ok(Self::Remote(destination));
        }
        let Some(local) = jobs.destination(&place, request, names)? else {
            return Err(Problem::new(Kind::Internal, "the job's destination is of no known kind"));
        };
        Ok(Self::Local(local))
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Local(local) => local.path().to_owned(),
            Self::Remote(remote) => remote.path(),
        }
    }
}

/// What an error of the library is to a job.
fn stop(error: Error, names: &Names) -> Stop {
    match error.root() {
        Error::GivenUp => Stop::Cancelled,
        Error::Stopped => Stop::Stopping,
        _ if is_of_device(&error) => Stop::Device(error),
        _ => Stop::Problem(names.problem(error)),
    }
}

impl Names {
    /// An error of the library as the service tells it.
    pub(super) fn problem(&self, error: Error) -> Problem {
        let is_told = carried(&error).is_some() || is_of_device(&error);
        let sentence = error.to_string();
        let problem = Problem::from(error);
        let told = self.tell(if is_told { problem.detail() } else { &sentence });
        // A path that has no name of the job's is the service's own.
        let is_own = told.contains("/proc/self/") || told.contains("/source-");
        if is_own { problem } else { problem.with_detail(told) }
    }
}

impl Work for Run {
    fn is_cancelled(&self) -> bool {
        // One that was begun has left something, which running it takes away.
        self.live.is_cancelled() && self.job.attempts == 0
    }

    fn run(&mut self, engine: &Engine) -> Ran {
        let was_begun = self.is_begun;
        match self.begin() {
            Ok(true) => {}
            Ok(false) => return Ran::Done,
            Err(error) => {
                tracing::warn!(job = self.job.id, %error, "the job can't be begun yet");
                std::thread::sleep(super::RETRY);
                return Ran::Stalled;
            }
        }
        if was_begun {
            // The device was lost, and what it had done is kept.
            self.job.attempts = self.job.attempts.max(2);
        }
        match self.quantize(engine) {
            Ok(ending) => self.end(&ending),
            Err(Stop::Device(error)) => return Ran::DeviceFailed(error),
            Err(Stop::Cancelled) => self.end(&Ending::Cancelled),
            Err(Stop::Stopping) => {
                tracing::info!(job = self.job.id, "stopped; the next process goes on with it");
                if let Err(error) = self.jobs.store.put_back(&self.job.id) {
                    // The next process finds it running, which means the same.
                    tracing::warn!(job = self.job.id, %error, "that it was stopped can't be written down");
                }
            }
            Err(Stop::Problem(problem)) => self.fail(problem),
        }
        Ran::Done
    }

    fn fail(&mut self, problem: Problem) {
        tracing::warn!(job = self.job.id, %problem, "failed");
        let error = serde_json::to_string(&problem.document()).unwrap_or_default();
        self.end(&Ending::Failed { error });
    }
}
