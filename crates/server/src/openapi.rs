//! The OpenAPI document, and a page that renders it.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, Content, InfoBuilder, OpenApi, OpenApiBuilder, Ref, ResponseBuilder};

use crate::app::App;
use crate::problem;

const DESCRIPTION: &str = "Quantizes checkpoints of neural networks. Errors are problem documents (RFC 9457).";

/// What is said of the whole. Where tokens are asked for, so it says.
pub(crate) fn base(app: &App) -> OpenApi {
    let info = InfoBuilder::new().title("wgquant").version(env!("CARGO_PKG_VERSION")).description(Some(DESCRIPTION));
    let document = OpenApiBuilder::new().info(info.build());
    if app.config.tokens.is_none() {
        return document.build();
    }
    let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let components = ComponentsBuilder::new().security_scheme("token", scheme).build();
    let requirement = SecurityRequirement::new("token", Vec::<String>::new());
    document.components(Some(components)).security(Some([requirement])).build()
}

/// Any route may answer with a problem: a wrong token, a fault.
fn add_problems(api: &mut OpenApi) {
    for item in api.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            for (statuses, text) in [("4XX", "The request is refused"), ("5XX", "The service can't do it")] {
                let content = Content::new(Some(Ref::from_schema_name("Problem")));
                let response = ResponseBuilder::new().description(text).content(problem::MEDIA_TYPE, content).build();
                operation.responses.responses.entry(statuses.to_owned()).or_insert_with(|| response.into());
            }
        }
    }
}

/// `/openapi.json` and `/docs`.
pub(crate) fn routes(mut api: OpenApi) -> Router<App> {
    add_problems(&mut api);
    let document = Arc::new(api.to_json().unwrap_or_default());
    let json = async move || {
        let mut response = document.to_string().into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    };
    Router::new().route("/openapi.json", get(json)).route("/docs", get(docs)).route("/docs.js", get(docs_script))
}

/// Scripts and styles of its own alone.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
     form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

async fn docs() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY)], Html(include_str!("../pages/docs.html")))
        .into_response()
}

async fn docs_script() -> Response {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("../pages/docs.js")).into_response()
}
