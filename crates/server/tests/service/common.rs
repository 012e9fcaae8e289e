//! A service in this process, what is sent to it, and small checkpoints.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};
use wgquant_server::{App, Args, Server};

/// Nothing here takes longer on a machine that is not busy.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A service that runs until this is dropped.
pub(crate) struct Service {
    pub(crate) app: App,
    pub(crate) address: SocketAddr,
    pub(crate) state: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Service {
    /// On the CPU.
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    /// With other options.
    pub(crate) fn with(change: impl FnOnce(&mut Args)) -> Self {
        let state = tempfile::tempdir().expect("a temporary folder");
        let mut args = Args {
            listen: Some("127.0.0.1:0".parse().expect("an address")),
            device: Some("cpu".to_owned()),
            state: Some(state.path().to_owned()),
            ..Args::default()
        };
        change(&mut args);
        let config = args.resolve().expect("a configuration");
        let (started, starts) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let server = Server::open(config).await.expect("a service");
                started.send((server.app(), server.address().expect("an address"))).expect("someone waits");
                server.serve(async { drop(stopped.await) }).await;
            });
        });
        let (app, address) = starts.recv_timeout(TIMEOUT).expect("it starts");
        Self { app, address, state, stop: Some(stop), thread: Some(thread) }
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it ends well");
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a socket");
        stream.set_write_timeout(Some(TIMEOUT)).expect("a socket");
        stream
    }

    /// Sends a request with these header lines and this body, and reads the answer.
    pub(crate) fn send(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.connect();
        write!(stream, "{}", self.head(line, headers, Some(body.len()))).expect("sent");
        stream.write_all(body).expect("sent");
        Answer::read(&mut stream)
    }

    /// A request's head; unless they are among the headers, with Host and Content-Length.
    pub(crate) fn head(&self, line: &str, headers: &[(&str, &str)], n_bytes: Option<usize>) -> String {
        let has = |name: &str| headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let mut head = format!("{line} HTTP/1.1\r\n");
        if !has("host") {
            head += &format!("host: {}\r\n", self.address);
        }
        if let Some(n) = n_bytes.filter(|_| !has("content-length") && !has("transfer-encoding")) {
            head += &format!("content-length: {n}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), &[], &[])
    }

    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.send(&format!("POST {path}"), &[], body)
    }

    /// It is alive, and does what it should, whatever else is on its way.
    pub(crate) fn is_well_beside(&self) {
        let answer = self.post("/v1/quantize?format=sym4", &file(&[floats("a", &[64, 64], 1)]));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// The same, and nothing is left of what was before.
    pub(crate) fn is_well(&self) {
        self.is_well_beside();
        // What is done gives back what it took, a moment later.
        wait_for("its room", || self.app.budget.memory().0 == 0 && self.app.budget.disk().0 == 0);
        assert_eq!(self.state.path().join("tmp").read_dir().expect("a folder").count(), 0, "nothing is left");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A test that fails already needs no second panic.
            let _ = thread.join();
        }
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads one answer off a connection.
    pub(crate) fn read(stream: &mut TcpStream) -> Self {
        Self::try_read(stream).expect("an answer")
    }

    pub(crate) fn try_read(stream: &mut TcpStream) -> std::io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let broken = || std::io::Error::other(format!("no answer: {line:?}"));
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
                None => break,
            }
        }
        let length = headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.parse());
        let mut body = Vec::new();
        match length {
            Some(length) => {
                body.resize(length.map_err(std::io::Error::other)?, 0);
                reader.read_exact(&mut body)?;
            }
            None => drop(reader.read_to_end(&mut body)?),
        }
        Ok(Self { status, headers, body })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// It must be a problem document with this status, and this in its sentence.
    pub(crate) fn is_problem(&self, status: u16, wanted: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let document = self.json();
        assert_eq!(document["status"], status);
        assert!(document["type"].as_str().is_some_and(|kind| kind.starts_with("urn:wgquant:problem:")), "{document}");
        let detail = document["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(wanted), "{wanted:?} should be in: {detail}");
        for path in ["/tmp", ".rs", "/home", "/root"] {
            assert!(!self.text().contains(path), "a path of the service leaks: {document}");
        }
        document
    }
}

/// Waits until it is so.
pub(crate) fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: it never came");
}

/// A tensor to be written.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) name: &'static str,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn tensor(name: &'static str, dtype: &'static str, shape: &[u64], bytes: Vec<u8>) -> Tensor {
    Tensor { name, dtype, shape: shape.to_vec(), bytes }
}

/// An `f32` tensor of values between -1 and 1 that differ from seed to seed.
pub(crate) fn floats(name: &'static str, shape: &[u64], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f32::from(i16::from_le_bytes([state.to_le_bytes()[6], state.to_le_bytes()[7]])) / 32768.0
    };
    let n = shape.iter().product::<u64>();
    tensor(name, "F32", shape, (0..n).flat_map(|_| next().to_le_bytes()).collect())
}

/// A safetensors file of these tensors, one after the other.
pub(crate) fn file(tensors: &[Tensor]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for tensor in tensors {
        let start = data.len();
        data.extend(&tensor.bytes);
        let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()] });
        header.insert(tensor.name.to_owned(), entry);
    }
    raw_file(&Value::Object(header).to_string(), &data)
}

/// A file with this header, whatever it says.
pub(crate) fn raw_file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut header = header.as_bytes().to_vec();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
}

/// Weights and what is copied beside them.
pub(crate) fn mixed() -> Vec<Tensor> {
    vec![
        floats("a.weight", &[70, 61], 1),
        tensor("ids", "I64", &[3], (0..24).collect()),
        floats("b.weight", &[65, 65], 2),
        floats("norm", &[64], 3),
        tensor("empty", "F32", &[0, 64], Vec::new()),
    ]
}

/// The real checkpoint, which `cargo xtask test` fetches.
pub(crate) fn checkpoint() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.fixtures/all-minilm-l6-v2/model.safetensors");
    assert!(path.exists(), "{} is missing: run `cargo xtask test`", path.display());
    path
}
