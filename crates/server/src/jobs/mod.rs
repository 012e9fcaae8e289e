//! Jobs: checkpoints that are compressed in the background, from and to folders and stores. They outlive the process.
//!
//! A job is a row of the database ([`store`]) and, while it has not ended, an entry of the queue and something that can be
//! listened to ([`live`]). A row says that a job runs before it does, and that it has ended only after its output has its
//! name. Between these two the library's journal beside the output tells how far it is; so whenever the process is
//! killed, the next one finds the job and goes on, and finds too that nothing is left to do.

mod files;
mod live;
mod objects;
mod report;
mod request;
mod roots;
mod routes;
mod runner;
mod store;
mod view;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wgquant::checkpoint::{QuantizeOptions, Source, plan_source};

use self::files::{LocalDestination, LocalSource, Names};
use self::live::Live;
use self::request::JobRequest;
use self::roots::{Place, Roots};
pub(crate) use self::routes::routes;
use self::store::{Ending, Key, Record, State, Store, StoreError, Submitted};
use crate::config::Config;
use crate::problem::{Kind, Problem};
use crate::queue::{Lane, Queue};
use crate::spool::lock;

/// How long the database may be in use by another process before the end of a job is written down by force of patience.
const RETRY: Duration = Duration::from_millis(500);

/// All jobs of a service.
#[derive(Debug)]
pub(crate) struct Jobs {
    store: Store,
    roots: Roots,
    queue: Arc<Queue>,
    /// For what running jobs need beside their outputs.
    folder: PathBuf,
    /// For outputs that go to a store.
    staging: PathBuf,
    /// Bytes that such an output may have.
    staging_bytes: u64,
    /// For requests to stores.
    runtime: tokio::runtime::Handle,
    /// Jobs that have not ended.
    live: Mutex<HashMap<String, Arc<Live>>>,
    limits: Limits,
    /// One process has the state folder.
    _lock: std::fs::File,
}

/// How large a checkpoint may be.
#[derive(Debug, Clone, Copy)]
struct Limits {
    max_header_bytes: u64,
    max_tensors: usize,
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Busy => Self::new(Kind::Unavailable, format!("{error}: try again")).retry_after(2),
            StoreError::Full => Self::new(Kind::DiskFull, format!("{error}: try again when there is")),
            StoreError::Other(inner) => {
                tracing::error!(error = %inner, "the database of jobs can't be used");
                Self::new(Kind::Internal, format!("{error}: the service's log says why"))
            }
        }
    }
}

impl Jobs {
    /// Opens the database under the state folder and queues what had not ended when the last process did. It is called
    /// within the runtime.
    ///
    /// # Errors
    /// One sentence.
    pub(crate) fn open(config: &Config, queue: Arc<Queue>) -> Result<Arc<Self>, String> {
        let state = &config.state;
        let failed = |what: &str, why: &dyn std::fmt::Display| format!("{}: {what}: {why}", state.display());
        let lock = lock_folder(state).map_err(|why| format!("{}: {why}", state.display()))?;
        let (folder, staging) = (state.join("jobs"), state.join("staging"));
        // What a process that was killed has left there is of no use.
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("can't be used", &error)),
            _ => {}
        }
        for folder in [&folder, &staging] {
            std::fs::create_dir_all(folder).map_err(|error| failed("can't be made", &error))?;
        }
        let store = Store::open(&state.join("jobs.sqlite")).map_err(|error| match error {
            StoreError::Other(inner) => failed("the database of jobs can't be opened", &inner),
            error => failed("can't be used", &error),
        })?;
        let jobs = Self {
            store,
            roots: Roots::new(&config.roots)?,
            queue,
            folder,
            staging,
            staging_bytes: config.disk_bytes,
            runtime: tokio::runtime::Handle::current(),
            live: Mutex::default(),
            _lock: lock,
            limits: Limits { max_header_bytes: config.max_header_bytes, max_tensors: config.max_tensors },
        };
        let jobs = Arc::new(jobs);
        jobs.go_on().map_err(|error| failed("the database of jobs can't be read", &error))?;
        Ok(jobs)
    }

    /// Queues what waits, and tidies up after what has ended.
    fn go_on(self: &Arc<Self>) -> Result<(), StoreError> {
        for job in self.store.untidy()? {
            self.tidy(&job);
        }
        for job in self.store.waiting()? {
            let live = Arc::new(Live::new(State::Queued, job.cancelled));
            lock(&self.live).insert(job.id.clone(), Arc::clone(&live));
            self.queue.restore(Lane::Job, Box::new(runner::Run::new(Arc::clone(self), live, job)));
        }
        Ok(())
    }

    /// Takes a job.
    ///
    /// # Errors
    /// What is wrong with it, the queue is full, or the database can't be used.
    fn submit(self: &Arc<Self>, request: &JobRequest, key: Option<&str>) -> Result<(Record, bool), Problem> {
        let options = request.options().map_err(|text| Problem::new(Kind::BadRequest, text))?;
        let text = serde_json::to_string(request).map_err(|_| Problem::new(Kind::Internal, "the job can't be kept"))?;
        let digest = blake3::hash(text.as_bytes()).to_hex();
        let key = key.map(|key| Key { key, digest: &digest });
        if let Some(found) = key.map(|key| self.store.find_key(key)).transpose()?.flatten() {
            return repeated(found);
        }
        self.check(request, &options)?;
        let job = match self.store.submit(&text, key)? {
            Submitted::New(job) => job,
            found => return repeated(found),
        };
        let live = Arc::new(Live::new(State::Queued, false));
        lock(&self.live).insert(job.id.clone(), Arc::clone(&live));
        let run = runner::Run::new(Arc::clone(self), live, job.clone());
        if let Err(problem) = self.queue.push(Lane::Job, Box::new(run)) {
            lock(&self.live).remove(&job.id);
            self.store.forget(&job.id)?;
            return Err(problem);
        }
        tracing::info!(job = job.id, "taken");
        Ok((job, true))
    }

    /// Refuses at once what would be refused before any work.
    fn check(&self, request: &JobRequest, options: &QuantizeOptions) -> Result<(), Problem> {
        let mut names = Names::default();
        let (source, destination) = self.places(request)?;
        let destination = self.destination(&destination, request, &mut names)?;
        let source = self.source(&source, request, &mut names)?;
        if let (Some(source), Some(destination)) = (source, destination) {
            let source = Source::open(source.path()).map_err(|error| names.problem(error))?;
            self.check_source(&source, request)?;
            plan_source(&source, destination.path(), options).map_err(|error| names.problem(error))?;
        }
        Ok(())
    }

    /// Where a job reads and writes, as far as names say.
    fn places(&self, request: &JobRequest) -> Result<(Place, Place), Problem> {
        let place = |what: &str, text: &str| {
            self.roots.place(text).map_err(|why| Problem::new(Kind::Forbidden, format!("the {what} {text:?} {why}")))
        };
        let (source, destination) = (place("source", &request.source)?, place("destination", &request.destination)?);
        if let (Place::Object { bucket: from, key: source }, Place::Object { bucket: to, key: destination }) =
            (&source, &destination)
            && from == to
            && (is_within(source, destination) || is_within(destination, source))
        {
            let why = "is the source, lies in it or around it: give another name";
            return Err(refused("destination", &request.destination, why));
        }
        Ok((source, destination))
    }

    /// Opens a source on this machine.
    fn source(&self, place: &Place, request: &JobRequest, names: &mut Names) -> Result<Option<LocalSource>, Problem> {
        let Place::Path(path) = place else { return Ok(None) };
        let opened = LocalSource::open(&self.roots, path, &request.source, &self.folder, names);
        let opened = opened.map_err(|why| refused("source", &request.source, &why))?;
        opened.check_headers(self.limits.max_header_bytes).map_err(|why| refused("source", &request.source, &why))?;
        Ok(Some(opened))
    }

    /// Opens the folder of a destination on this machine.
    fn destination(
        &self,
        place: &Place,
        request: &JobRequest,
        names: &mut Names,
    ) -> Result<Option<LocalDestination>, Problem> {
        let Place::Path(path) = place else { return Ok(None) };
        let opened = LocalDestination::open(&self.roots, path, &request.destination, names);
        opened.map(Some).map_err(|why| refused("destination", &request.destination, &why))
    }

    /// The folder of a job's output that goes to a store.
    fn stage(&self, id: &str) -> PathBuf {
        self.staging.join(id)
    }

    /// Refuses an output that has no room on the disk until it is in its store.
    fn check_stage(
        &self,
        source: &Source,
        output: &Path,
        options: &QuantizeOptions,
        request: &JobRequest,
    ) -> Result<(), wgquant::Error> {
        let planned = plan_source(source, output, options)?;
        if planned.bytes_out > self.staging_bytes {
            let problem = Problem::new(
                Kind::TooLarge,
                format!(
                    "the destination {:?} would get {} bytes, which are made on the service's disk first, and at most {} may be \
                     (see --disk)",
                    request.destination, planned.bytes_out, self.staging_bytes
                ),
            );
            return Err(wgquant::Error::Io { what: "no room".to_owned(), source: problem.into() });
        }
        Ok(())
    }

    /// Refuses a checkpoint with too many tensors.
    fn check_source(&self, source: &Source, request: &JobRequest) -> Result<(), Problem> {
        let (n, max) = (source.tensors().len(), self.limits.max_tensors);
        if n > max {
            let why = format!("has {n} tensors, and at most {max} are taken");
            return Err(refused("source", &request.source, &why));
        }
        Ok(())
    }

    /// Asks for a job's end.
    fn cancel(&self, id: &str) -> Result<Option<Record>, Problem> {
        let Some(job) = self.store.cancel(id)? else { return Ok(None) };
        if let Some(live) = self.live(id) {
            live.cancel();
            if job.state.is_final() {
                self.ended(id, job.state);
            }
        }
        self.queue.notify();
        Ok(Some(job))
    }

    /// Writes down how a job ended, however long the database can't be used, until the service stops. The next process
    /// would find the same.
    fn end(&self, job: &Record, ending: &Ending) {
        loop {
            match self.store.end(&job.id, ending) {
                Ok(()) => break,
                Err(error) => tracing::warn!(job = job.id, %error, "the end of a job can't be written down yet"),
            }
            if self.queue.is_closed() {
                return;
            }
            std::thread::sleep(RETRY);
        }
        let state = match ending {
            Ending::Done { .. } => State::Done,
            Ending::Failed { .. } => State::Failed,
            Ending::Cancelled => State::Cancelled,
        };
        tracing::info!(job = job.id, state = state.name(), "ended");
        self.tidy(&Record { state, ..job.clone() });
        self.ended(&job.id, state);
    }

    /// Tells listeners of a job's end, and that they need not listen any more.
    fn ended(&self, id: &str, state: State) {
        if let Some(live) = lock(&self.live).remove(id) {
            live.tell_state(state);
        }
    }

    /// Removes the journal of a job that has ended.
    fn tidy(&self, job: &Record) {
        objects::remove_stage(&self.stage(&job.id));
        // Another's journal may lie beside the destination of one that failed.
        let is_done = |job: &&Record| job.state == State::Done;
        let job_done = Some(job).filter(is_done);
        let removed =
            job_done.and_then(|job| serde_json::from_str::<JobRequest>(&job.request).ok()).and_then(|request| {
                let (_, place) = self.places(&request).ok()?;
                let opened = self.destination(&place, &request, &mut Names::default()).ok()??;
                wgquant::checkpoint::remove_journal(opened.path()).ok()
            });
        // A destination that is gone, or no root any more, is nobody's to tidy up.
        if let Err(error) = self.store.tidied(&job.id) {
            tracing::warn!(job = job.id, %error, removed = removed.is_some(), "it is tidied up again at the next start");
        }
    }

    /// What can be listened to of a job that has not ended.
    fn live(&self, id: &str) -> Option<Arc<Live>> {
        lock(&self.live).get(id).cloned()
    }

    /// Lets listeners go, as the service stops.
    pub(crate) fn let_go(&self) {
        lock(&self.live).clear();
    }

    /// How many jobs are in each state, for metrics.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        let counts = self.store.counts().unwrap_or_default();
        counts.into_iter().map(|(state, n)| (state.name(), n)).collect()
    }
}

/// Takes a state folder for this process.
fn lock_folder(state: &Path) -> Result<std::fs::File, String> {
    let cant = |error: std::io::Error| format!("can't be used: {error}");
    std::fs::create_dir_all(state).map_err(cant)?;
    let lock = std::fs::File::create(state.join("lock")).map_err(cant)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err("another service has this folder: name another with --state".to_owned())
        }
        // Some file systems have no locks; the service is not held up for that.
        Err(std::fs::TryLockError::Error(_)) => Ok(lock),
    }
}

/// Whether a key is another one, or lies under it as in a folder.
fn is_within(key: &str, folder: &str) -> bool {
    let (key, folder) = (key.trim_matches('/'), folder.trim_matches('/'));
    key.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What a repeated submission gets.
fn repeated(found: Submitted) -> Result<(Record, bool), Problem> {
    match found {
        Submitted::New(job) | Submitted::Repeated(job) => Ok((job, false)),
        Submitted::OtherRequest => {
            let text = "this Idempotency-Key came with another job before: take another key for another job";
            Err(Problem::new(Kind::Conflict, text))
        }
    }
}

fn refused(what: &str, name: &str, why: &str) -> Problem {
    let kind = if why.contains("outside of") { Kind::Forbidden } else { Kind::BadRequest };
    Problem::new(kind, format!("the {what} {name:?} {why}"))
}
