//! A service in a process of its own, which ends with the test.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::Folder;
use crate::http::{self, Answer, Open};

/// Nothing that is waited for takes longer, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running service.
pub(crate) struct Service {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// Starts a service with its state in `state` and its root in `data`, on the CPU, with more arguments.
    pub(crate) fn start(folder: &Folder, more: &[&str]) -> Self {
        Self::start_with(folder, more, &[])
    }

    /// The same with variables of the environment.
    pub(crate) fn start_with(folder: &Folder, more: &[&str], variables: &[(&str, &str)]) -> Self {
        std::fs::create_dir_all(folder.path("data")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_wgquant"));
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--state",
            "state",
            "--root",
            "data",
            "--log-format",
            "json",
        ]);
        if !more.contains(&"--device") {
            command.args(["--device", "cpu"]);
        }
        command.args(more).envs(variables.iter().copied()).current_dir(folder.root());
        Self::spawn(&mut command)
    }

    /// Starts a service by whatever command leads to one.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| kept.lock().unwrap().push(line)));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let address = log.lock().unwrap().iter().find_map(|line: &String| {
                let line: Value = serde_json::from_str(line).ok()?;
                line["address"].as_str()?.parse().ok()
            });
            if let Some(address) = address {
                return Self { child, address, log };
            }
            assert!(child.try_wait().unwrap().is_none(), "it did not start: {:?}", log.lock().unwrap());
            assert!(Instant::now() < deadline, "it does not listen: {:?}", log.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        self.log()
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) -> Vec<String> {
        let signal = Command::new("kill").args(["-TERM", &self.id().to_string()]).status().unwrap();
        assert!(signal.success());
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it does not end: {:?}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(self.child.wait().unwrap().success(), "{:?}", self.log());
        self.log()
    }

    pub(crate) fn open(&self, head: &str, headers: &[(&str, &str)], body: &[u8]) -> Open {
        http::open(self.address, head, headers, body).unwrap()
    }

    pub(crate) fn send(&self, head: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.open(head, headers, body).read().unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), &[], b"")
    }

    /// Submits a job.
    pub(crate) fn submit(&self, job: &Value) -> Answer {
        self.submit_with(job, &[])
    }

    pub(crate) fn submit_with(&self, job: &Value, headers: &[(&str, &str)]) -> Answer {
        let headers = [&[("Content-Type", "application/json")], headers].concat();
        self.send("POST /v1/jobs", &headers, job.to_string().as_bytes())
    }

    /// Submits a job that must be taken, and gives its name.
    pub(crate) fn take(&self, job: &Value) -> String {
        let answer = self.submit(job);
        assert_eq!(answer.status, 202, "{}", answer.text());
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(answer.header("location"), Some(format!("/v1/jobs/{id}").as_str()));
        id
    }

    pub(crate) fn job(&self, id: &str) -> Value {
        let answer = self.get(&format!("/v1/jobs/{id}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Waits until a job is as wanted.
    pub(crate) fn wait(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let job = self.job(id);
            if wanted(&job) {
                return job;
            }
            assert!(Instant::now() < deadline, "{job}: {:?}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a job has ended, which must be so.
    pub(crate) fn ended(&self, id: &str, state: &str) -> Value {
        let job = self.wait(id, |job| !["queued", "running"].contains(&job["state"].as_str().unwrap()));
        assert_eq!(job["state"], state, "{job}");
        job
    }

    /// Whether it still does what it should: the rest of a test of something that went wrong.
    pub(crate) fn is_alive(&self) {
        assert_eq!(self.get("/healthz").status, 200);
        assert_eq!(self.get("/readyz").status, 200);
        assert_eq!(self.get("/v1/jobs").status, 200);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A job from and to the root.
pub(crate) fn job(source: &str, destination: &str, format: &str) -> Value {
    json!({ "source": source, "destination": destination, "format": format })
}
