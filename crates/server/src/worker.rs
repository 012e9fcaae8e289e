//! One worker a device: a thread that takes work from the queue, and opens its device anew where that is lost.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};
use wgquant::{Engine, Error};

use crate::app::App;
use crate::problem::{Kind, Problem};
use crate::queue::{Item, Ran};
use crate::spool::lock;

/// How long a device that could not be opened is left alone.
const REOPEN_AFTER: Duration = Duration::from_secs(2);

/// What of a worker others look at.
#[derive(Debug)]
pub struct Device {
    /// What the device was named in the configuration.
    name: String,
    /// What the device is called.
    description: String,
    engine: Mutex<Option<Arc<Engine>>>,
}

impl Device {
    /// A device that is open.
    #[must_use]
    pub fn new(name: String, engine: Engine) -> Self {
        Self { name, description: engine.description(), engine: Mutex::new(Some(Arc::new(engine))) }
    }

    /// What the device is called.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The open device; none while it is lost.
    #[must_use]
    pub fn engine(&self) -> Option<Arc<Engine>> {
        lock(&self.engine).clone()
    }

    /// Bytes that the driver's allocator holds for it, where that is known.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        match &*self.engine()? {
            Engine::Cpu => None,
            Engine::Gpu(gpu) => gpu.device().generate_allocator_report().map(|report| report.total_reserved_bytes),
        }
    }

    /// The open device, opened anew where it is not.
    fn open(&self, memory_bytes: u64) -> Result<Arc<Engine>, Error> {
        if let Some(engine) = self.engine() {
            return Ok(engine);
        }
        // Not under the lock, as others look at it meanwhile.
        let opened = Arc::new(pollster::block_on(Engine::open(&self.name))?.with_memory(memory_bytes)?);
        *lock(&self.engine) = Some(Arc::clone(&opened));
        Ok(opened)
    }

    fn close(&self) {
        *lock(&self.engine) = None;
    }
}

/// Starts the workers.
///
/// # Errors
/// What the system says.
pub(crate) fn start(app: &App) -> std::io::Result<Vec<JoinHandle<()>>> {
    let start = |ix| {
        let app = Arc::clone(app);
        // Threads of its own: reads that wait for a slow client would keep those of all from the other devices.
        let name = move |thread| format!("worker-{ix}-{thread}");
        let pool = ThreadPoolBuilder::new().thread_name(name).build().map_err(std::io::Error::other)?;
        std::thread::Builder::new().name(format!("worker-{ix}")).spawn(move || work(&app, &app.devices[ix], &pool))
    };
    (0..app.devices.len()).map(start).collect()
}

/// Until the queue is closed and empty.
fn work(app: &App, device: &Device, pool: &ThreadPool) {
    while let Some(mut item) = take(app, device) {
        let Ok(engine) = device.open(app.engine_bytes) else {
            app.queue.put_back(item);
            continue;
        };
        let started = Instant::now();
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| pool.install(|| item.work.run(&engine))));
        drop(engine);
        match ran {
            Ok(Ran::Done) => {}
            Ok(Ran::Stalled) => {
                item.must_be_ready = true;
                app.queue.put_back(item);
                continue;
            }
            Ok(Ran::DeviceFailed(error)) => {
                tracing::error!(device = device.description(), %error, "the device failed");
                app.metrics.device_lost(device.description());
                device.close();
                item.n_failed += 1;
                if item.n_failed < 2 {
                    app.queue.put_back(item);
                    continue;
                }
                item.work.fail(error.into());
            }
            Err(_) => {
                // The panic's own message is on standard error.
                tracing::error!(device = device.description(), "a fault of the service ended what it was doing");
                item.work.fail(Problem::new(Kind::Internal, "a fault of the service ended it: its log says more"));
            }
        }
        app.queue.done(item.lane, started);
    }
}

/// Waits for work, once the device is open.
fn take(app: &App, device: &Device) -> Option<Item> {
    while let Err(error) = device.open(app.engine_bytes) {
        if app.queue.is_closed() {
            // Nobody else may be there to answer those who still wait.
            if app.devices.iter().any(|device| device.engine().is_some()) {
                return None;
            }
            while let Some(mut item) = app.queue.pop() {
                item.work.fail(Problem::from(Error::GivenUp));
                app.queue.done(item.lane, Instant::now());
            }
            return None;
        }
        tracing::error!(device = device.description(), %error, "the device can't be opened; it is tried again");
        std::thread::sleep(REOPEN_AFTER);
    }
    app.queue.pop()
}
