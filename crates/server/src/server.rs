//! Listening, connections, and stopping in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;
use wgquant::Engine;

use crate::app::{App, Connection, Shared, router};
use crate::config::Config;
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::operate::KnownAdapters;
use crate::queue::Queue;
use crate::spool::Budget;
use crate::worker::{self, Device};

/// What a connection's head, and what of a body or an answer is between socket and handler, may take.
const BUFFER_BYTES: usize = 64 << 10;
/// The most header lines.
const MAX_HEADERS: usize = 64;
/// After a failure to accept, as where the process has no more files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long what runs may take to finish once the service is told to stop.
const GRACE: Duration = Duration::from_secs(60);

/// A service that listens.
#[derive(Debug)]
pub struct Server {
    app: App,
    listener: TcpListener,
    router: Router,
    workers: Vec<JoinHandle<()>>,
}

impl Server {
    /// Opens the devices, makes the folders and listens. Within a Tokio runtime.
    ///
    /// # Errors
    /// One sentence: what can't be opened, made or listened on.
    pub async fn open(config: Config) -> Result<Self, String> {
        let folder = config.temporary();
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: can't be made: {error}", folder.display()))?;
        let devices = open_devices(&config)?;
        let (engine_bytes, bodies) = config.share_memory(devices.len())?;
        let devices = devices
            .into_iter()
            .map(|(name, engine)| Ok(Device::new(name, engine.with_memory(engine_bytes)?)))
            .collect::<wgquant::Result<Vec<_>>>()
            .map_err(|error| error.to_string())?;
        let listener = TcpListener::bind(config.listen).await;
        let listener = listener.map_err(|error| format!("{}: can't be listened on: {error}", config.listen))?;
        let queue = Arc::new(Queue::new(config.queue, config.job_queue, devices.len()));
        let app = Arc::new(Shared {
            jobs: Jobs::open(&config, Arc::clone(&queue))?,
            budget: Arc::new(Budget::new(bodies, config.disk_bytes, folder)),
            queue,
            metrics: Metrics::new(devices.iter().map(Device::description)),
            devices,
            engine_bytes,
            config,
            adapters: KnownAdapters::default(),
            stopping: watch::Sender::new(false),
        });
        let workers = worker::start(&app).map_err(|error| format!("a thread can't be started: {error}"))?;
        Ok(Self { router: router(&app), app, listener, workers })
    }

    /// What its requests share.
    #[must_use]
    pub fn app(&self) -> App {
        Arc::clone(&self.app)
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` comes, then lets what runs finish: direct requests to their answers, jobs to where they can go on.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let Self { app, listener, router, workers } = self;
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(app.config.max_connections));
        let mut stop = std::pin::pin!(stop);
        loop {
            let accept = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (listener.accept().await, place)
            };
            let (stream, place) = tokio::select! {
                () = &mut stop => break,
                accepted = accept => accepted,
            };
            let stream = match stream {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let Some(served) = serve_connection(&app, stream, router.clone(), &graceful) else { continue };
            tokio::spawn(async move {
                served.await;
                drop(place);
            });
        }
        drop(listener);
        tracing::info!("stopping: what runs is finished first");
        app.queue.close();
        app.stopping.send_replace(true);
        app.jobs.let_go();
        if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
            tracing::warn!("stopping: what still runs after {} s is given up", GRACE.as_secs());
        }
        let ended = tokio::task::spawn_blocking(move || workers.into_iter().for_each(|worker| drop(worker.join())));
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            tracing::warn!("stopping: a device does not come to an end");
        }
    }
}

/// The devices that the configuration names, each with its name.
fn open_devices(config: &Config) -> Result<Vec<(String, Engine)>, String> {
    let engines = pollster::block_on(Engine::open_all(&config.device)).map_err(|error| error.to_string())?;
    let names = Engine::names(&config.device).map_err(|error| error.to_string())?;
    Ok(names.into_iter().map(str::to_owned).zip(engines).collect())
}

/// Serves a connection's requests, one after the other.
fn serve_connection(
    app: &App,
    stream: TcpStream,
    router: Router,
    graceful: &GracefulShutdown,
) -> Option<impl Future<Output = ()> + use<>> {
    // What is sent is sent at once; a socket that refuses that works still.
    let _ = stream.set_nodelay(true);
    let connection = Connection { remote: stream.peer_addr().ok()?, local: stream.local_addr().ok()? };
    let idle_limit = app.config.idle_limit;
    let mut stream = TimeoutStream::new(stream);
    // Reads wait for as long as the work takes; what a body's reads may take is seen to elsewhere.
    stream.set_write_timeout(Some(idle_limit));
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(connection);
        let router = router.clone();
        router.oneshot(Request::from_parts(parts, Body::new(body)))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle_limit)
        .max_buf_size(BUFFER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let served = graceful.watch(served);
    Some(async move {
        if let Err(error) = served.await {
            tracing::debug!(remote = %connection.remote, error = crate::cause(&error), "a connection broke");
        }
    })
}
