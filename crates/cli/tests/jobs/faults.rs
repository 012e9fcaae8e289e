//! What goes wrong around jobs: the service says so, loses nothing, and lives.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::service::{Service, job};
use crate::submitted::{large, names, same, small};

/// Another process has the database: submissions wait a little, then say so; a job that ends meanwhile is not lost.
#[test]
fn a_locked_database() {
    let folder = large(6);
    let service = Service::start(&folder, &[]);
    let running = service.take(&json!({ "source": "in", "destination": "out", "format": "nf4", "verify": "full" }));
    service.wait(&running, |job| job["state"] == "running");
    let other = rusqlite::Connection::open(folder.path("state/jobs.sqlite")).unwrap();
    other.busy_timeout(Duration::from_secs(10)).unwrap();
    other.execute_batch("begin immediate").unwrap();
    let refused = service.submit(&job("in", "out2", "nf4"));
    assert!(refused.problem(503).contains("in use by another process: try again"), "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    service.is_alive();
    // The output has its name, but the end can't be written down.
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !folder.path("data/out").exists() {
        assert!(std::time::Instant::now() < deadline, "{:?}", service.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(service.job(&running)["state"], "running");
    other.execute_batch("rollback").unwrap();
    service.ended(&running, "done");
    let next = service.take(&job("in", "out2", "nf4"));
    service.ended(&next, "done");
    assert_eq!(names(&folder.path("data")), ["in", "out", "out2"]);
}

/// A second service is not let at the state of the first.
#[test]
fn a_state_folder_is_one_services() {
    let folder = small();
    let service = Service::start(&folder, &[]);
    let args = ["serve", "--listen", "127.0.0.1:0", "--state", "state", "--root", "data", "--device", "cpu"];
    let output = folder.run(&args);
    assert_eq!(output.status.code(), Some(1));
    let text = crate::common::stderr(&output);
    assert!(text.contains("another service has this folder: name another with --state"), "{text}");
    service.is_alive();
    service.stop();
    Service::start(&folder, &[]).is_alive();
}

/// The disk of the outputs is full, and the one of the database too: the job says so and can be gone on with.
#[test]
fn a_full_disk() {
    let folder = large(2);
    let script = r#"mount -t tmpfs -o size=4m tmpfs "$1" && shift && exec "$@""#;
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let disk = folder.path("data/disk");
    std::fs::create_dir(&disk).unwrap();
    let mut unshare = Command::new("unshare");
    unshare.arg(if is_root { "-m" } else { "-rm" }).args(["sh", "-c", script, "sh"]).arg(&disk);
    unshare.arg(env!("CARGO_BIN_EXE_wgquant")).current_dir(folder.root());
    unshare.args(["serve", "--listen", "127.0.0.1:0", "--state", "state", "--root", "data", "--device", "cpu"]);
    let service = Service::spawn(unshare.args(["--log-format", "json"]));
    let full = service.take(&job("in", "disk/out", "nf4"));
    let error = service.ended(&full, "failed")["error"].clone();
    assert_eq!(error["status"], 507, "{error}");
    let sentence = error["detail"].as_str().unwrap();
    assert!(sentence.starts_with("disk/out: ") && sentence.contains("No space left on device"), "{sentence}");
    service.is_alive();
    // With room it goes on, or begins anew.
    let pid = service.id().to_string();
    let disk = disk.to_str().unwrap();
    let grown = Command::new("nsenter").args(["-t", &pid, "-m", "mount", "-o", "remount,size=64m", disk]).status();
    assert!(grown.unwrap().success(), "this test needs nsenter (util-linux)");
    let again = service.take(&json!({ "source": "in", "destination": "disk/out", "format": "nf4", "resume": true }));
    service.ended(&again, "done");
    folder.json(&["quantize", "data/in", "-o", "expected", "--format", "nf4", "--device", "cpu"]);
    same(&std::path::PathBuf::from(format!("/proc/{pid}/root{disk}/out")), &folder.path("expected"));
}

/// An input that is changed while a job reads it.
#[test]
fn an_input_that_changes() {
    let folder = large(24);
    let service = Service::start(&folder, &[]);
    let id = service.take(&json!({ "source": "in", "destination": "out", "format": "nf4", "verify": "full" }));
    service.wait(&id, |job| job["progress"]["done_bytes"].as_u64().is_some_and(|n| n > 64 << 20));
    let file = std::fs::File::options().write(true).open(folder.path("data/in")).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    let error = service.ended(&id, "failed")["error"].clone();
    assert!(error["detail"].as_str().unwrap().starts_with("in: was changed while it was read"), "{error}");
    assert_eq!(names(&folder.path("data")), ["in"]);
    service.is_alive();
}
