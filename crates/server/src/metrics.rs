//! What Prometheus reads.

use std::fmt::Write as _;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::app::Shared;
use crate::queue::Lane;

/// The media type of what Prometheus reads.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceLabel {
    device: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

/// Counters of what happens, and the registry that they are read through.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabel, Histogram, fn() -> Histogram>,
    read: Counter,
    sent: Counter,
    elements: Family<OperationLabel, Counter>,
    rate: Family<OperationLabel, Gauge<f64, std::sync::atomic::AtomicU64>>,
    losses: Family<DeviceLabel, Counter>,
}

fn seconds_buckets() -> Histogram {
    Histogram::new([0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0])
}

impl Metrics {
    /// All at zero, with a series for each device.
    #[must_use]
    pub fn new<'a>(devices: impl IntoIterator<Item = &'a str>) -> Self {
        let mut registry = Registry::with_prefix("wgquant");
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(seconds_buckets),
            read: Counter::default(),
            sent: Counter::default(),
            elements: Family::default(),
            rate: Family::default(),
            losses: Family::default(),
            registry: Registry::default(),
        };
        registry.register("http_requests", "Requests that were answered", metrics.requests.clone());
        registry.register_with_unit(
            "http_request",
            "From a request's head to its answer's",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register_with_unit("read", "Checkpoints' bytes that were read", Unit::Bytes, metrics.read.clone());
        registry.register_with_unit("written", "Checkpoints' bytes that were made", Unit::Bytes, metrics.sent.clone());
        registry.register("elements", "Weights that were worked on", metrics.elements.clone());
        registry.register("elements_per_second", "Weights a second, of the last that was done", metrics.rate.clone());
        registry.register("device_losses", "How often a device failed and was opened anew", metrics.losses.clone());
        for device in devices {
            let _ = metrics.losses.get_or_create(&DeviceLabel { device: device.to_owned() });
        }
        Self { registry, ..metrics }
    }

    /// A request was answered.
    pub fn request(&self, method: &str, route: &str, status: u16, taken: Duration) {
        let labels = RequestLabels { method: method.to_owned(), route: route.to_owned(), status };
        self.requests.get_or_create(&labels).inc();
        self.seconds.get_or_create(&RouteLabel { route: route.to_owned() }).observe(taken.as_secs_f64());
    }

    /// A checkpoint was worked on.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub fn worked(&self, operation: &'static str, n_elems: u64, (read, written): (u64, u64), taken: Duration) {
        self.read.inc_by(read);
        self.sent.inc_by(written);
        let label = OperationLabel { operation };
        self.elements.get_or_create(&label).inc_by(n_elems);
        self.rate.get_or_create(&label).set(n_elems as f64 / taken.as_secs_f64().max(1e-9));
    }

    /// A device failed.
    pub fn device_lost(&self, device: &str) {
        self.losses.get_or_create(&DeviceLabel { device: device.to_owned() }).inc();
    }

    /// How often devices failed.
    #[must_use]
    pub fn n_device_losses(&self, device: &str) -> u64 {
        self.losses.get_or_create(&DeviceLabel { device: device.to_owned() }).get()
    }

    /// The text that Prometheus reads: the counters, and what is looked up now.
    pub(crate) fn encode(&self, app: &Shared) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode_registry(&mut out, &self.registry)?;
        let mut family = |name: &str, kind: &str, help: &str, rows: Vec<(String, u64)>| {
            let _ = writeln!(out, "# HELP wgquant_{name} {help}.\n# TYPE wgquant_{name} {kind}");
            let ending = if kind == "counter" { "_total" } else { "" };
            for (labels, value) in rows {
                let _ = writeln!(out, "wgquant_{name}{ending}{labels} {value}");
            }
        };
        let lanes = |of: fn((usize, usize, u64)) -> u64| {
            Lane::ALL.map(|lane| (format!("{{lane=\"{}\"}}", lane.name()), of(app.queue.counts(lane)))).to_vec()
        };
        family("queue_waiting", "gauge", "Requests and jobs that wait for a device", lanes(|(n, _, _)| n as u64));
        family("queue_running", "gauge", "Requests and jobs that a device works on", lanes(|(_, n, _)| n as u64));
        family("queue_refused", "counter", "Requests and jobs that found the queue full", lanes(|(_, _, n)| n));
        let jobs = app.jobs.counts().into_iter().map(|(state, n)| (format!("{{state=\"{state}\"}}"), n));
        family("jobs", "gauge", "Jobs that are remembered, by their states", jobs.collect());
        let of_device = |device: &str| format!("{{device=\"{}\"}}", escaped(device));
        let memory =
            app.devices.iter().filter_map(|device| Some((of_device(device.description()), device.memory_bytes()?)));
        family("device_memory_bytes", "gauge", "Bytes that the driver holds for a device", memory.collect());
        let open = |device: &crate::worker::Device| u64::from(device.engine().is_some());
        let open = app.devices.iter().map(|device| (of_device(device.description()), open(device)));
        family("device_open", "gauge", "Whether a device is open", open.collect());
        let spools = |of: fn((u64, u64)) -> u64| {
            vec![
                ("{place=\"memory\"}".to_owned(), of(app.budget.memory())),
                ("{place=\"disk\"}".to_owned(), of(app.budget.disk())),
            ]
        };
        family("spool_bytes", "gauge", "Bytes of bodies and answers on their way", spools(|(used, _)| used));
        family("spool_limit_bytes", "gauge", "The most that those may be", spools(|(_, max)| max));
        let resident = resident_bytes().map(|n| (String::new(), n));
        family("resident_memory_bytes", "gauge", "Bytes that the process has resident", resident.into_iter().collect());
        text::encode_eof(&mut out)?;
        Ok(out)
    }
}

/// A label's value, as the format has it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Bytes that the process has resident now, where the system says so.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok().map(|kib: u64| kib << 10)
}
