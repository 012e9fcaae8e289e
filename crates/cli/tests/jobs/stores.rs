//! Jobs from and to an S3-compatible store: moto's server, on this machine alone.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::{Folder, Tensor, file, floats};
use crate::http::{self, Answer};
use crate::service::{Service, job};
use crate::submitted::{names, same};

/// A store with the bucket `models`.
struct Store {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Store {
    fn start(variables: &[(&str, &str)]) -> Self {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.fixtures/python/venv/bin/python");
        let mut command = Command::new(&python);
        command.args(["-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", "0"]);
        command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let spawned = command.spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{}: {error}: run `cargo xtask test`", python.display()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| kept.lock().unwrap().push(line)));
        let deadline = Instant::now() + Duration::from_secs(60);
        let address = loop {
            let found = log.lock().unwrap().iter().find_map(|line: &String| {
                line.split_once("Running on http://").and_then(|(_, address)| address.trim().parse().ok())
            });
            if let Some(address) = found {
                break address;
            }
            assert!(Instant::now() < deadline, "no store: {:?}: run `cargo xtask test`", log.lock().unwrap());
            assert!(child.try_wait().unwrap().is_none(), "no store: {:?}", log.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        };
        let store = Self { child, address, log };
        assert_eq!(store.send("PUT /models", b"").status, 200);
        store
    }

    fn send(&self, head: &str, body: &[u8]) -> Answer {
        // Who asks without a name is let at nothing that the service has written; what is signed is not looked at.
        const NAME: &str = "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request, \
                            SignedHeaders=host, Signature=0";
        http::open(self.address, head, &[("Authorization", NAME)], body).unwrap().read().unwrap()
    }

    fn put(&self, key: &str, bytes: &[u8]) {
        assert_eq!(self.send(&format!("PUT /models/{key}"), bytes).status, 200, "{key}");
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        let answer = self.send(&format!("GET /models/{key}"), b"");
        (answer.status == 200).then_some(answer.body)
    }

    /// The keys that begin so, sorted.
    fn keys(&self, prefix: &str) -> Vec<String> {
        let text = self.send(&format!("GET /models?list-type=2&prefix={prefix}"), b"").text();
        let mut keys: Vec<_> =
            text.split("<Key>").skip(1).map(|rest| rest.split_once("</Key>").unwrap().0.to_owned()).collect();
        keys.sort();
        keys
    }

    /// Uploads in parts that are neither complete nor given up.
    fn n_uploads(&self) -> usize {
        self.send("GET /models?uploads", b"").text().matches("<UploadId>").count()
    }

    /// Names of files that were put under a key, in order.
    fn puts(&self, prefix: &str) -> Vec<String> {
        let log = self.log.lock().unwrap();
        let put = format!("/models/{prefix}/");
        let name = |line: &String| {
            let (method, rest) = line.split_once(&put)?;
            let method = method.rsplit('"').next()?.trim();
            let name = rest.split([' ', '?']).next()?;
            // The last step of an upload in parts names it too.
            let counts =
                method == "PUT" && !rest.contains("partNumber") || method == "POST" && rest.contains("uploadId");
            counts.then(|| name.to_owned())
        };
        log.iter().filter_map(name).collect()
    }

    /// A service whose environment leads to this store.
    fn service(&self, folder: &Folder, more: &[&str]) -> Service {
        let endpoint = format!("http://{}", self.address);
        let variables = [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "testing"),
            ("AWS_SECRET_ACCESS_KEY", "testing-secret"),
            ("AWS_REGION", "us-east-1"),
        ];
        Service::start_with(folder, &[&["--root", "s3://models/team"], more].concat(), &variables)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const NAMES: [&str; 12] = ["t00", "t01", "t02", "t03", "t04", "t05", "t06", "t07", "t08", "t09", "t10", "t11"];

fn weights(n: usize) -> Vec<Tensor> {
    NAMES.iter().zip(1..).take(n).map(|(name, seed)| floats(name, "F32", &[1024, 1024], seed)).collect()
}

/// A model in two shards, on the disk at `model` and in the store at `team/model`.
fn model(store: &Store) -> Folder {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("model")).unwrap();
    let (first, second) = (weights(12)[..6].to_vec(), weights(12)[6..].to_vec());
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let map: serde_json::Map<_, _> =
        NAMES.iter().enumerate().map(|(ix, name)| ((*name).to_owned(), shards[ix / 6].into())).collect();
    for (name, bytes) in [
        (shards[0], file(&first)),
        (shards[1], file(&second)),
        ("model.safetensors.index.json", json!({ "weight_map": map }).to_string().into_bytes()),
        ("config.json", b"{\"model_type\":\"llama\"}".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("pytorch_model.bin", b"of no use".to_vec()),
        // What a console makes for a folder.
        ("", Vec::new()),
    ] {
        if !name.is_empty() {
            folder.write(&format!("model/{name}"), &bytes);
        }
        store.put(&format!("team/model/{name}"), &bytes);
    }
    folder
}

/// The objects under a key are the files of a folder.
fn same_objects(store: &Store, prefix: &str, folder: &Path) {
    let keys: Vec<_> = names(folder).into_iter().map(|name| format!("{prefix}/{name}")).collect();
    assert_eq!(store.keys(&format!("{prefix}/")), keys);
    for key in keys {
        let name = key.rsplit('/').next().unwrap();
        assert!(store.get(&key).unwrap() == std::fs::read(folder.join(name)).unwrap(), "{key}");
    }
    assert_eq!(store.n_uploads(), 0, "nothing is left under way");
}

/// From store to store, from store to disk and from disk to store: the bytes of the command line.
#[test]
fn from_and_to_a_store() {
    let store = Store::start(&[]);
    let folder = model(&store);
    let service = store.service(&folder, &[]);
    let args = ["quantize", "model", "-o", "expected", "--format", "nf4", "--device", "cpu", "--verify", "full"];
    folder.ok(&args);
    let id = service.take(&json!({ "source": "s3://models/team/model", "destination": "s3://models/team/out", "format": "nf4", "verify": "full" }));
    service.ended(&id, "done");
    same_objects(&store, "team/out", &folder.path("expected"));
    let puts = store.puts("team/out");
    assert_eq!(puts.len(), names(&folder.path("expected")).len(), "each is put once: {puts:?}");
    assert_eq!(puts.last().map(String::as_str), Some("config.json"), "{puts:?}");
    let config = puts.iter().position(|name| name == "config.json").unwrap();
    let weights = puts.iter().rposition(|name| name.ends_with(".safetensors")).unwrap();
    assert!(weights < config, "what readers look for comes after the weights: {puts:?}");

    let id = service.take(&job("s3://models/team/model", "out", "nf4"));
    service.ended(&id, "done");
    same(&folder.path("data/out"), &folder.path("expected"));

    // A file of more than one part, from the disk.
    folder.write("data/in", &file(&crate::stores::weights(12)));
    folder.ok(&["quantize", "data/in", "-o", "one", "--format", "sym8", "--device", "cpu"]);
    let id = service.take(&job("in", "s3://models/team/one.safetensors", "sym8"));
    service.ended(&id, "done");
    assert!(folder.read("one").len() > 8 << 20, "several parts");
    assert!(store.get("team/one.safetensors").unwrap() == folder.read("one"));
    assert_eq!(store.n_uploads(), 0);
    // And back from there, as a file.
    store.put("team/in.safetensors", &folder.read("data/in"));
    let id = service.take(&job("s3://models/team/in.safetensors", "one", "sym8"));
    service.ended(&id, "done");
    assert!(folder.read("data/one") == folder.read("one"));
    is_emptied(&folder.path("state/staging"));
    service.is_alive();
}

#[test]
fn what_a_store_refuses_is_said() {
    let store = Store::start(&[]);
    let folder = model(&store);
    let more = ["--root", "s3://missing", "--disk", "1MB"];
    let service = store.service(&folder, &more);
    let fails = |source: &str, destination: &str, status: u16, wanted: &str| {
        let id = service.take(&job(source, destination, "nf4"));
        let error = service.ended(&id, "failed")["error"].clone();
        let sentence = error["detail"].as_str().unwrap();
        assert!(sentence.contains(wanted), "{wanted:?} should be in: {sentence}");
        assert_eq!(error["status"], status, "{error}");
        assert!(!sentence.contains("127.0.0.1") && !sentence.contains("state"), "{sentence}");
    };
    fails("s3://models/team/none", "out", 404, "the source \"s3://models/team/none\" is not there");
    fails("s3://missing/model", "out", 404, "s3://missing/model");
    store.put("team/taken", b"x");
    fails("s3://models/team/model", "s3://models/team/taken", 409, "exists already: give another name, or force");
    for (destination, force) in
        [("team/model", false), ("team/model", true), ("team/model/config.json", true), ("team", true)]
    {
        let mut request = job("s3://models/team/model", &format!("s3://models/{destination}"), "nf4");
        request["force"] = force.into();
        let why = service.submit(&request).problem(400);
        assert!(why.contains("is the source, lies in it or around it"), "{why}");
    }
    store.put("team/bad.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x00{}");
    fails(
        "s3://models/team/bad.safetensors",
        "out",
        422,
        "s3://models/team/bad.safetensors has a header that is longer",
    );
    store.put("team/notes/a.txt", b"x");
    fails("s3://models/team/notes", "out", 422, "s3://models/team/notes: is a folder, and has no model.safetensors");
    fails("s3://models/team/model", "s3://models/team/large", 413, "bytes, which are made on the service's disk first");
    for outside in ["s3://models/other/model", "s3://elsewhere/team/model", "s3://models/team/../x"] {
        service.submit(&job(outside, "out", "nf4")).problem(403);
    }
    assert_eq!(names(&folder.path("data")), Vec::<String>::new());
    assert_eq!(store.keys("team/large"), Vec::<String>::new());
    service.is_alive();
}

/// A store that lets nobody in.
#[test]
fn wrong_credentials() {
    let store = Store::start(&[("INITIAL_NO_AUTH_ACTION_COUNT", "1")]);
    let folder = Folder::new();
    let service = store.service(&folder, &[]);
    let id = service.take(&job("s3://models/team/model", "out", "nf4"));
    let error = service.ended(&id, "failed")["error"].clone();
    assert!(error["detail"].as_str().unwrap().contains("the store refuses the service's credentials"), "{error}");
    service.is_alive();
}

/// A destination that is replaced: nothing of the old one remains, and other objects are left alone.
#[test]
fn a_destination_is_replaced_by_force() {
    let store = Store::start(&[]);
    let folder = model(&store);
    let service = store.service(&folder, &[]);
    for name in ["config.json", "model.safetensors", "old.txt"] {
        store.put(&format!("team/out/{name}"), b"old");
    }
    store.put("team/out-other/config.json", b"other");
    let id = service.take(&json!({ "source": "s3://models/team/model", "destination": "s3://models/team/out", "format": "nf4", "force": true }));
    service.ended(&id, "done");
    folder.ok(&["quantize", "model", "-o", "expected", "--format", "nf4", "--device", "cpu"]);
    same_objects(&store, "team/out", &folder.path("expected"));
    assert_eq!(store.get("team/out-other/config.json").unwrap(), b"other");
    // What is no model is not replaced, whatever is asked for.
    store.put("team/photos/a.jpg", b"x");
    let id = service.take(&json!({ "source": "s3://models/team/model", "destination": "s3://models/team/photos", "format": "nf4", "force": true }));
    let error = service.ended(&id, "failed")["error"].clone();
    assert!(error["detail"].as_str().unwrap().contains("no model, so it is not replaced"), "{error}");
    assert_eq!(store.keys("team/photos"), ["team/photos/a.jpg"]);
}

/// Killed while it reads, makes and uploads: what has a final name is whole, and the next process ends it.
#[test]
fn killed_on_the_way_to_a_store() {
    let store = Store::start(&[]);
    let folder = model(&store);
    folder.ok(&["quantize", "model", "-o", "expected", "--format", "sym8", "--device", "cpu"]);
    let mut service = store.service(&folder, &[]);
    let request = json!({ "source": "s3://models/team/model", "destination": "s3://models/team/out", "format": "sym8", "shard_size": "4MB" });
    folder.ok(&["quantize", "model", "-o", "cut", "--format", "sym8", "--device", "cpu", "--shard-size", "4MB"]);
    let id = service.take(&request);
    let mut uploading = 0;
    for kill in 0..6 {
        let phase = if kill < 2 { "quantizing" } else { "uploading" };
        let job = service.wait(&id, |job| job["state"] == "done" || job["progress"]["phase"] == phase);
        if job["state"] == "done" {
            break;
        }
        uploading += usize::from(phase == "uploading");
        service.kill();
        for key in store.keys("team/out/") {
            let name = key.rsplit('/').next().unwrap();
            assert!(store.get(&key).unwrap() == folder.read(&format!("cut/{name}")), "{key} is torn");
        }
        service = store.service(&folder, &[]);
    }
    let done = service.ended(&id, "done");
    assert!(done["attempts"].as_u64().unwrap() >= 3 && uploading >= 1, "{done}: {uploading} while it was uploaded");
    same_objects(&store, "team/out", &folder.path("cut"));
    let puts = store.puts("team/out");
    assert_eq!(puts.last().map(String::as_str), Some("model.safetensors.index.json"), "{puts:?}");
}

/// An object that is another in the middle of a job.
#[test]
fn an_object_that_changes() {
    let store = Store::start(&[]);
    let folder = Folder::new();
    let mut bytes = file(&weights(12));
    store.put("team/in.safetensors", &bytes);
    let service = store.service(&folder, &[]);
    let id = service.take(&json!({ "source": "s3://models/team/in.safetensors", "destination": "out", "format": "nf4", "verify": "full" }));
    service.wait(&id, |job| job["progress"]["done_bytes"].as_u64().is_some_and(|n| n > 0));
    *bytes.last_mut().unwrap() ^= 1;
    store.put("team/in.safetensors", &bytes);
    let error = service.ended(&id, "failed")["error"].clone();
    assert!(
        error["detail"].as_str().unwrap().contains("s3://models/team/in.safetensors: was changed while it was read"),
        "{error}"
    );
    assert_eq!(names(&folder.path("data")), Vec::<String>::new());
}

/// A job that is cancelled while it is uploaded leaves nothing in the store.
#[test]
fn cancelled_on_the_way_to_a_store() {
    let store = Store::start(&[]);
    let folder = model(&store);
    let service = store.service(&folder, &[]);
    let id = service.take(&json!({ "source": "s3://models/team/model", "destination": "s3://models/team/out", "format": "sym8", "shard_size": "1MB" }));
    service.wait(&id, |job| job["progress"]["phase"] == "uploading");
    service.send(&format!("POST /v1/jobs/{id}/cancel"), &[], b"");
    service.ended(&id, "cancelled");
    assert_eq!((store.keys("team/out"), store.n_uploads()), (Vec::new(), 0));
    is_emptied(&folder.path("state/staging"));
}

/// What is kept for a job goes a moment after it has ended.
fn is_emptied(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !names(folder).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", names(folder));
        std::thread::sleep(Duration::from_millis(10));
    }
}
