//! Errors as the service says them: problem documents (RFC 9457).

use std::fmt;
use std::io::ErrorKind;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use wgquant::Error;

/// The media type of a problem document.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// What kind of problem it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request makes no sense.
    BadRequest,
    /// No token, or a wrong one.
    Unauthorized,
    /// Another's web page, or a path outside of the roots.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// The route takes other methods.
    MethodNotAllowed,
    /// The client sends or takes too slowly, or went away.
    TooSlow,
    /// The request contradicts what is there.
    Conflict,
    /// The body is larger than is taken.
    TooLarge,
    /// The body is of another type than is taken.
    UnsupportedMediaType,
    /// The checkpoint is damaged, or can't be done as asked.
    Unprocessable,
    /// The queue is full.
    QueueFull,
    /// A fault of the service.
    Internal,
    /// The service is stopping, has no device, or took too long.
    Unavailable,
    /// The service's disk is full.
    DiskFull,
}

impl Kind {
    /// Status, the end of `type`, and `title`.
    const fn row(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad-request", "The request makes no sense"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "A token is needed"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Not allowed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is no such thing"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "The route takes other methods")
            }
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "too-slow", "The request did not arrive in time"),
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "It contradicts what is there"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "It is larger than is taken"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The body is of another type")
            }
            Self::Unprocessable => (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable", "The checkpoint can't be taken"),
            Self::QueueFull => (StatusCode::TOO_MANY_REQUESTS, "queue-full", "The queue is full"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "A fault of the service"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "The service can't do it now"),
            Self::DiskFull => (StatusCode::INSUFFICIENT_STORAGE, "disk-full", "The service's disk is full"),
        }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.row().0
    }
}

/// A problem: what happened, in one sentence, and in which tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    kind: Kind,
    detail: String,
    tensor: Option<String>,
    retry_after: Option<u64>,
}

/// A problem document, RFC 9457.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Document {
    /// What kind of problem it is, as a URN that does not change.
    #[serde(rename = "type")]
    #[schema(example = "urn:wgquant:problem:unprocessable")]
    kind: String,
    /// The same for people.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened, where, and what to do, in one sentence.
    detail: String,
    /// The tensor that it happened in.
    #[serde(skip_serializing_if = "Option::is_none")]
    tensor: Option<String>,
}

impl Problem {
    /// A problem of this kind, with what happened as a sentence.
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), tensor: None, retry_after: None }
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// Says the same in other words.
    pub(crate) fn with_detail(self, detail: String) -> Self {
        Self { detail, ..self }
    }

    /// What kind it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What happened.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The document.
    #[must_use]
    pub fn document(&self) -> Document {
        let (status, kind, title) = self.kind.row();
        Document {
            kind: format!("urn:wgquant:problem:{kind}"),
            title,
            status: status.as_u16(),
            detail: self.detail.clone(),
            tensor: self.tensor.clone(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.document()).unwrap_or_default();
        let mut response = (self.kind.status(), [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Kind::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For the log.
        response.extensions_mut().insert(self);
        response
    }
}

/// Whether an error is the device's and not the work's, so that it may go well on another or the same one reopened.
pub(crate) fn is_of_device(error: &Error) -> bool {
    matches!(
        error.root(),
        Error::DeviceLost { .. } | Error::OutOfDeviceMemory { .. } | Error::Gpu { .. } | Error::DeviceTimeout { .. }
    )
}

/// What went wrong with a body or a temporary file, carried through the library within its `Io` errors.
pub(crate) fn carried(error: &Error) -> Option<&Problem> {
    match error.root() {
        Error::Io { source, .. } => source.get_ref().and_then(|inner| inner.downcast_ref()),
        _ => None,
    }
}

fn tensor_of(error: &Error) -> Option<String> {
    match error {
        Error::Tensor { name, .. } => Some(name.clone()),
        Error::Kept { source, .. } | Error::File { source, .. } => tensor_of(source),
        Error::Mismatch(mismatch) => Some(mismatch.tensor.clone()),
        _ => None,
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        if let Some(problem) = carried(&error) {
            return problem.clone();
        }
        let kind = match error.root() {
            Error::Refused(_) | Error::UnknownFormat { .. } => Kind::BadRequest,
            Error::Stopped | Error::GivenUp => Kind::Unavailable,
            Error::Io { source, .. } if is_full(source) => Kind::DiskFull,
            // A result that differs from the reference is a fault of the device or its driver.
            Error::Io { .. } | Error::Mismatch(_) => Kind::Internal,
            Error::NoAdapter { .. } | Error::AmbiguousAdapter { .. } | Error::OpenDevice { .. } => Kind::Unavailable,
            _ if is_of_device(&error) => Kind::Unavailable,
            _ => Kind::Unprocessable,
        };
        let detail = match error.root() {
            // The library's sentence is for the command line.
            Error::DeviceLost { adapter, reason } => {
                format!("the GPU {adapter:?} was lost twice while working on it ({reason}): try again later")
            }
            // The system's sentences may name folders.
            Error::Io { what, source } => format!("{what}: {}", source.kind()),
            _ => error.to_string(),
        };
        Self { kind, detail, tensor: tensor_of(&error), retry_after: None }
    }
}

/// Whether a disk, or what one may take of it, is full.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

impl From<Problem> for std::io::Error {
    fn from(problem: Problem) -> Self {
        Self::other(problem)
    }
}
