//! Health, metrics, what there is, and the interface's document.

use serde_json::json;

use crate::common::{Service, file, mixed, wait_for};

#[test]
fn it_says_how_it_is_and_what_there_is() {
    let service = Service::start();
    for path in ["/healthz", "/readyz"] {
        let answer = service.get(path);
        assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("ok")), "{path}");
    }
    let formats = service.get("/v1/formats").json();
    let names: Vec<_> = formats["formats"].as_array().expect("a list").iter().map(|row| row["name"].clone()).collect();
    let all: Vec<_> = wgquant::Format::ALL.iter().map(|format| json!(format.name())).collect();
    assert_eq!(names, all);
    let adapters = service.get("/v1/adapters").json();
    assert_eq!(adapters["devices"], json!([{ "name": "CPU", "is_open": true, "losses": 0, "memory_bytes": null }]));
    assert!(adapters["adapters"].is_array());
}

#[test]
fn what_is_not_there_is_a_problem_too() {
    let service = Service::start();
    service.get("/nothing").is_problem(404, "there is no such route");
    service.get("/v1/quantize").is_problem(405, "the route takes other methods");
    let answer = service.get("/v1/quantize");
    assert_eq!(answer.header("allow"), Some("POST"));
}

#[test]
fn a_request_has_an_id() {
    let service = Service::start();
    let id = |sent: &str| {
        let answer = service.send("GET /healthz", &[("x-request-id", sent)], &[]);
        answer.header("x-request-id").expect("an id").to_owned()
    };
    assert_eq!(id("job-7.of_mine"), "job-7.of_mine");
    for bad in ["", "a b", &"x".repeat(65), "a;b"] {
        assert_eq!(id(bad).len(), 36, "{bad:?} is replaced");
    }
    assert_ne!(id(""), id(""));
}

#[test]
fn metrics_count_what_was_done() {
    let service = Service::start();
    assert_eq!(service.post("/v1/quantize?format=nf4", &file(&mixed())).status, 200);
    assert_eq!(service.post("/v1/quantize?format=nf5", &[]).status, 400);
    assert_eq!(service.send("MADEUP /healthz", &[], &[]).status, 405);
    // It goes a moment after the answer.
    wait_for("its room", || service.app.budget.memory().0 == 0);
    let answer = service.get("/metrics");
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("application/openmetrics-text")));
    let text = answer.text();
    for line in [
        "wgquant_http_requests_total{method=\"POST\",route=\"/v1/quantize\",status=\"200\"} 1",
        "wgquant_http_requests_total{method=\"POST\",route=\"/v1/quantize\",status=\"400\"} 1",
        "wgquant_http_request_seconds_count{route=\"/v1/quantize\"} 2",
        "wgquant_elements_total{operation=\"quantize\"} 8495",
        "wgquant_queue_waiting{lane=\"direct\"} 0",
        "wgquant_queue_refused_total{lane=\"direct\"} 0",
        "wgquant_device_losses_total{device=\"CPU\"} 0",
        "wgquant_device_open{device=\"CPU\"} 1",
        "wgquant_spool_bytes{place=\"memory\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} should be in:\n{text}");
    }
    assert!(text.contains("method=\"other\"") && !text.contains("MADEUP"), "{text}");
    for name in ["read_bytes_total", "written_bytes_total", "resident_memory_bytes", "elements_per_second"] {
        assert!(text.contains(&format!("\nwgquant_{name}")), "{name}:\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

/// Every route that there is stands in it.
#[test]
fn the_document_describes_the_interface() {
    let service = Service::start();
    let document = service.get("/openapi.json").json();
    for (method, path) in [
        ("post", "/v1/quantize"),
        ("post", "/v1/dequantize"),
        ("post", "/v1/verify"),
        ("get", "/v1/adapters"),
        ("get", "/v1/formats"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
    ] {
        let operation = &document["paths"][path][method];
        assert!(operation["summary"].is_string(), "{method} {path}: {operation}");
    }
    let page = service.get("/docs");
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'")));
    assert!(page.text().contains("<script src=\"/docs.js\">"));
    assert_eq!(service.get("/docs.js").status, 200);
}

#[test]
fn the_page_for_browsers_is_there_if_its_folder_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let site = folder.path().join("site");
    std::fs::create_dir(&site).expect("a temporary folder");
    for (name, text) in [("secret", "secret"), ("site/index.html", "<p>here"), ("site/a.js", ""), ("site/a.wasm", "")] {
        std::fs::write(folder.path().join(name), text).expect("a temporary folder");
    }
    let service = Service::with(|args| args.site = Some(site));
    let moved = service.get("/browser");
    assert_eq!((moved.status, moved.header("location")), (308, Some("/browser/")));
    let page = service.get("/browser/");
    assert_eq!((page.status, page.text().as_str()), (200, "<p>here"));
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("'wasm-unsafe-eval'")));
    for (path, kind) in [("/browser/a.js", "text/javascript"), ("/browser/a.wasm", "application/wasm")] {
        assert_eq!(service.get(path).header("content-type"), Some(kind), "{path}");
    }
    for path in
        ["/browser/../secret", "/browser/%2e%2e/secret", "/browser/..%2fsecret", "/browser/b", "/browser//etc/passwd"]
    {
        let answer = service.get(path);
        assert!(answer.status >= 400 && !answer.text().contains("secret"), "{path}: {}", answer.status);
    }
    assert!(service.get("/").text().contains("href=\"/browser/\""));
    let other = service.send("GET /browser/", &[("origin", "http://evil.example")], &[]);
    assert_eq!(other.status, 403);

    let without = Service::start();
    assert_eq!(without.get("/browser/").status, 404);
    assert!(!without.get("/").text().contains("/browser/"));
    let args = wgquant_server::Args { site: Some(folder.path().to_owned()), ..wgquant_server::Args::default() };
    assert!(args.resolve().expect_err("no page").contains("has no index.html"));
}
