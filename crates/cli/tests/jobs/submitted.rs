//! Jobs that go well, and what is said of them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{Folder, file, floats, mixed};
use crate::service::{Service, job};

/// A real model, which `cargo xtask test` fetches.
pub(crate) fn checkpoint() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.fixtures/all-minilm-l6-v2/model.safetensors");
    path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}: run `cargo xtask test`", path.display()))
}

/// The real checkpoint, as a file and as a folder, in every layout: the bytes and the report of the command line.
#[test]
fn a_job_is_the_command_line() {
    let folder = Folder::new();
    let model = folder.path("data/model");
    std::fs::create_dir_all(&model).unwrap();
    std::fs::hard_link(checkpoint(), model.join("model.safetensors"))
        .or_else(|_| std::fs::copy(checkpoint(), model.join("model.safetensors")).map(drop))
        .unwrap();
    for name in ["config.json", "tokenizer.json"] {
        std::fs::write(model.join(name), json!({ "model_type": "bert", "hidden_size": 384 }).to_string()).unwrap();
    }
    let service = Service::start(&folder, &[]);
    for (source, more, args) in [
        ("model/model.safetensors", json!({ "format": "nf4" }), &["--format", "nf4"][..]),
        (
            "model",
            json!({ "format": "q8_0", "container": "gguf", "verify": "full" }),
            &["--format", "q8_0", "--container", "gguf", "--verify", "full"],
        ),
        (
            "model",
            json!({ "format": "sym4", "shard_size": "5MB", "verify": "none", "overrides": [{ "pattern": "*word_embeddings*", "format": "sym8" }, { "pattern": "*layer.1.*", "format": "keep" }], "memory": "128MiB", "sync": true }),
            &[
                "--format",
                "sym4",
                "--shard-size",
                "5MB",
                "--verify",
                "none",
                "--override",
                "*word_embeddings*=sym8",
                "--override",
                "*layer.1.*=keep",
            ],
        ),
        (
            "model",
            json!({ "format": "nf4-dq", "container": "bnb", "min_elements": 100_000, "exclude": ["*query*"] }),
            &["--format", "nf4-dq", "--container", "bnb", "--min-elements", "100000", "--exclude", "*query*"],
        ),
    ] {
        let mut request = job(source, "out", "");
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let id = service.take(&request);
        let done = service.ended(&id, "done");
        let input = format!("data/{source}");
        let expected = folder.json(&[&["quantize", &input, "-o", "expected", "--device", "cpu"], args].concat());
        same(&folder.path("data/out"), &folder.path("expected"));
        let report = service.get(&format!("/v1/jobs/{id}/report")).json();
        for key in ["adapter", "format", "container", "bytes_in", "bytes_out", "resumed", "tensors"] {
            assert_eq!(report[key], expected[key], "{key} of {request}");
        }
        assert_eq!((&done["bytes_in"], &done["bytes_out"]), (&expected["bytes_in"], &expected["bytes_out"]));
        assert_eq!((&done["attempts"], &done["error"], &done["progress"]), (&json!(1), &Value::Null, &Value::Null));
        assert_eq!(names(&folder.path("data")), ["model", "out"], "nothing else is left");
        for output in ["data/out", "expected"] {
            remove(&folder.path(output));
        }
    }
}

/// Two files, or two folders, are the same.
pub(crate) fn same(one: &Path, other: &Path) {
    if one.is_file() {
        assert!(std::fs::read(one).unwrap() == std::fs::read(other).unwrap(), "{} differs", one.display());
        return;
    }
    assert_eq!(names(one), names(other));
    for name in names(one) {
        same(&one.join(&name), &other.join(&name));
    }
}

/// What is in a folder. A job's journal goes away only after the database has noted its end, so that is waited for.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        if !names.iter().any(|name| name.ends_with(".wgquant-journal")) || std::time::Instant::now() > deadline {
            return names;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

pub(crate) fn remove(path: &Path) {
    if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
}

/// A folder with a small model at `data/in`.
pub(crate) fn small() -> Folder {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("data")).unwrap();
    folder.write("data/in", &file(&mixed()));
    folder
}

/// A folder with a model at `data/in` that takes a moment: zeros, so that no disk must hold them before.
pub(crate) fn large(n_tensors: u64) -> Folder {
    const TENSOR_BYTES: u64 = 64 << 20;
    let folder = Folder::new();
    std::fs::create_dir(folder.path("data")).unwrap();
    let mut header = serde_json::Map::new();
    for ix in 0..n_tensors {
        let place = [ix * TENSOR_BYTES, (ix + 1) * TENSOR_BYTES];
        header.insert(format!("t{ix:03}"), json!({ "dtype": "F32", "shape": [4096, 4096], "data_offsets": place }));
    }
    let bytes = crate::common::raw_file(&Value::Object(header).to_string(), &[], 0);
    folder.write("data/in", &bytes);
    let file = std::fs::File::options().write(true).open(folder.path("data/in")).unwrap();
    file.set_len(bytes.len() as u64 + n_tensors * TENSOR_BYTES).unwrap();
    folder
}

#[test]
fn a_repeated_submission_is_the_same_job() {
    let folder = small();
    let service = Service::start(&folder, &[]);
    let key = [("Idempotency-Key", "upload-17")];
    let first = service.submit_with(&job("in", "out", "nf4"), &key);
    assert_eq!(first.status, 202, "{}", first.text());
    let id = first.json()["id"].as_str().unwrap().to_owned();
    service.ended(&id, "done");
    // The output is there by now, so that the same job without the key would be refused.
    let again = service.submit_with(&job("in", "out", "nf4"), &key);
    assert_eq!((again.status, again.json()["id"].as_str()), (200, Some(id.as_str())));
    assert_eq!(again.json()["state"], "done");
    let other = service.submit_with(&job("in", "out2", "nf4"), &key).problem(409);
    assert!(other.contains("Idempotency-Key came with another job"), "{other}");
    assert!(
        service.submit(&job("in", "out", "nf4")).problem(400).contains("exists already: give another name, or force")
    );
    for key in ["", "a b", &"x".repeat(256), "é"] {
        assert!(
            service
                .submit_with(&job("in", "o", "nf4"), &[("Idempotency-Key", key)])
                .problem(400)
                .contains("visible ASCII")
        );
    }
    assert_eq!(service.get("/v1/jobs").json()["jobs"].as_array().unwrap().len(), 1);
    // It is the same job after a restart too.
    service.stop();
    let service = Service::start(&folder, &[]);
    let again = service.submit_with(&job("in", "out", "nf4"), &key);
    assert_eq!((again.status, again.json()["id"].as_str()), (200, Some(id.as_str())));
}

#[test]
fn lists_are_pages() {
    let folder = small();
    let service = Service::start(&folder, &[]);
    let ids: Vec<_> = (0..5).map(|n| service.take(&job("in", &format!("out{n}"), "sym4"))).collect();
    for id in &ids {
        service.ended(id, "done");
    }
    let mut found = Vec::new();
    let mut path = "/v1/jobs?limit=2".to_owned();
    loop {
        let page = service.get(&path).json();
        let jobs = page["jobs"].as_array().unwrap();
        assert!(jobs.len() <= 2);
        found.extend(jobs.iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        match page["next"].as_i64() {
            Some(next) => path = format!("/v1/jobs?limit=2&before={next}"),
            None => break,
        }
    }
    assert_eq!(found.into_iter().rev().collect::<Vec<_>>(), ids);
    assert_eq!(service.get("/v1/jobs?state=failed").json()["jobs"], json!([]));
    assert_eq!(service.get("/v1/jobs?state=done&limit=1000").json()["jobs"].as_array().unwrap().len(), 5);
    for query in ["limit=0", "limit=1001", "limit=x", "state=asleep", "more=1"] {
        service.get(&format!("/v1/jobs?{query}")).problem(400);
    }
}

/// The events of a job: from where it waits to its end, in order, and from where a listener stopped.
#[test]
fn events_go_on_where_a_listener_stopped() {
    let folder = large(6);
    let service = Service::start(&folder, &[]);
    let request = json!({ "source": "in", "destination": "out", "format": "nf4", "verify": "full" });
    let id = service.take(&request);
    let path = format!("GET /v1/jobs/{id}/events");
    let mut events = service.open(&path, &[], b"");
    assert_eq!(events.status, 200);
    let (mut last, mut n, mut done) = (String::new(), 0, 0);
    while let Some(event) = events.event() {
        n += 1;
        assert_ne!(event.id, last);
        last = event.id;
        assert_eq!(event.data["id"], id.as_str());
        if event.name == "done" {
            assert_eq!(event.data["state"], "done");
            assert!(events.event().is_none(), "it was the last");
            break;
        }
        assert_eq!(event.name, "progress");
        if let Some(progress) = event.data["progress"].as_object() {
            let now = progress["done_bytes"].as_u64().unwrap();
            assert!(now >= done, "{progress:?} after {done}");
            done = now;
            assert_eq!(progress["total_bytes"], 2 * 6 * (64_u64 << 20), "full verification counts twice");
        }
    }
    assert!(n > 3 && done > 0, "{n} events, {done} bytes");
    // One that heard it all hears nothing more; one that comes late hears the end.
    let answer = service.send(&path, &[("Last-Event-ID", &last)], b"");
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    let mut late = service.open(&path, &[("Last-Event-ID", "1-0")], b"");
    assert_eq!(late.event().map(|event| event.name), Some("done".to_owned()));
    assert!(late.event().is_none());
    service.get("/v1/jobs/none/events").problem(404);
}

#[test]
fn a_cancelled_job_leaves_nothing() {
    let folder = large(24);
    let service = Service::start(&folder, &[]);
    let (runs, waits) = (service.take(&job("in", "out", "nf4")), service.take(&job("in", "out2", "nf4")));
    let running = service.wait(&runs, |job| job["progress"]["done_bytes"].as_u64().is_some_and(|n| n > 64 << 20));
    assert_eq!(running["state"], "running");
    assert_eq!(service.job(&waits)["jobs_before"], 0);
    let cancel = |id: &str| service.send(&format!("POST /v1/jobs/{id}/cancel"), &[], b"");
    let answer = cancel(&waits);
    assert_eq!((answer.status, answer.json()["state"].as_str()), (200, Some("cancelled")));
    assert_eq!(cancel(&waits).status, 200, "twice is once");
    assert_eq!(cancel(&runs).status, 202);
    service.ended(&runs, "cancelled");
    assert_eq!(names(&folder.path("data")), ["in"]);
    assert!(
        service.get(&format!("/v1/jobs/{runs}/report")).problem(409).contains("is cancelled, and has a report only")
    );
    assert!(cancel("none").problem(404).contains("no job \"none\""));
    let done = service.take(&json!({ "source": "in", "destination": "out", "format": "nf4", "verify": "none" }));
    service.ended(&done, "done");
    assert!(cancel(&done).problem(409).contains("is done already"));
    assert_eq!(cancel(&runs).status, 200);
    service.is_alive();
}

/// A service that is told to stop leaves jobs where the next one goes on.
#[test]
fn a_stopped_service_goes_on() {
    let folder = large(24);
    folder.json(&["quantize", "data/in", "-o", "expected", "--format", "nf4", "--device", "cpu", "--verify", "none"]);
    let service = Service::start(&folder, &[]);
    let request = json!({ "source": "in", "destination": "out", "format": "nf4", "verify": "full" });
    let (first, second) =
        (service.take(&request), service.take(&json!({ "source": "in", "destination": "out2", "format": "sym4" })));
    service.wait(&first, |job| job["progress"]["done_bytes"].as_u64().is_some_and(|n| n > 256 << 20));
    let mut events = service.open(&format!("GET /v1/jobs/{first}/events"), &[], b"");
    assert!(events.event().is_some());
    service.stop();
    while events.event().is_some() {}
    assert!(!folder.path("data/out").exists());
    let service = Service::start(&folder, &[]);
    assert_eq!(service.ended(&first, "done")["attempts"], 2);
    assert_eq!(service.ended(&second, "done")["attempts"], 1);
    let report = service.get(&format!("/v1/jobs/{first}/report")).json();
    assert!(report["resumed"].as_u64().unwrap() >= 1, "{}", report["resumed"]);
    same(&folder.path("data/out"), &folder.path("expected"));
    assert_eq!(names(&folder.path("data")), ["in", "out", "out2"]);
}

/// What is wrong with a job is said at once, in one sentence, without the service's own paths.
#[test]
fn bad_jobs_are_refused() {
    let folder = small();
    folder.write("data/bad.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x00{}");
    folder.write(
        "data/nan",
        &file(&[floats("w", "F32", &[128, 64], 1), crate::common::tensor("n", "F32", &[64, 64], vec![0xff; 4 * 4096])]),
    );
    let nine = ["a", "b", "c", "d", "e", "f", "g", "h", "i"].map(|name| floats(name, "F32", &[64, 64], 1));
    folder.write("data/many.safetensors", &file(&nine));
    let service = Service::start(&folder, &["--max-tensors", "8"]);
    let with = |key: &str, value: Value| {
        let mut request = job("in", "out", "nf4");
        request[key] = value;
        request
    };
    for (status, request, wanted) in [
        (400, json!({}), "missing field `source`"),
        (400, json!([]), "no job"),
        (400, with("formt", json!("nf4")), "unknown field `formt`"),
        (400, with("format", json!("int3")), "no format \"int3\""),
        (400, with("container", json!("zip")), "no container \"zip\""),
        (400, with("container", json!("gguf")), "nf4 can't be written as gguf"),
        (400, with("verify", json!("maybe")), "no way to verify \"maybe\""),
        (400, with("shard_size", json!("much")), "shard_size is no size"),
        (400, with("memory", json!(0)), "memory is no size"),
        (400, with("min_elements", json!(-1)), "min_elements"),
        (400, with("include", json!(["["])), "include \"[\" is no pattern"),
        (400, with("include", json!(["nothing*"])), "include \"nothing*\" matches no tensor"),
        (400, with("overrides", json!([{ "pattern": "a*", "format": "int3" }])), "override \"a*\": there is no format"),
        (400, with("include", json!(vec!["x"; 1001])), "include has 1001 entries"),
        (400, with("source", json!("missing")), "the source \"missing\" is not there"),
        (400, with("destination", json!("no/such/out")), "is in a folder that is not there"),
        (400, with("destination", json!("in")), "in: the output is the input"),
        (400, with("source", json!("bad.safetensors")), "longer than"),
        (400, with("source", json!("many.safetensors")), "has 9 tensors, and at most 8 are taken"),
    ] {
        let sentence = service.submit(&request).problem(status);
        assert!(sentence.contains(wanted), "{wanted:?} should be in: {sentence}");
        assert!(!sentence.contains(folder.root().to_str().unwrap()) && !sentence.contains("/proc"), "{sentence}");
    }
    assert_eq!(service.get("/v1/jobs").json()["jobs"], json!([]), "none of them is a job");
    // What is known only from the weights is the job's own error.
    let id = service.take(&job("nan", "out", "nf4"));
    let error = service.ended(&id, "failed")["error"].clone();
    assert_eq!((&error["status"], &error["tensor"]), (&json!(422), &json!("n")), "{error}");
    assert!(error["detail"].as_str().unwrap().starts_with("nan: tensor \"n\": element 0 is NaN"), "{error}");
    let text = service.send("POST /v1/jobs", &[("Content-Type", "text/plain")], b"{}").problem(415);
    assert!(text.contains("no job"), "{text}");
    service.send("POST /v1/jobs", &[("Content-Type", "application/json")], b"{\"source\":").problem(400);
    assert_eq!(names(&folder.path("data")), ["bad.safetensors", "in", "many.safetensors", "nan"]);
    service.is_alive();
}

/// More jobs than may wait are refused, and say when to come again.
#[test]
fn a_full_queue_says_no() {
    let folder = large(24);
    let service = Service::start(&folder, &["--job-queue", "2"]);
    let taken: Vec<_> = (0..3).map(|n| service.take(&job("in", &format!("out{n}"), "nf4"))).collect();
    let refused = service.submit(&job("in", "out9", "nf4"));
    assert!(refused.problem(429).contains("wait already"));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    service.send(&format!("POST /v1/jobs/{}/cancel", taken[2]), &[], b"");
    service.take(&job("in", "out9", "nf4"));
    assert_eq!(service.get("/v1/jobs").json()["jobs"].as_array().unwrap().len(), 4);
}

#[test]
fn the_api_is_described() {
    let folder = small();
    let service = Service::start(&folder, &[]);
    let document = service.get("/openapi.json").json();
    for (path, methods) in [
        ("/v1/jobs", &["get", "post"][..]),
        ("/v1/jobs/{id}", &["get"]),
        ("/v1/jobs/{id}/events", &["get"]),
        ("/v1/jobs/{id}/cancel", &["post"]),
        ("/v1/jobs/{id}/report", &["get"]),
    ] {
        for method in methods {
            assert!(document["paths"][path][method].is_object(), "{method} {path}");
        }
    }
}
