//! The routes of jobs.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Jobs;
use super::live::Heard;
use super::request::{JobRequest, Which};
use super::store::{Record, State};
use super::view::JobView;
use crate::app::{App, Query};
use crate::problem::{Document, Kind, Problem};

/// Jobs that a list has, unless told otherwise.
const DEFAULT_LIMIT: u32 = 100;
/// Jobs that a list has at most.
const MAX_LIMIT: u32 = 1000;
/// Characters of an Idempotency-Key.
const MAX_KEY: usize = 255;
/// How often a stream of events says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, submit))
        .routes(routes!(show))
        .routes(routes!(events))
        .routes(routes!(cancel))
        .routes(routes!(report))
}

/// Submit a job
///
/// A checkpoint is compressed in the background, from and to the service's roots. With an `Idempotency-Key`, a repeated
/// submission is the same job.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", request_body = JobRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "up to 255 visible characters",
        min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    responses(
        (status = ACCEPTED, description = "taken", body = JobView,
            headers(("Location" = String, description = "the job"))),
        (status = OK, description = "the job that this key made before", body = JobView),
        (status = BAD_REQUEST, description = "it makes no sense", body = Document, content_type = "application/problem+json"),
        (status = FORBIDDEN, description = "outside of the roots", body = Document, content_type = "application/problem+json"),
        (status = CONFLICT, description = "the key came with another job", body = Document, content_type = "application/problem+json"),
        (status = PAYLOAD_TOO_LARGE, description = "too large", body = Document, content_type = "application/problem+json"),
        (status = UNSUPPORTED_MEDIA_TYPE, description = "no JSON", body = Document, content_type = "application/problem+json"),
        (status = UNPROCESSABLE_ENTITY, description = "the checkpoint can't be taken", body = Document, content_type = "application/problem+json"),
        (status = TOO_MANY_REQUESTS, description = "too many jobs wait", body = Document, content_type = "application/problem+json"),
        (status = SERVICE_UNAVAILABLE, description = "not now", body = Document, content_type = "application/problem+json"),
    ))]
async fn submit(
    Shared(app): Shared<App>,
    headers: HeaderMap,
    request: Result<Json<JobRequest>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(request) = request.map_err(unreadable)?;
    let key = key(&headers)?;
    let (view, is_new) = blocking(&app, move |jobs| {
        let (job, is_new) = jobs.submit(&request, key.as_deref())?;
        Ok((jobs.view(job)?, is_new))
    })
    .await?;
    let location = HeaderValue::from_str(&format!("/v1/jobs/{}", view.id));
    let mut response = (if is_new { StatusCode::ACCEPTED } else { StatusCode::OK }, Json(view)).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

fn unreadable(error: JsonRejection) -> Problem {
    let kind = match error.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Kind::UnsupportedMediaType,
        StatusCode::PAYLOAD_TOO_LARGE => Kind::TooLarge,
        _ => Kind::BadRequest,
    };
    Problem::new(kind, format!("the body is no job: {}", crate::cause(&error)))
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = key.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > MAX_KEY || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let text = format!("an Idempotency-Key has 1 to {MAX_KEY} visible ASCII characters");
        return Err(Problem::new(Kind::BadRequest, text));
    }
    Ok(Some(text.to_owned()))
}

/// Jobs, the newest first.
#[derive(Debug, Serialize, ToSchema)]
struct JobList {
    jobs: Vec<JobView>,
    /// What `before` is for those that follow; null where there are no more.
    next: Option<i64>,
}

/// Jobs, the newest first
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", params(Which), responses(
    (status = OK, body = JobList),
    (status = BAD_REQUEST, description = "the query makes no sense", body = Document, content_type = "application/problem+json"),
    (status = SERVICE_UNAVAILABLE, description = "not now", body = Document, content_type = "application/problem+json"),
))]
async fn list(Shared(app): Shared<App>, Query(which): Query<Which>) -> Result<Json<JobList>, Problem> {
    let limit = which.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::new(Kind::BadRequest, format!("limit is between 1 and {MAX_LIMIT}")));
    }
    blocking(&app, move |jobs| {
        let mut found = jobs.store.list(limit + 1, which.before, which.state)?;
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let next = found.last().filter(|_| more).map(|job| job.number);
        let jobs = found.into_iter().map(|job| jobs.view(job)).collect::<Result<_, _>>()?;
        Ok(Json(JobList { jobs, next }))
    })
    .await
}

/// A job
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "the job")), responses(
    (status = OK, body = JobView),
    (status = NOT_FOUND, description = "there is no such job", body = Document, content_type = "application/problem+json"),
    (status = SERVICE_UNAVAILABLE, description = "not now", body = Document, content_type = "application/problem+json"),
))]
async fn show(Shared(app): Shared<App>, Path(id): Path<String>) -> Result<Json<JobView>, Problem> {
    blocking(&app, move |jobs| Ok(Json(jobs.view(found(jobs, &id)?)?))).await
}

/// End a job
///
/// Nothing of its output remains. One that runs ends soon after the answer.
#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", tag = "jobs",
    params(("id" = String, Path, description = "the job")), responses(
    (status = OK, description = "it has ended", body = JobView),
    (status = ACCEPTED, description = "it will end soon", body = JobView),
    (status = NOT_FOUND, description = "there is no such job", body = Document, content_type = "application/problem+json"),
    (status = CONFLICT, description = "it had ended before", body = Document, content_type = "application/problem+json"),
    (status = SERVICE_UNAVAILABLE, description = "not now", body = Document, content_type = "application/problem+json"),
))]
async fn cancel(Shared(app): Shared<App>, Path(id): Path<String>) -> Result<Response, Problem> {
    blocking(&app, move |jobs| {
        let job = jobs.cancel(&id)?.ok_or_else(|| no_such(&id))?;
        if matches!(job.state, State::Done | State::Failed) {
            let text = format!("the job {id} is {} already, and can't be cancelled", job.state.name());
            return Err(Problem::new(Kind::Conflict, text));
        }
        let status = if job.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
        Ok((status, Json(jobs.view(job)?)).into_response())
    })
    .await
}

/// What a job that is done says of itself
///
/// The document of `wgquant quantize --json`: sizes, digests and the error of each tensor.
#[utoipa::path(get, path = "/v1/jobs/{id}/report", tag = "jobs",
    params(("id" = String, Path, description = "the job")), responses(
    (status = OK, body = serde_json::Value),
    (status = NOT_FOUND, description = "there is no such job", body = Document, content_type = "application/problem+json"),
    (status = CONFLICT, description = "it is not done", body = Document, content_type = "application/problem+json"),
    (status = SERVICE_UNAVAILABLE, description = "not now", body = Document, content_type = "application/problem+json"),
))]
async fn report(Shared(app): Shared<App>, Path(id): Path<String>) -> Result<Response, Problem> {
    let text = blocking(&app, move |jobs| {
        let job = found(jobs, &id)?;
        jobs.store.report(&id)?.ok_or_else(|| {
            let text = format!("the job {id} is {}, and has a report only when it is done", job.state.name());
            Problem::new(Kind::Conflict, text)
        })
    })
    .await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// How far a job is, as it goes on
///
/// Server-sent events with the job as their data: `progress` while it waits and runs, and a last one named `done`,
/// `failed` or `cancelled`. Whoever comes again with the `Last-Event-ID` hears what is new since.
#[utoipa::path(get, path = "/v1/jobs/{id}/events", tag = "jobs",
    params(("id" = String, Path, description = "the job"),
        ("Last-Event-ID" = Option<String>, Header, description = "the last event that was heard")),
    responses(
    (status = OK, description = "events", body = String, content_type = "text/event-stream"),
    (status = NO_CONTENT, description = "the last event was heard, and there will be no more"),
    (status = NOT_FOUND, description = "there is no such job", body = Document, content_type = "application/problem+json"),
    (status = SERVICE_UNAVAILABLE, description = "not now", body = Document, content_type = "application/problem+json"),
))]
async fn events(Shared(app): Shared<App>, Path(id): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let heard = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    // Listened to before it is looked at, so that nothing is missed between.
    let listener = app.jobs.live(&id).map(|live| live.listen());
    let job = blocking(&app, move |jobs| found(jobs, &id)).await?;
    if job.state.is_final() && heard == event_id(&job, None) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let (sender, events) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut stopping = app.stopping.subscribe();
        tokio::select! {
            () = tell(&app, job, listener, heard, &sender) => {}
            () = sender.closed() => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    });
    Ok(Sse::new(ReceiverStream::new(events)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// Sends a job's events, until it has ended. What is heard says that there is something new; what it is, the job says.
async fn tell(
    app: &App,
    mut job: Record,
    mut listener: Option<watch::Receiver<Heard>>,
    mut last: String,
    events: &mpsc::Sender<Result<Event, Infallible>>,
) {
    loop {
        let heard = listener.as_mut().map(|listener| listener.borrow_and_update().clone());
        let state = heard.as_ref().map(|heard| heard.state);
        let known = job.clone();
        let looked = blocking(app, move |jobs| {
            // While it runs, nothing that matters here is in the database.
            let job = if state == Some(known.state) { known } else { found(jobs, &known.id)? };
            Ok((job.clone(), jobs.view(job)?))
        });
        let Ok((looked, view)) = looked.await else { return };
        job = looked;
        let id = event_id(&job, heard.as_ref());
        if id != last {
            let name = if job.state.is_final() { job.state.name() } else { "progress" };
            let Ok(event) = Event::default().event(name).id(&id).json_data(&view) else { return };
            if events.send(Ok(event)).await.is_err() {
                return;
            }
            last = id;
        }
        match &mut listener {
            Some(of) if !job.state.is_final() => {
                if of.changed().await.is_err() {
                    listener = None;
                }
            }
            _ => return,
        }
    }
}

/// What an event is called: the attempt, and what was heard of it. The last one is called after the job's end.
fn event_id(job: &Record, heard: Option<&Heard>) -> String {
    match heard {
        Some(heard) if !job.state.is_final() => format!("{}-{}", job.attempts, heard.number),
        _ => format!("{}-{}", job.attempts, job.state.name()),
    }
}

/// The job of that name.
fn found(jobs: &Jobs, id: &str) -> Result<Record, Problem> {
    jobs.store.get(id)?.ok_or_else(|| no_such(id))
}

fn no_such(id: &str) -> Problem {
    let id: String = id.chars().take(64).collect();
    Problem::new(Kind::NotFound, format!("there is no job {id:?}: GET /v1/jobs lists them"))
}

/// Does something that may wait for a disk.
async fn blocking<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&Arc<Jobs>) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let jobs = Arc::clone(&app.jobs);
    let done = tokio::task::spawn_blocking(move || work(&jobs)).await;
    done.unwrap_or_else(|_| Err(Problem::new(Kind::Internal, "a fault of the service ended it: its log says more")))
}
