//! `wgquant serve`: the program, as a system starts and stops it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Folder, file, floats, mixed, stderr};
use crate::real_checkpoint::{adapters, checkpoint};

/// A service that ends when this is dropped.
pub(crate) struct Served {
    child: Child,
    address: String,
    /// What it has written to its log since it listens.
    log: Option<std::thread::JoinHandle<String>>,
    state: tempfile::TempDir,
}

impl Served {
    /// On the CPU, at a free port.
    pub(crate) fn start() -> Self {
        Self::with(&[], &[])
    }

    fn with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_wgquant"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--state"])
            .env("WGQUANT_DEVICE", "cpu");
        command.arg(state.path()).args(arguments).envs(variables.iter().copied()).current_dir(state.path());
        Self::run(command, state)
    }

    /// Starts a command that logs in JSON.
    fn run(mut command: Command, state: tempfile::TempDir) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no log line: {line}"));
        assert_eq!(line["message"], "listening", "{line}");
        let address = line["address"].as_str().unwrap().to_owned();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = log.read_to_string(&mut text);
            text
        });
        Self { child, address, log: Some(log), state }
    }

    /// Sends a body, and gives status, head and body of the answer.
    pub(crate) fn post(&self, path: &str, headers: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let (address, n) = (&self.address, body.len());
        write!(stream, "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}").unwrap();
        write!(stream, "content-length: {n}\r\n\r\n").unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        let body = answer.split_off(head + 4);
        let head = String::from_utf8(answer).unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head, body)
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Sends a signal, and gives the exit code and the log.
    fn stop(mut self, signal: &str) -> (Option<i32>, String) {
        self.signal(signal);
        let code = self.child.wait().unwrap().code();
        (code, self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A service that is started so listens, takes a token, and works; and ends well. Its standard device is the CPU.
pub(crate) fn answers(folder: &Folder, arguments: &[&str], variables: &[(String, String)], token: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgquant"));
    command.args(arguments).envs(variables.iter().map(|(name, value)| (name, value))).current_dir(folder.root());
    command.env("WGQUANT_DEVICE", "cpu").env("WGQUANT_LOG_FORMAT", "json");
    let mut served = Served::run(command, tempfile::tempdir().unwrap());
    let port = served.address.rsplit_once(':').unwrap().1;
    served.address = format!("127.0.0.1:{port}");
    let body = file(&mixed());
    let (status, ..) = served.post("/v1/quantize?format=sym4", "", &body);
    assert_eq!(status, 401);
    let (status, head, _) =
        served.post("/v1/quantize?format=sym4", &format!("authorization: Bearer {token}\r\n"), &body);
    assert_eq!(status, 200, "{head}");
    let (code, log) = served.stop("-TERM");
    assert_eq!(code, Some(0), "{log}");
}

thread_local! {
    /// One a test, whose thread ends with it.
    static SERVED: Served = Served::start();
}

/// The service must refuse this file, whatever is to be done with it, with a status of the client's fault and one sentence.
pub(crate) fn refuses(bytes: &[u8], wanted: &str) {
    SERVED.with(|served| {
        for path in ["/v1/quantize?format=sym4", "/v1/dequantize"] {
            let (status, head, body) = served.post(path, "", bytes);
            is_problem(path, (status, &head, &body), wanted);
        }
        verifies_nothing(served, bytes, wanted);
    });
}

/// The same for a compressed file, which can't be compressed again.
pub(crate) fn refuses_packed(bytes: &[u8], wanted: &str) {
    SERVED.with(|served| {
        let (status, head, body) = served.post("/v1/dequantize", "", bytes);
        is_problem("/v1/dequantize", (status, &head, &body), wanted);
    });
}

/// The same for what only quantizing finds; the tensor stands in the document too.
pub(crate) fn refuses_to_quantize(bytes: &[u8], wanted: &str) {
    SERVED.with(|served| {
        let (status, head, body) = served.post("/v1/quantize?format=sym4", "", bytes);
        is_problem("/v1/quantize", (status, &head, &body), wanted);
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert!(wanted.starts_with(&format!("tensor {}", document["tensor"])), "{document}");
    });
}

fn verifies_nothing(served: &Served, bytes: &[u8], wanted: &str) {
    let mut form = Vec::new();
    for name in ["original", "quantized"] {
        form.extend(format!("--limit\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n").as_bytes());
        form.extend(bytes);
        form.extend(b"\r\n");
    }
    form.extend(b"--limit--\r\n");
    let kind = "content-type: multipart/form-data; boundary=limit\r\n";
    let (status, head, body) = served.post("/v1/verify", kind, &form);
    is_problem("/v1/verify", (status, &head, &body), wanted);
}

fn is_problem(path: &str, (status, head, body): (u16, &str, &[u8]), wanted: &str) {
    let text = String::from_utf8_lossy(body);
    assert!((400..500).contains(&status), "{path}: {status}: {text}");
    assert!(head.contains("content-type: application/problem+json"), "{path}: {head}");
    let document: serde_json::Value = serde_json::from_slice(body).unwrap();
    let detail = document["detail"].as_str().unwrap();
    // What the command line calls by its path is here the body or a part.
    assert!(detail.contains(wanted) || status == 413, "{path}: {wanted:?} should be in: {detail}");
}

#[test]
fn it_gives_the_bytes_of_the_command_line() {
    let (served, input) = (Served::start(), checkpoint());
    let bytes = std::fs::read(&input).unwrap();
    let folder = Folder::new();
    for format in ["sym8", "nf4", "q4_0"] {
        folder.ok(&["quantize", input.to_str().unwrap(), "-o", format, "--format", format, "--device", "cpu"]);
        let (status, head, body) = served.post(&format!("/v1/quantize?format={format}&container=native"), "", &bytes);
        assert_eq!(status, 200, "{head}");
        assert!(body == folder.read(format), "{format}: another file than the command line's");
        let plain = format!("{format}.plain");
        folder.ok(&["dequantize", format, "-o", &plain, "--dtype", "f32", "--device", "cpu"]);
        let (status, head, body) = served.post("/v1/dequantize?dtype=f32", "", &body);
        assert_eq!(status, 200, "{head}");
        assert!(body == folder.read(&plain), "{format}: other values than the command line's");
    }
    assert_eq!(served.state.path().join("tmp").read_dir().unwrap().count(), 0);
    let (code, log) = served.stop("-TERM");
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopping: what runs is finished first"), "{log}");
}

/// Each line of the log is one JSON object, with the request's id, and without what is secret.
#[test]
fn its_log_and_its_options() {
    let token = "a-token-that-nobody-guesses";
    let toml = Folder::with("wgquant.toml", b"max-body = \"1MiB\"\nqueue = 3\n");
    let config = toml.path("wgquant.toml");
    let variables =
        [("WGQUANT_TOKEN", token), ("WGQUANT_MAX_BODY", "2KiB"), ("WGQUANT_CONFIG", config.to_str().unwrap())];
    let served = Served::with(&[], &variables);
    let body = file(&mixed());
    let (status, ..) = served.post("/v1/quantize?format=sym4", "x-request-id: no-token\r\n", &body[..1000]);
    assert_eq!(status, 401);
    let authorized = format!("authorization: Bearer {token}\r\nx-request-id: too-large\r\n");
    let (status, head, text) = served.post("/v1/quantize?format=sym4", &authorized, &body);
    assert_eq!(status, 413, "the variable wins over the file: {}", String::from_utf8_lossy(&text));
    assert!(head.contains("x-request-id: too-large"), "{head}");
    let (code, log) = served.stop("-INT");
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains(token), "the token is in the log");
    for id in ["no-token", "too-large"] {
        let line = log.lines().find(|line| line.contains(id)).unwrap_or_else(|| panic!("{id}: {log}"));
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["span"]["id"], id, "{line}");
        assert!(line["problem"].is_string() && line["status"].is_u64() && line["milliseconds"].is_u64(), "{line}");
    }
}

/// Many clients at once, whose bodies are more than there is memory: the whole process stays within its cap, on every device.
#[test]
fn its_memory_is_bounded() {
    const CLIENTS: usize = 24;
    const CAP: u64 = 384 << 20;
    let tensors = ["a", "b", "c", "d"].map(|name| floats(name, "F32", &[1024, 1024], 1));
    let body = file(&tensors);
    assert!((CLIENTS * body.len()) as u64 > CAP, "more than it may take");
    let folder = Folder::with("in", &body);
    folder.quantize("sym4", &[]);
    let wanted = folder.read("out");
    for device in adapters().into_iter().chain(["cpu".to_owned()]) {
        let served = Served::with(&["--memory", "384MiB", "--queue", "64"], &[("WGQUANT_DEVICE", &device)]);
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let (status, head, answer) = served.post("/v1/quantize?format=sym4", "", &body);
                    assert!(status == 200 && answer == wanted, "{device}: {head}");
                });
            }
        });
        let status = std::fs::read_to_string(format!("/proc/{}/status", served.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        println!("{device}: at most {} MiB of {} MiB", peak >> 10, CAP >> 20);
        assert!(peak << 10 < CAP, "{device}: {peak} KiB");
    }
}

/// One that stops waits for what runs; a second signal ends it at once.
#[test]
fn a_second_signal_ends_it_at_once() {
    let mut served = Served::start();
    let mut stream = TcpStream::connect(&served.address).unwrap();
    write!(
        stream,
        "POST /v1/quantize?format=sym4 HTTP/1.1\r\nhost: {}\r\ncontent-length: 9\r\n\r\nhalf",
        served.address
    )
    .unwrap();
    // Until it has begun.
    std::thread::sleep(Duration::from_millis(300));
    served.signal("-TERM");
    std::thread::sleep(Duration::from_millis(500));
    assert!(served.child.try_wait().unwrap().is_none(), "it waits for what runs");
    served.signal("-TERM");
    assert_eq!(served.child.wait().unwrap().code(), Some(143));
}

#[test]
fn what_it_does_not_start_with() {
    let folder = Folder::with("empty", b"");
    folder.write("bad.toml", b"listen = 5\n");
    for (args, wanted) in [
        (&["--listen", "0.0.0.0:0"][..], "can be reached from other machines, and no token is asked for"),
        (&["--token-file", "empty"], "empty: there is no token in it"),
        (&["--token-file", "nowhere"], "nowhere: can't be read"),
        (&["--config", "bad.toml"], "bad.toml: line 1: "),
        (&["--memory", "100MiB"], "of memory are too little for 1 device"),
        (&["--device", "abacus"], "no GPU adapter matches \"abacus\""),
        (&["--log", "a=b=c"], "--log \"a=b=c\""),
        (&["--queue", "0"], "--queue is 0, and from 1 to 1000000 it may be"),
        (&["--state", "empty"], "can't be made"),
    ] {
        let mut all = vec!["serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--state", "state"];
        // Said twice is an error of its own.
        for option in args.iter().step_by(2) {
            if let Some(at) = all.iter().position(|arg| arg == option) {
                all.drain(at..at + 2);
            }
        }
        let output = folder.run(&[&all[..], args].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        let text = stderr(&output);
        assert!(text.starts_with("error: ") && text.lines().count() == 1 && text.contains(wanted), "{args:?}: {text}");
    }
    let taken = Served::start();
    let output = folder.run(&["serve", "--listen", &taken.address, "--device", "cpu", "--state", "state"]);
    assert!(stderr(&output).contains("can't be listened on: Address already in use"), "{}", stderr(&output));
}
