//! The page at `/`: three files, as they are, that know only what the API says.

use axum::Router;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::app::App;

/// Its own scripts, styles and requests, and nothing of anybody else's.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
     connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/", get(async || file("text/html; charset=utf-8", include_str!("../pages/index.html"))))
        .route("/page.css", get(async || file("text/css; charset=utf-8", include_str!("../pages/page.css"))))
        .route("/page.js", get(async || file("text/javascript; charset=utf-8", include_str!("../pages/page.js"))))
}

fn file(media_type: &'static str, text: &'static str) -> Response {
    const REFERRER_POLICY: HeaderName = HeaderName::from_static("referrer-policy");
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text).into_response()
}
