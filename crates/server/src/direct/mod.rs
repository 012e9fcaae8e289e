//! Direct requests: a checkpoint in the body, the result in the answer.

mod answer;
mod incoming;
mod options;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{DefaultBodyLimit, Extension, Multipart, State};
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wgquant::checkpoint::Storage as _;

use self::answer::{Answered, Verified};
use self::incoming::Incoming;
use self::options::{DequantizeQuery, QuantizeQuery};
use self::work::{Direct, Operation};
use crate::app::{App, Query};
use crate::client_body::ClientBody;
use crate::problem::{Kind, Problem};
use crate::queue::Lane;
use crate::spool::{Spool, spool_problem};

pub(crate) fn routes() -> OpenApiRouter<App> {
    // `client_body` limits bodies; a limit of the framework's own would stand before forms.
    let forms = OpenApiRouter::new().routes(routes!(verify)).layer(DefaultBodyLimit::disable());
    OpenApiRouter::new().routes(routes!(quantize)).routes(routes!(dequantize)).merge(forms)
}

/// Compress a checkpoint
///
/// The body is one .safetensors or .gguf file; the answer is the compressed one, with the bytes that `wgquant quantize`
/// gives. It starts when all of it is made and verified.
#[utoipa::path(post, path = "/v1/quantize", tag = "direct", params(QuantizeQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = OK, body = Vec<u8>, content_type = "application/octet-stream", description = "The compressed file"),
    ))]
async fn quantize(
    State(app): State<App>,
    Query(query): Query<QuantizeQuery>,
    body: Extension<ClientBody>,
    headers: HeaderMap,
) -> Answered {
    one_body(&app, Operation::Quantize(query.options()?), body.0, &headers).await
}

/// Turn a compressed checkpoint back into a plain one
///
/// The body is what `/v1/quantize` or `wgquant quantize` gave, in one file; the answer is a plain .safetensors file.
#[utoipa::path(post, path = "/v1/dequantize", tag = "direct", params(DequantizeQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = OK, body = Vec<u8>, content_type = "application/octet-stream", description = "The plain file"),
    ))]
async fn dequantize(
    State(app): State<App>,
    Query(query): Query<DequantizeQuery>,
    body: Extension<ClientBody>,
    headers: HeaderMap,
) -> Answered {
    one_body(&app, Operation::Dequantize(query.options()?), body.0, &headers).await
}

/// The two files that are compared.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "for the document")]
struct VerifyForm {
    /// The checkpoint that was compressed.
    #[schema(content_media_type = "application/octet-stream")]
    original: Vec<u8>,
    /// What became of it.
    #[schema(content_media_type = "application/octet-stream")]
    quantized: Vec<u8>,
}

/// Recompute a compressed checkpoint from its original, and compare every byte
///
/// A file that differs is no error: the report says what differs.
#[utoipa::path(post, path = "/v1/verify", tag = "direct",
    request_body(content = VerifyForm, content_type = "multipart/form-data"),
    responses(
        (status = OK, body = Verified),
    ))]
async fn verify(
    State(app): State<App>,
    form: Result<Multipart, axum::extract::multipart::MultipartRejection>,
) -> Answered {
    let form = form.map_err(|_| {
        Problem::new(Kind::UnsupportedMediaType, "the body is no multipart/form-data with `original` and `quantized`")
    })?;
    let names = ["original", "quantized"];
    let inputs = names.map(|name| (name, incoming(&app, None)));
    let feed = feed_form(form, inputs.clone());
    answer(&app, Operation::Verify, inputs.to_vec(), feed).await
}

/// What the service does but for quantizing: it takes a body, and answers the first `bytes` of it.
pub(crate) fn echo_route() -> axum::Router<App> {
    #[derive(serde::Deserialize)]
    struct Echo {
        bytes: u64,
    }
    let echo = async |State(app): State<App>, Query(query): Query<Echo>, body: Extension<ClientBody>| {
        let input = incoming(&app, None);
        feed_one(body.0, Arc::clone(&input)).await?;
        let output = Arc::new(Spool::new(Arc::clone(&app.budget)));
        let mut piece = vec![0; 64 << 10];
        let (mut at, end) = (0, query.bytes.min(input.n_bytes().unwrap_or_default()));
        while at < end {
            let n = usize::try_from(end - at).unwrap_or(usize::MAX).min(piece.len());
            let copied = input.read_body(at, &mut piece[..n]).and_then(|()| output.append(&piece[..n]));
            copied.map_err(|error| spool_problem(&error))?;
            at += n as u64;
        }
        Ok::<_, Problem>(answer::file(output))
    };
    axum::Router::new().route("/v1/echo", axum::routing::post(echo))
}

async fn one_body(app: &App, operation: Operation, body: ClientBody, headers: &HeaderMap) -> Answered {
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let input = incoming(app, declared);
    let feed = feed_one(body, Arc::clone(&input));
    answer(app, operation, vec![("body", input)], feed).await
}

fn incoming(app: &App, declared: Option<u64>) -> Arc<Incoming> {
    let (budget, queue) = (Arc::clone(&app.budget), Arc::clone(&app.queue));
    Arc::new(Incoming::new(budget, declared, app.config.max_header_bytes, queue))
}

/// Waits in the queue and for the answer, while the body arrives.
async fn answer(
    app: &App,
    operation: Operation,
    inputs: Vec<(&'static str, Arc<Incoming>)>,
    feed: impl Future<Output = Result<(), Problem>>,
) -> Answered {
    let (reply, answer) = oneshot::channel();
    let work = Client { cancelled: Arc::default(), inputs: inputs.clone(), app: Arc::clone(app) };
    let direct =
        Direct { app: Arc::clone(app), operation, inputs, cancelled: Arc::clone(&work.cancelled), reply: Some(reply) };
    app.queue.push(Lane::Direct, Box::new(direct))?;
    let both = async {
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            // An answer may come before the body's end; what is left is dropped then.
            done = &mut answer => done,
            // Nor does a broken body wait for its turn.
            fed = feed => match fed {
                Ok(()) => answer.await,
                Err(problem) => Ok(Err(problem)),
            },
        }
    };
    match tokio::time::timeout(app.config.time_limit, both).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(Problem::new(Kind::Internal, "the work was lost: the service's log says more")),
        Err(_) => {
            let text = format!("it took longer than {} s, waiting included", app.config.time_limit.as_secs());
            Err(Problem::new(Kind::Unavailable, text))
        }
    }
}

/// A client that waits; dropped when it has its answer or has gone away, which frees its place.
struct Client {
    app: App,
    cancelled: Arc<AtomicBool>,
    inputs: Vec<(&'static str, Arc<Incoming>)>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        for (_, input) in &self.inputs {
            input.end(Err(Problem::new(Kind::BadRequest, "the client went away before the body was complete")));
        }
        self.app.queue.notify();
    }
}

/// Puts a body into its place as it arrives.
async fn feed_one(mut body: ClientBody, into: Arc<Incoming>) -> Result<(), Problem> {
    let end = loop {
        match body.frame().await {
            None => break Ok(()),
            Some(Err(problem)) => break Err(problem),
            Some(Ok(frame)) => {
                if let Some(Err(problem)) = frame.data_ref().map(|data| into.push(data)) {
                    break Err(problem);
                }
            }
        }
    };
    into.end(end.clone());
    end
}

/// The same for a form's parts.
async fn feed_form(form: Multipart, inputs: [(&'static str, Arc<Incoming>); 2]) -> Result<(), Problem> {
    let mut end = read_form(form, &inputs).await;
    if let (Ok(()), Some((name, _))) = (&end, inputs.iter().find(|(_, input)| !input.is_over())) {
        end = Err(Problem::new(Kind::BadRequest, format!("the form has no part {name:?}")));
    }
    for (_, input) in &inputs {
        input.end(end.clone());
    }
    end
}

async fn read_form(mut form: Multipart, inputs: &[(&'static str, Arc<Incoming>); 2]) -> Result<(), Problem> {
    while let Some(mut field) = form.next_field().await.map_err(|error| of_form(&error))? {
        let name = field.name().unwrap_or_default().to_owned();
        let Some((_, input)) = inputs.iter().find(|(wanted, _)| *wanted == name) else {
            return Err(Problem::new(Kind::BadRequest, format!("the form has a part {name:?}, which is not known")));
        };
        if input.is_over() {
            return Err(Problem::new(Kind::BadRequest, format!("the form has two parts {name:?}")));
        }
        while let Some(data) = field.chunk().await.map_err(|error| of_form(&error))? {
            input.push(&data)?;
        }
        input.end(Ok(()));
    }
    Ok(())
}

/// What is wrong with a form: the body's own problem, or the form's.
fn of_form(error: &axum::extract::multipart::MultipartError) -> Problem {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(problem) = error.downcast_ref::<Problem>() {
            return problem.clone();
        }
        source = error.source();
    }
    Problem::new(Kind::BadRequest, format!("the form makes no sense: {}", crate::cause(error)))
}
