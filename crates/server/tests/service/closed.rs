//! Closed by default: tokens, hosts, origins, and sizes.

use std::io::Write;

use bytesize::ByteSize;

use crate::common::{Answer, Service, file, floats, mixed, raw_file};

const TOKEN: &str = "a-token-of-some-length";

fn with_token() -> Service {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), format!("# of the team\n{TOKEN}\nanother-token-here\n")).expect("a temporary file");
    Service::with(|args| args.token_file = Some(file.path().to_owned()))
}

#[test]
fn a_token_is_asked_for() {
    let service = with_token();
    let body = file(&mixed());
    let send =
        |authorization: &str| service.send("POST /v1/quantize?format=sym4", &[("authorization", authorization)], &body);
    for right in [format!("Bearer {TOKEN}"), format!("bearer  {TOKEN}"), "Bearer another-token-here".to_owned()] {
        assert_eq!(send(&right).status, 200, "{right}");
    }
    let none = service.post("/v1/quantize?format=sym4", &body);
    none.is_problem(401, "a token is needed");
    assert_eq!(none.header("www-authenticate"), Some("Bearer"));
    for wrong in
        ["Bearer ", "Bearer wrong", "Basic YTpi", TOKEN, "Bearer # of the team", "Bearer a-token-of-some-lengt"]
    {
        assert_eq!(send(wrong).status, 401, "{wrong}");
    }
    assert!(!send("Bearer not-one-of-them-all").text().contains("not-one-of-them-all"), "no token is repeated");
    for path in ["/v1/formats", "/v1/adapters", "/metrics", "/v1/verify", "/v1/nothing"] {
        assert_eq!(service.get(path).status, 401, "{path}");
    }
    for path in ["/healthz", "/readyz", "/openapi.json", "/docs"] {
        assert_eq!(service.get(path).status, 200, "{path}");
    }
    let document = service.get("/openapi.json").json();
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
}

#[test]
fn a_web_page_does_not_drive_it() {
    let service = Service::with(|args| args.host = vec!["models.example.org".to_owned()]);
    let body = file(&[floats("a", &[64, 64], 1)]);
    let send = |headers: &[(&str, &str)]| service.send("POST /v1/quantize?format=sym4", headers, &body);
    let own = service.address.to_string();
    for headers in [
        &[("origin", &*format!("http://{own}"))][..],
        &[("host", "localhost:1234")],
        &[("host", "models.example.org"), ("origin", "https://models.example.org")],
        &[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")],
    ] {
        assert_eq!(send(headers).status, 200, "{headers:?}");
    }
    for headers in [
        &[("origin", "https://evil.example")][..],
        &[("origin", "null")],
        &[("origin", "http://localhost:3000")],
        &[("host", "evil.example")],
        &[("host", "evil.example"), ("origin", "http://evil.example")],
        &[("host", "10.9.8.7")],
        &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
    ] {
        send(headers).is_problem(403, "");
    }
    // Nor is anything told.
    for path in ["/", "/v1/formats", "/metrics", "/openapi.json", "/healthz"] {
        service.send(&format!("GET {path}"), &[("host", "evil.example")], &[]).is_problem(403, "--host evil.example");
    }
    let asked = [("origin", "https://evil.example"), ("access-control-request-method", "POST")];
    let preflight = service.send("OPTIONS /v1/quantize", &asked, &[]);
    assert_eq!(preflight.status, 403);
    assert!(preflight.headers.iter().all(|(name, _)| !name.starts_with("access-control")));
    service.is_well();
}

#[test]
fn oversized_bodies() {
    let service = Service::with(|args| args.max_body = Some(ByteSize::kib(100)));
    let body = vec![1; 300 << 10];
    // Declared.
    service.post("/v1/quantize?format=nf4", &body).is_problem(413, "larger than 102400 bytes");
    // Not declared.
    let mut chunked = format!("{:x}\r\n", body.len()).into_bytes();
    chunked.extend(&body);
    chunked.extend(b"\r\n0\r\n\r\n");
    let answer = service.send("POST /v1/dequantize", &[("transfer-encoding", "chunked")], &chunked);
    answer.is_problem(413, "larger than 102400 bytes");
    // A client that asks first need not send it.
    let mut stream = service.connect();
    let expects = [("expect", "100-continue")];
    stream
        .write_all(service.head("POST /v1/quantize?format=nf4", &expects, Some(body.len())).as_bytes())
        .expect("sent");
    Answer::read(&mut stream).is_problem(413, "larger than");
    service.is_well();
}

#[test]
fn oversized_headers_and_too_many_tensors() {
    let service = Service::with(|args| {
        args.max_header = Some(ByteSize::kib(4));
        args.max_tensors = Some(5);
    });
    let tensors = ["a", "b", "c", "d", "e", "f"].map(|name| floats(name, &[2], 1));
    assert_eq!(service.post("/v1/quantize?format=nf4", &file(&tensors[..5])).status, 200);
    service.post("/v1/quantize?format=nf4", &file(&tensors)).is_problem(413, "has 6 tensors, and at most 5 are taken");
    let long = raw_file(&format!("{{\"{}\":{{}}}}", "x".repeat(5000)), &[]);
    service.post("/v1/quantize?format=nf4", &long).is_problem(413, "header is longer than 4096 bytes");
    // A GGUF file whose metadata is long.
    let mut gguf = b"GGUF\x03\0\0\0".to_vec();
    gguf.extend(0_u64.to_le_bytes());
    gguf.extend(1_u64.to_le_bytes());
    gguf.extend(1_u64.to_le_bytes());
    gguf.extend(b"k\x08\0\0\0");
    gguf.extend(60_000_u64.to_le_bytes());
    gguf.resize(gguf.len() + 60_000, b'x');
    service.post("/v1/quantize?format=q8_0", &gguf).is_problem(413, "header is longer than 4096 bytes");
    // The request's own.
    let answer = service.send("GET /healthz", &[("x-long", &"x".repeat(200_000))], &[]);
    assert_eq!(answer.status, 431);
    service.is_well();
}

#[test]
fn what_is_no_http() {
    let service = Service::start();
    for bytes in
        [&b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..], b"GET / HTTP/9.9\r\n\r\n", b"\0\0\0\0\r\n\r\n", b"GET"]
    {
        let mut stream = service.connect();
        stream.write_all(bytes).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("a socket");
        if let Ok(answer) = Answer::try_read(&mut stream) {
            assert!((400..500).contains(&answer.status) || answer.status == 505, "{}", answer.status);
        }
    }
    // Two lengths, or a length and chunks: what a proxy would read otherwise.
    for headers in [
        &[("content-length", "5"), ("content-length", "6")][..],
        &[("content-length", "-1")],
        &[("transfer-encoding", "gzip")],
    ] {
        let answer = service.send("POST /v1/quantize?format=nf4", headers, b"hello");
        assert_eq!(answer.status, 400, "{headers:?}");
    }
    service.is_well();
}
