//! Operating it: health, metrics, and what there is.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wgquant::{Container, Format, gpu};

use crate::app::App;
use crate::metrics;
use crate::problem::{Document, Kind, Problem};

/// How long what was found of GPUs is believed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics_text))
        .routes(routes!(adapters))
        .routes(routes!(formats))
}

/// How the service is.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// `ok`
    status: &'static str,
    /// The release of wgquant.
    version: &'static str,
}

const HEALTHY: Health = Health { status: "ok", version: env!("CARGO_PKG_VERSION") };

/// Whether the process is alive
#[utoipa::path(get, path = "/healthz", tag = "operation", security(()), responses((status = OK, body = Health)))]
async fn healthz() -> Json<Health> {
    Json(HEALTHY)
}

/// Whether it takes work: it is not stopping, and has a device
#[utoipa::path(get, path = "/readyz", tag = "operation", security(()), responses(
    (status = OK, body = Health),
    (status = SERVICE_UNAVAILABLE, body = Document, content_type = "application/problem+json"),
))]
async fn readyz(State(app): State<App>) -> Result<Json<Health>, Problem> {
    if app.queue.is_closed() {
        return Err(crate::queue::stopping());
    }
    if !app.devices.iter().any(|device| device.engine().is_some()) {
        return Err(Problem::new(Kind::Unavailable, "every device is lost; they are opened anew").retry_after(5));
    }
    Ok(Json(HEALTHY))
}

/// Counters and gauges for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "operation", responses(
    (status = OK, body = String, content_type = "application/openmetrics-text"),
))]
async fn metrics_text(State(app): State<App>) -> Result<Response, Problem> {
    let text = app.metrics.encode(&app).map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], text).into_response())
}

/// What GPUs there are, and which devices do the work.
#[derive(Debug, Serialize, ToSchema)]
struct Adapters {
    /// The GPUs of this machine, as `wgquant adapters --json` shows them.
    adapters: Vec<Adapter>,
    /// The devices that do the work.
    devices: Vec<OpenDevice>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
struct Adapter {
    /// The name that `--device` takes.
    name: String,
    /// `vulkan`, `gl`, …
    backend: String,
    /// `discrete`, `integrated`, `cpu`, …
    #[serde(rename = "type")]
    kind: String,
    /// The driver and its version.
    driver: String,
    /// Its limits, by WebGPU's names.
    #[schema(value_type = std::collections::BTreeMap<String, u64>)]
    limits: serde_json::Map<String, serde_json::Value>,
    /// What it can do beside what WebGPU demands.
    features: Vec<String>,
}

/// A device that does work.
#[derive(Debug, Serialize, ToSchema)]
struct OpenDevice {
    /// What it is called.
    name: String,
    /// Whether it is open; one that is lost is opened anew.
    is_open: bool,
    /// How often it was lost.
    losses: u64,
    /// Bytes that the driver holds for it, where that is known.
    memory_bytes: Option<u64>,
}

/// The GPUs of this machine, and the devices that do the work
#[utoipa::path(get, path = "/v1/adapters", tag = "operation", responses((status = OK, body = Adapters)))]
async fn adapters(State(app): State<App>) -> Result<Json<Adapters>, Problem> {
    let adapters = app.adapters.get().await?;
    let devices = app.devices.iter().map(|device| OpenDevice {
        name: device.description().to_owned(),
        is_open: device.engine().is_some(),
        losses: app.metrics.n_device_losses(device.description()),
        memory_bytes: device.memory_bytes(),
    });
    Ok(Json(Adapters { adapters, devices: devices.collect() }))
}

/// The machine's GPUs, as they were a moment ago: to look for them, every driver is loaded.
#[derive(Debug, Default)]
pub(crate) struct KnownAdapters(Mutex<Option<(Instant, Vec<Adapter>)>>);

impl KnownAdapters {
    async fn get(&self) -> Result<Vec<Adapter>, Problem> {
        let mut known = self.0.lock().await;
        if let Some((since, adapters)) = &*known
            && since.elapsed() < LOOK_AGAIN
        {
            return Ok(adapters.clone());
        }
        let found = tokio::task::spawn_blocking(|| pollster::block_on(gpu::adapters())).await;
        let found = found.map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
        let adapters = found.into_iter().map(|adapter| Adapter {
            name: adapter.name,
            backend: adapter.backend.to_string(),
            kind: adapter.device_type.to_string(),
            driver: adapter.driver,
            limits: adapter.limits.iter().map(|&(name, n)| (name.to_owned(), n.into())).collect(),
            features: adapter.features.iter().map(ToString::to_string).collect(),
        });
        let adapters: Vec<_> = adapters.collect();
        *known = Some((Instant::now(), adapters.clone()));
        Ok(adapters)
    }
}

/// The formats.
#[derive(Debug, Serialize, ToSchema)]
struct Formats {
    /// As `wgquant formats --json` shows them.
    formats: Vec<FormatRow>,
}

#[derive(Debug, Serialize, ToSchema)]
struct FormatRow {
    /// The name that requests take.
    name: &'static str,
    /// What it is.
    summary: &'static str,
    /// Bits, scales included.
    bits_per_weight: f64,
    /// Weights that share a scale.
    block: usize,
    /// The type of a scale.
    scale: &'static str,
    /// The layouts of files that hold it.
    containers: Vec<&'static str>,
}

/// The formats: bits per weight, block, scale, containers
#[utoipa::path(get, path = "/v1/formats", tag = "operation", responses((status = OK, body = Formats)))]
async fn formats() -> Json<Formats> {
    let rows = Format::ALL.iter().map(|format| format.info()).map(|row| FormatRow {
        name: row.name,
        summary: row.summary,
        bits_per_weight: row.bits_per_weight(),
        block: row.block,
        scale: row.scale.name(),
        containers: row.containers.iter().copied().map(Container::name).collect(),
    });
    Json(Formats { formats: rows.collect() })
}
