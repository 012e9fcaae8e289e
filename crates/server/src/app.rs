//! What all requests share, and the routes.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header, request::Parts};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use tower_http::request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use utoipa_axum::router::OpenApiRouter;

use crate::client_body;
use crate::config::Config;
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::operate::KnownAdapters;
use crate::problem::{Kind, Problem};
use crate::queue::Queue;
use crate::spool::Budget;
use crate::worker::Device;
use crate::{auth, direct, jobs, openapi, operate, page};

/// What all requests share.
#[derive(Debug)]
pub struct Shared {
    /// What goes.
    pub config: Config,
    /// What bodies and answers take.
    pub budget: Arc<Budget>,
    /// What waits for a device.
    pub queue: Arc<Queue>,
    /// Checkpoints that are compressed in the background.
    pub(crate) jobs: Arc<Jobs>,
    /// One a worker.
    pub devices: Vec<Device>,
    /// Bytes that each device's work may take.
    pub engine_bytes: u64,
    /// What is counted.
    pub metrics: Metrics,
    /// The machine's GPUs.
    pub(crate) adapters: KnownAdapters,
    /// Cancelled once the service is stopping: what watches without end, such as a stream of events, ends then.
    pub stopping: tokio::sync::watch::Sender<bool>,
}

/// As handlers get it.
pub type App = Arc<Shared>;

/// Both ends of a request's connection.
#[derive(Debug, Clone, Copy)]
pub struct Connection {
    /// The client.
    pub remote: SocketAddr,
    /// The address that it has reached.
    pub local: SocketAddr,
}

/// The routes with all that stands before them.
pub(crate) fn router(app: &App) -> Router {
    let (routes, api) = OpenApiRouter::with_openapi(openapi::base(app))
        .merge(operate::routes())
        .merge(direct::routes())
        .merge(jobs::routes())
        .split_for_parts();
    let name = HeaderName::from_static("x-request-id");
    // The first that is named here is the last that a request meets.
    let routes = if app.config.bench_echo { routes.merge(direct::echo_route()) } else { routes };
    let routes = match &app.config.site {
        Some(folder) => routes.merge(page::site(folder)),
        None => routes,
    };
    routes
        .merge(openapi::routes(api))
        .merge(page::routes(app.config.site.is_some()))
        .fallback(async || Problem::new(Kind::NotFound, "there is no such route: GET /openapi.json lists them"))
        .method_not_allowed_fallback(async || {
            Problem::new(Kind::MethodNotAllowed, "the route takes other methods: GET /openapi.json lists them")
        })
        .layer(from_fn_with_state(Arc::clone(app), auth::guard))
        .layer(from_fn_with_state(Arc::clone(app), client_body::limit))
        .layer(from_fn_with_state(Arc::clone(app), observe))
        .layer(PropagateRequestIdLayer::new(name.clone()))
        .layer(SetRequestIdLayer::new(name.clone(), NewId))
        .layer(axum::middleware::map_request(keep_sane_id))
        .with_state(Arc::clone(app))
}

#[derive(Debug, Clone, Copy)]
struct NewId;

impl MakeRequestId for NewId {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).ok().map(RequestId::new)
    }
}

/// A client may name a request; a name that could disturb a log is dropped.
async fn keep_sane_id(mut request: Request) -> Request {
    let is_sane = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        (1..=64).contains(&bytes.len())
            && bytes.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if !request.headers().get("x-request-id").is_some_and(is_sane) {
        request.headers_mut().remove("x-request-id");
    }
    request
}

/// Counts and logs a request, and says what browsers should do with the answer.
async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = std::time::Instant::now();
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()).unwrap_or_default();
    let (id, path) = (id.to_owned(), request.uri().path().to_owned());
    let remote = request.extensions().get::<Connection>().map(|connection| connection.remote.to_string());
    let span = tracing::info_span!("request", %id, %method, %path, remote = remote.unwrap_or_default());
    let mut response = tracing::Instrument::instrument(next.run(request), span.clone()).await;
    let (status, taken) = (response.status(), started.elapsed());
    // Neither path nor method as they came: whoever makes them up would make up series.
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
    let method = known.into_iter().find(|known| *known == method.as_str()).unwrap_or("other");
    app.metrics.request(method, matched.as_deref().unwrap_or("none"), status.as_u16(), taken);
    let _in_span = span.enter();
    let (status, milliseconds) = (status.as_u16(), u64::try_from(taken.as_millis()).unwrap_or(u64::MAX));
    match response.extensions_mut().remove::<Problem>() {
        Some(problem) if status >= 500 => tracing::error!(status, milliseconds, %problem, "answered"),
        Some(problem) => tracing::info!(status, milliseconds, %problem, "answered"),
        // Probes and scrapes come all day.
        None if ["/healthz", "/readyz", "/metrics"].contains(&path.as_str()) => {
            tracing::debug!(status, milliseconds, "answered");
        }
        None => tracing::info!(status, milliseconds, "answered"),
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Query parameters, or a problem document that says what is wrong with them.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: serde::de::DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|error| {
            Problem::new(Kind::BadRequest, format!("the query makes no sense: {}", crate::cause(&error)))
        })
    }
}
