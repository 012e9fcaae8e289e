//! The page at `/`: three files, as they are, that know only what the API says. And at `/browser/`, if there is one, the page
//! that does without the service's devices.

use std::path::Path;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use tower_http::services::ServeDir;

use crate::app::App;

/// Its own scripts, styles and requests, and nothing of anybody else's.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
     connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// The same with WebAssembly and workers.
const SITE_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src data:; \
     connect-src 'self'; worker-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// The page for browsers, from its folder.
pub(crate) fn site(folder: &Path) -> Router<App> {
    let guard = async |mut response: Response| {
        let policy = HeaderValue::from_static(SITE_SECURITY_POLICY);
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
        response
    };
    let files = Router::new().fallback_service(ServeDir::new(folder)).layer(map_response(guard));
    Router::new().nest_service("/browser/", files).route("/browser", get(async || Redirect::permanent("/browser/")))
}

/// The page's files; with `has_site` it leads to the one for browsers.
pub(crate) fn routes(has_site: bool) -> Router<App> {
    let link = if has_site { "<a href=\"/browser/\">In your browser</a> " } else { "" };
    let page: Bytes = include_str!("../pages/index.html").replace("<!-- site -->", link).into();
    Router::new()
        .route("/", get(async move || file("text/html; charset=utf-8", page)))
        .route("/page.css", get(async || file("text/css; charset=utf-8", include_str!("../pages/page.css"))))
        .route("/page.js", get(async || file("text/javascript; charset=utf-8", include_str!("../pages/page.js"))))
}

fn file(media_type: &'static str, text: impl Into<Body>) -> Response {
    const REFERRER_POLICY: HeaderName = HeaderName::from_static("referrer-policy");
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text.into()).into_response()
}
