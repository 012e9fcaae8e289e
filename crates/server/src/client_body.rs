//! What a client sends: how much and how slowly it may, and what becomes of the rest when the answer is there before.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::app::App;
use crate::problem::{Kind, Problem};
use crate::spool::lock;

/// How long a body is read and dropped that nobody wants.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Of a body that nobody wants so much is dropped, even where less is taken.
const LEAST_DRAINED: u64 = 16 << 20;

/// A client that sends less within the idle limit is too slow: else a byte now and then would keep its place forever.
const LEAST_BYTES: u64 = 16 << 10;

/// Reads the body within its limits, and, where the answer comes before the body's end, what is left of it. A client that
/// sends all of its body before it looks for an answer would otherwise find a broken connection.
pub(crate) async fn limit(State(app): State<App>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let waits = parts.headers.get(header::EXPECT).is_some();
    let max_bytes = app.config.max_body_bytes;
    let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let body = ClientBody::new(body, max_bytes, app.config.idle_limit);
    parts.extensions.insert(body.clone());
    let mut response = match declared {
        Some(declared) if declared > max_bytes => too_large(max_bytes).into_response(),
        _ => next.run(Request::from_parts(parts, Body::new(body.clone()))).await,
    };
    if !body.is_complete() && !drained(&body, waits).await {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Reads and drops what is left of a body; whether it came to its end, so that the connection can be used again.
async fn drained(body: &ClientBody, waits: bool) -> bool {
    // A client that waits for a sign before it sends gets the answer instead of one, and a slow one is not waited for again.
    if !body.begin_drain(waits) {
        return false;
    }
    tokio::time::timeout(DRAIN_LIMIT, body.drain()).await == Ok(true)
}

/// The sentence about a body that is too large.
pub(crate) fn too_large(max_bytes: u64) -> Problem {
    Problem::new(Kind::TooLarge, format!("the body is larger than {max_bytes} bytes, the most that is taken"))
}

/// A request's body, shared by who reads it and who drops what is left.
#[derive(Debug, Clone)]
pub(crate) struct ClientBody(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    body: Body,
    n_read: u64,
    max_bytes: u64,
    idle_limit: Duration,
    /// When the client must have sent [`LEAST_BYTES`] more.
    deadline: Option<Pin<Box<Sleep>>>,
    wanted: u64,
    was_read: bool,
    /// Whether its reader has got all that it gets: the whole, or an error.
    is_over: bool,
    /// Whether it has come to its end.
    is_complete: bool,
    /// Whether it can't be read on: it is broken, or too slow.
    is_broken: bool,
}

impl ClientBody {
    fn new(body: Body, max_bytes: u64, idle_limit: Duration) -> Self {
        let is_over = body.is_end_stream();
        Self(Arc::new(Mutex::new(Inner {
            body,
            n_read: 0,
            max_bytes,
            idle_limit,
            deadline: None,
            wanted: 0,
            was_read: false,
            is_over,
            is_complete: is_over,
            is_broken: false,
        })))
    }

    fn is_complete(&self) -> bool {
        lock(&self.0).is_complete
    }

    /// Makes ready to drop what is left; `false` where that is of no use.
    fn begin_drain(&self, waits: bool) -> bool {
        let mut inner = lock(&self.0);
        inner.is_over = false;
        inner.max_bytes = inner.n_read.saturating_add(inner.max_bytes).max(LEAST_DRAINED);
        !inner.is_broken && (inner.was_read || !waits)
    }

    /// Reads to the end; whether that came.
    async fn drain(&self) -> bool {
        let mut body = self.clone();
        loop {
            match std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return false,
                None => return true,
            }
        }
    }
}

impl http_body::Body for ClientBody {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        lock(&self.0).poll(context)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).is_over
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).body.size_hint()
    }
}

impl Inner {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        self.was_read = true;
        if self.is_over {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            let idle_limit = self.idle_limit;
            let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle_limit)));
            ready!(deadline.as_mut().poll(context));
            let text = format!("the body did not come: fewer than {LEAST_BYTES} bytes in {} s", idle_limit.as_secs());
            self.is_broken = true;
            return self.end(Problem::new(Kind::TooSlow, text));
        };
        let frame = match frame {
            None => {
                (self.is_over, self.is_complete) = (true, true);
                return Poll::Ready(None);
            }
            Some(Err(_)) => {
                self.is_broken = true;
                let text = format!("the body ended after {} bytes, before it was complete", self.n_read);
                return self.end(Problem::new(Kind::BadRequest, text));
            }
            Some(Ok(frame)) => frame,
        };
        self.n_read += frame.data_ref().map_or(0, |data| data.len() as u64);
        if self.n_read > self.max_bytes {
            return self.end(too_large(self.max_bytes));
        }
        if self.n_read >= self.wanted {
            self.wanted = self.n_read + LEAST_BYTES;
            if let Some(deadline) = &mut self.deadline {
                deadline.as_mut().reset(Instant::now() + self.idle_limit);
            }
        }
        self.is_complete = self.body.is_end_stream();
        self.is_over = self.is_complete;
        Poll::Ready(Some(Ok(frame)))
    }

    /// The reader gets nothing more.
    fn end(&mut self, problem: Problem) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        self.is_over = true;
        Poll::Ready(Some(Err(problem)))
    }
}
