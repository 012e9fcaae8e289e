//! Who is let in: bearer tokens, and no web page of another origin.

use std::net::IpAddr;

use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderName, header, uri::Authority};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::{App, Connection};
use crate::problem::{Kind, Problem};

/// A shorter token could be guessed.
const MIN_TOKEN_BYTES: usize = 16;

/// What a browser says of where a request comes from.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The tokens that are let in. Only their digests are kept, and never shown.
pub struct Tokens(Vec<blake3::Hash>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

impl Tokens {
    /// Reads tokens, one a line; empty lines and those with a `#` before them don't count.
    ///
    /// # Errors
    /// One sentence, without the token: there is none, or one is too short or can't stand in a header.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let digest = |line: &str| match line {
            _ if line.len() < MIN_TOKEN_BYTES => {
                Err(format!("a token has fewer than {MIN_TOKEN_BYTES} characters, and could be guessed"))
            }
            _ if !line.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err("a token has spaces or other characters that can't stand in a header".to_owned())
            }
            _ => Ok(blake3::hash(line.as_bytes())),
        };
        let digests = lines.map(digest).collect::<Result<Vec<_>, _>>()?;
        if digests.is_empty() { Err("there is no token in it".to_owned()) } else { Ok(Self(digests)) }
    }

    /// Whether a token is one of these. The time that this takes tells nothing of them: digests compare in constant time,
    /// and all of them are looked at.
    #[must_use]
    pub fn let_in(&self, token: &str) -> bool {
        let digest = blake3::hash(token.as_bytes());
        self.0.iter().fold(false, |found, token| (*token == digest) | found)
    }
}

/// Refuses a request that is not addressed to this service, or comes from a page of another, or has no token.
pub(crate) async fn guard(
    State(app): State<App>,
    Extension(connection): Extension<Connection>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    // Probes, and the pages with what describes the interface: they hold nothing, and ask for a token.
    let is_open = !path.starts_with("/v1") && path != "/metrics";
    let checked = check_origin(&app.config.hosts, connection.local.ip(), request.headers())
        .and_then(|()| if is_open { Ok(()) } else { check_token(&app, request.headers()) });
    match checked {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check_token(app: &App, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(tokens) = &app.config.tokens else { return Ok(()) };
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token =
        value.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match token {
        Some((_, token)) if tokens.let_in(token.trim()) => Ok(()),
        Some(_) => Err(Problem::new(Kind::Unauthorized, "the token is not one of those that are let in")),
        None => Err(Problem::new(Kind::Unauthorized, "a token is needed, as in `Authorization: Bearer TOKEN`")),
    }
}

/// A web page that a user has open elsewhere must not drive the service: neither by a name of its own that leads here, nor
/// by requests across origins.
fn check_origin(hosts: &[String], local: IpAddr, headers: &HeaderMap) -> Result<(), Problem> {
    let refused = |text: String| Err(Problem::new(Kind::Forbidden, text));
    let mut found = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (found.next().and_then(authority), found.next()) else {
        return refused("the request names no one Host".to_owned());
    };
    if !is_own(hosts, local, host.host()) {
        let name = host.host();
        return refused(format!("the Host {name:?} is not this service: it is let in with --host {name}"));
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    if let Some(origin) = origins.next() {
        let from = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, from)| from);
        let from = from.and_then(|from| from.parse::<Authority>().ok());
        let is_same = |from: &Authority| {
            from.as_str().eq_ignore_ascii_case(host.as_str()) || hosts.contains(&from.host().to_ascii_lowercase())
        };
        if !from.as_ref().is_some_and(is_same) || origins.next().is_some() {
            return refused("the request comes from a web page of another origin".to_owned());
        }
    }
    let said = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match (said(SEC_FETCH_SITE), said(SEC_FETCH_MODE)) {
        // A link on another page may lead here.
        (None | Some("same-origin" | "none"), _) | (_, Some("navigate")) => Ok(()),
        _ => refused("the request comes from a web page of another origin".to_owned()),
    }
}

fn authority(value: &axum::http::HeaderValue) -> Option<Authority> {
    value.to_str().ok()?.parse().ok()
}

/// Whether a name leads here and nowhere else: this machine's own, the address that the client has reached, or one that the
/// service was told.
fn is_own(hosts: &[String], local: IpAddr, name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost"
        || hosts.contains(&name)
        || address.is_ok_and(|address| address.is_loopback() || address == local.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_and_compared() {
        let tokens = Tokens::parse("# comment\n\n  first-token-of-all \nsecond-token-0000\n").expect("two tokens");
        assert!(tokens.let_in("first-token-of-all") && tokens.let_in("second-token-0000"));
        for token in ["", "first-token-of-al", "first-token-of-all ", "# comment", "second-token-0001"] {
            assert!(!tokens.let_in(token), "{token:?}");
        }
        assert_eq!(format!("{tokens:?}"), "2 tokens");
        assert!(Tokens::parse("short").is_err_and(|text| text.contains("guessed") && !text.contains("short")));
        assert!(Tokens::parse("a token with spaces in it").is_err());
        assert!(Tokens::parse("# nothing").is_err());
    }

    fn allowed(pairs: &[(&'static str, &str)]) -> bool {
        let headers =
            pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a value")));
        check_origin(&["models.example.org".to_owned()], "192.0.2.7".parse().expect("an address"), &headers.collect())
            .is_ok()
    }

    #[test]
    fn hosts_and_origins() {
        for host in ["localhost:8787", "127.0.0.1", "[::1]:8787", "192.0.2.7:80", "Models.Example.org", "LOCALHOST"] {
            assert!(allowed(&[("host", host)]), "{host}");
        }
        for host in ["evil.example", "192.0.2.8", "localhost.evil.example", "", "a b", "127.0.0.1.evil.example"] {
            assert!(!allowed(&[("host", host)]), "{host}");
        }
        assert!(!allowed(&[]));
        let from = |origin| allowed(&[("host", "localhost:8787"), ("origin", origin)]);
        assert!(from("http://localhost:8787") && from("https://models.example.org"));
        for origin in ["http://localhost:3000", "http://127.0.0.1:8787", "null", "https://evil.example", "http://"] {
            assert!(!from(origin), "{origin}");
        }
        let site = |site, mode| allowed(&[("host", "localhost"), ("sec-fetch-site", site), ("sec-fetch-mode", mode)]);
        assert!(site("same-origin", "cors") && site("none", "navigate") && site("cross-site", "navigate"));
        assert!(!site("cross-site", "no-cors") && !site("same-site", "cors"));
    }
}
