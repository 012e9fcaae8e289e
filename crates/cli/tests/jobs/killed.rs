//! Killed in the middle of jobs, again and again: every job ends, with the right bytes, once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Folder, file, floats};
use crate::service::{Service, job};
use crate::submitted::{large, names, remove, same};

const NAMES: [&str; 40] = [
    "t00", "t01", "t02", "t03", "t04", "t05", "t06", "t07", "t08", "t09", "t10", "t11", "t12", "t13", "t14", "t15",
    "t16", "t17", "t18", "t19", "t20", "t21", "t22", "t23", "t24", "t25", "t26", "t27", "t28", "t29", "t30", "t31",
    "t32", "t33", "t34", "t35", "t36", "t37", "t38", "t39",
];

/// What jobs do beside their formats, and the same on the command line.
fn jobs() -> Vec<(Value, Vec<&'static str>)> {
    vec![
        (json!({ "format": "sym4", "verify": "full" }), vec!["--format", "sym4", "--verify", "full"]),
        (json!({ "format": "nf4-dq", "shard_size": "8MB" }), vec!["--format", "nf4-dq", "--shard-size", "8MB"]),
        (json!({ "format": "q8_0", "container": "gguf" }), vec!["--format", "q8_0", "--container", "gguf"]),
        (
            json!({ "format": "mxfp4", "container": "mxfp4", "sync": true }),
            vec!["--format", "mxfp4", "--container", "mxfp4"],
        ),
    ]
}

/// Tensors that a job's journal says are done.
fn n_done(folder: &Folder, output: &str) -> usize {
    let journal = std::fs::read_to_string(folder.path(&format!("data/{output}.wgquant-journal"))).unwrap_or_default();
    journal.lines().filter(|line| line.starts_with("{\"done\"")).count()
}

#[test]
fn killed_ten_times() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("data")).unwrap();
    let weights: Vec<_> = NAMES.iter().zip(1..).map(|(name, seed)| floats(name, "F32", &[512, 1024], seed)).collect();
    folder.write("data/in", &file(&weights));
    let (mut kills, mut rounds, mut resumed, mut interrupted) = (0, 0, 0, 0);
    // A kill may come when a job has just ended; only those in the middle of one count.
    while interrupted < 10 {
        rounds += 1;
        assert!(rounds <= 10, "jobs are never slow enough to be killed in the middle: {kills} kills");
        let mut service = Service::start(&folder, &[]);
        let outputs: HashMap<String, usize> = (0..jobs().len())
            .map(|ix| {
                let output = format!("out{ix}");
                let mut request = job("in", &output, "");
                request.as_object_mut().unwrap().extend(jobs()[ix].0.as_object().unwrap().clone());
                (service.take(&request), ix)
            })
            .collect();
        let mut logs = Vec::new();
        let mut known: HashMap<usize, usize> = HashMap::new();
        while in_the_middle(&folder, &service, &outputs) {
            logs.extend(service.kill());
            kills += 1;
            for ix in 0..jobs().len() {
                known.insert(ix, n_done(&folder, &format!("out{ix}")));
            }
            service = Service::start(&folder, &[]);
        }
        for (id, ix) in &outputs {
            let job = service.ended(id, "done");
            let report = service.get(&format!("/v1/jobs/{id}/report")).json();
            let known = known.get(ix).copied().unwrap_or_default();
            if job["attempts"].as_u64().unwrap() > 1 {
                interrupted += job["attempts"].as_u64().unwrap() - 1;
                resumed += report["resumed"].as_u64().unwrap();
            }
            // What the journal had at the last kill was not done again, unless the job had its name already.
            assert!(report["resumed"].as_u64().unwrap() >= known as u64, "{job}: {known} were done");
        }
        logs.extend(service.stop());
        for (id, ix) in &outputs {
            let ends = logs.iter().filter(|line| line.contains(id) && line.contains("\"ended\"")).count();
            assert!(ends <= 1, "out{ix} has ended {ends} times: {logs:?}");
            let args = [&["quantize", "data/in", "-o", "expected", "--device", "cpu"], &jobs()[*ix].1[..]].concat();
            folder.ok(&args);
            same(&folder.path(&format!("data/out{ix}")), &folder.path("expected"));
            remove(&folder.path("expected"));
        }
        assert_eq!(names(&folder.path("data")), ["in", "out0", "out1", "out2", "out3"], "nothing else is left");
        for ix in 0..jobs().len() {
            remove(&folder.path(&format!("data/out{ix}")));
        }
        let service = Service::start(&folder, &[]);
        let listed = service.get("/v1/jobs?limit=1000").json();
        assert_eq!(listed["jobs"].as_array().unwrap().len(), rounds * jobs().len(), "none is lost, and none made up");
        assert!(listed["jobs"].as_array().unwrap().iter().all(|job| job["state"] == "done"));
    }
    assert!(kills >= 10 && resumed >= 10, "{kills} kills, and {resumed} tensors of an earlier run");
}

/// Waits until a job has done some tensors in this process, and not all; `false` if all jobs have ended.
fn in_the_middle(folder: &Folder, service: &Service, outputs: &HashMap<String, usize>) -> bool {
    let before: HashMap<_, _> = outputs.values().map(|&ix| (ix, n_done(folder, &format!("out{ix}")))).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        for &ix in outputs.values() {
            let now = n_done(folder, &format!("out{ix}"));
            // At moments that differ from kill to kill.
            if now > before[&ix] + ix && now < NAMES.len() - 1 {
                return true;
            }
        }
        let log = service.log();
        let ended = |id: &String| log.iter().any(|line| line.contains(id.as_str()) && line.contains("\"ended\""));
        if outputs.keys().all(|id| ended(id) || service.job(id)["state"] == "done") {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("jobs neither go on nor end: {:?}", service.log());
}

/// Killed when the output has its name and the database does not know it yet: the job is done, and nothing is done again.
#[test]
fn killed_between_the_name_and_the_database() {
    let folder = large(6);
    let service = Service::start(&folder, &[]);
    let id = service.take(&json!({ "source": "in", "destination": "out", "format": "nf4", "verify": "full" }));
    service.wait(&id, |job| job["state"] == "running");
    let lock = rusqlite::Connection::open(folder.path("state/jobs.sqlite")).unwrap();
    lock.busy_timeout(Duration::from_secs(10)).unwrap();
    lock.execute_batch("begin immediate").unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !folder.path("data/out").exists() {
        assert!(Instant::now() < deadline, "{:?}", service.log());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(service.job(&id)["state"], "running", "the database can't know it yet");
    let modified = || folder.path("data/out").metadata().unwrap().modified().unwrap();
    let before = modified();
    service.kill();
    lock.execute_batch("rollback").unwrap();
    drop(lock);
    let service = Service::start(&folder, &[]);
    let done = service.ended(&id, "done");
    assert_eq!(done["attempts"], 2);
    let report = service.get(&format!("/v1/jobs/{id}/report")).json();
    assert_eq!(report["resumed"], report["tensors"].as_array().unwrap().len(), "nothing was done again");
    assert_eq!(modified(), before);
    assert_eq!(names(&folder.path("data")), ["in", "out"]);
}
