//! What lies outside of the roots is out of reach, by whatever way.

use std::os::unix::fs::symlink;

use serde_json::json;

use crate::common::{Folder, file, mixed};
use crate::service::{Service, job};
use crate::submitted::names;

/// A root, and a secret beside it.
fn guarded() -> Folder {
    let folder = Folder::new();
    for name in ["data", "secret", "data/sub"] {
        std::fs::create_dir(folder.path(name)).unwrap();
    }
    for name in ["data/in", "secret/in", "data/sub/in"] {
        folder.write(name, &file(&mixed()));
    }
    folder
}

#[test]
fn paths_that_lead_out_are_refused() {
    let folder = guarded();
    let path = |name: &str| folder.path(name).to_str().unwrap().to_owned();
    symlink(folder.path("secret"), folder.path("data/link")).unwrap();
    symlink(folder.path("secret/in"), folder.path("data/leak")).unwrap();
    symlink("../secret/new", folder.path("data/dangling")).unwrap();
    let service = Service::start(&folder, &[]);
    let before = names(&folder.path("secret"));
    for outside in [
        "../secret/in",
        "sub/../../secret/in",
        "link/in",
        "leak",
        "/etc/passwd",
        "/proc/self/root/etc/passwd",
        "/dev/zero",
        &path("secret/in"),
        &format!("{}/../secret/in", path("data")),
        "file:///etc/passwd",
        "s3://bucket/key",
        "http://127.0.0.1/x",
        "in\u{0}",
        "",
    ] {
        let read = service.submit(&job(outside, "out", "nf4"));
        assert!([400, 403].contains(&read.status), "{outside:?}: {}", read.text());
        let written = service.submit(&job("in", outside, "nf4"));
        assert!([400, 403].contains(&written.status), "{outside:?}: {}", written.text());
        for force in [&read, &written] {
            assert!(!force.text().contains("root:"), "{}", force.text());
        }
        let mut forced = job("in", outside, "nf4");
        forced["force"] = true.into();
        assert!([400, 403].contains(&service.submit(&forced).status), "{outside:?}");
    }
    for (destination, wanted) in
        [("dangling", "is a link"), ("link/out", "outside of the folders"), ("leak", "is a link")]
    {
        let sentence = service.submit(&job("in", destination, "nf4")).json()["detail"].as_str().unwrap().to_owned();
        assert!(sentence.contains(wanted), "{destination}: {sentence}");
    }
    assert_eq!(names(&folder.path("secret")), before);
    assert_eq!(service.get("/v1/jobs").json()["jobs"], json!([]));
    // Paths within are as good as ever, with links among them.
    symlink("sub", folder.path("data/inner")).unwrap();
    symlink(folder.path("data/in"), folder.path("data/other")).unwrap();
    for source in ["in", "./sub//in", "inner/in", "other", &path("data/sub/in")] {
        let mut request = job(source, "out", "nf4");
        request["force"] = true.into();
        let id = service.take(&request);
        service.ended(&id, "done");
    }
    service.is_alive();
}

/// A model's folder with a file in it that is a link to elsewhere, as one that would be copied along.
#[test]
fn a_folder_with_a_link_that_leads_out_is_refused() {
    let folder = guarded();
    std::fs::create_dir(folder.path("data/model")).unwrap();
    folder.write("data/blob", &file(&mixed()));
    symlink("../blob", folder.path("data/model/model.safetensors")).unwrap();
    folder.write("data/model/config.json", b"{}");
    let service = Service::start(&folder, &[]);
    let id = service.take(&json!({ "source": "model", "destination": "out", "format": "nf4", "container": "bnb" }));
    service.ended(&id, "done");
    assert_eq!(names(&folder.path("data/out")), ["config.json", "model.safetensors"]);
    symlink("/etc/passwd", folder.path("data/model/tokenizer.json")).unwrap();
    let request = json!({ "source": "model", "destination": "out2", "format": "nf4", "container": "bnb" });
    let sentence = service.submit(&request).problem(403);
    assert!(sentence.contains("has a file \"tokenizer.json\" in it that lies outside"), "{sentence}");
}

/// A path that is good when the job is submitted and leads out when it runs.
#[test]
fn a_path_that_is_changed_while_the_job_waits() {
    let folder = guarded();
    let blocker = crate::submitted::large(24);
    std::fs::rename(blocker.path("data/in"), folder.path("data/large")).unwrap();
    let service = Service::start(&folder, &[]);
    let first = service.take(&job("large", "out", "nf4"));
    let (reads, writes) = (service.take(&job("sub/in", "out1", "nf4")), service.take(&job("in", "sub/out2", "nf4")));
    std::fs::rename(folder.path("data/sub"), folder.path("data/aside")).unwrap();
    symlink(folder.path("secret"), folder.path("data/sub")).unwrap();
    service.send(&format!("POST /v1/jobs/{first}/cancel"), &[], b"");
    for id in [reads, writes] {
        let error = service.ended(&id, "failed")["error"].clone();
        assert_eq!(error["status"], 403, "{error}");
        assert!(error["detail"].as_str().unwrap().contains("lies outside of the folders"), "{error}");
    }
    assert_eq!(names(&folder.path("secret")), ["in"]);
}

/// A pipe is no checkpoint, and nobody waits for its other end.
#[test]
fn a_pipe_is_not_waited_for() {
    let folder = guarded();
    let made = std::process::Command::new("mkfifo").arg(folder.path("data/pipe")).status().unwrap();
    assert!(made.success());
    let service = Service::start(&folder, &[]);
    let sentence = service.submit(&job("pipe", "out", "nf4")).problem(400);
    assert!(sentence.contains("is neither a file nor a folder"), "{sentence}");
}

/// Without a root, there are no jobs.
#[test]
fn without_a_root_nothing_can_be_touched() {
    let folder = guarded();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wgquant"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--state", "state", "--device", "cpu", "--log-format", "json"]);
    let service = Service::spawn(command.current_dir(folder.root()));
    for source in ["in", folder.path("data/in").to_str().unwrap(), "/etc/passwd"] {
        let sentence = service.submit(&job(source, "out", "nf4")).problem(403);
        assert!(sentence.contains("no folder that jobs may touch (see --root)"), "{sentence}");
    }
}
