//! A headless Chromium that does what a test says: the DevTools protocol through a pair of pipes, JSON between zero bytes.
#![expect(clippy::missing_panics_doc, reason = "for tests: what is not as it should be ends one")]

mod serve;

pub use serve::{Request, Server};

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

/// No answer takes longer, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What makes WebGPU work where there is no GPU, on the software that the browser brings.
pub const WEBGPU: &[&str] = &["--enable-unsafe-webgpu"];

/// A page in a browser of its own.
#[derive(Debug)]
pub struct Page {
    browser: Child,
    requests: ChildStdin,
    answers: Receiver<Value>,
    session: Option<String>,
    n_requests: u64,
    /// What the page's console has of errors, and exceptions that nothing caught.
    complaints: Vec<String>,
    /// What the browser keeps, until it ends.
    _profile: tempfile::TempDir,
}

impl Page {
    /// Opens a file, and waits until its scripts have run.
    #[must_use]
    pub fn open(file: &Path) -> Self {
        Self::open_url(&format!("file://{}", file.display()))
    }

    /// The same with any address.
    ///
    /// # Panics
    /// As [`Self::open`].
    #[must_use]
    pub fn open_url(url: &str) -> Self {
        let mut page = Self::start(&[]);
        page.go_to(url);
        page
    }

    /// Starts a browser with an empty page, with these arguments besides.
    #[must_use]
    pub fn start(arguments: &[&str]) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        // The browser listens on descriptor 3 and answers on 4.
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1"]).arg(chromium());
        command.args(["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-dev-shm-usage"]);
        command.args(["--no-first-run", "--disable-background-networking", "--disable-component-update"]);
        command.args(arguments).arg(format!("--user-data-dir={}", profile.path().display()));
        // Whatever it makes goes away with its profile, whichever folders the tests were given.
        command.env("XDG_RUNTIME_DIR", profile.path()).env("HOME", profile.path());
        let mut browser = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, answers) = channel();
        let from_browser = BufReader::new(browser.stdout.take().unwrap());
        std::thread::spawn(move || {
            for message in from_browser.split(0).map_while(Result::ok) {
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    break;
                }
            }
        });
        let requests = browser.stdin.take().unwrap();
        let mut page = Self {
            browser,
            requests,
            answers,
            session: None,
            n_requests: 0,
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = page.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        page.session = page.call("Target.attachToTarget", attach)["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        page
    }

    /// Goes to an address, and waits until its scripts have run.
    pub fn go_to(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
        let wanted = serde_json::to_string(url).unwrap();
        self.wait(&format!("location.href === {wanted} && document.readyState === 'complete'"));
    }

    /// Sends a command and gives its answer; of events that come between only complaints are kept.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.call_within(PATIENCE, method, params)
    }

    fn call_within(&mut self, patience: Duration, method: &str, params: Value) -> Value {
        self.n_requests += 1;
        let mut request = json!({ "id": self.n_requests, "method": method, "params": params });
        if let Some(session) = &self.session {
            request["sessionId"] = session.as_str().into();
        }
        self.requests.write_all(format!("{request}\0").as_bytes()).unwrap();
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.answers.recv_timeout(left);
            let answer =
                answer.unwrap_or_else(|error| panic!("{} gave no answer to {method}: {error}", chromium().display()));
            if answer["id"] == self.n_requests {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
            self.complaints.extend(complaint(&answer));
        }
    }

    /// Ends the browser's process that drives its GPU, as a driver's fault would.
    pub fn end_gpu_process(&self) {
        let mut processes = vec![self.browser.id().to_string()];
        while let Some(process) = processes.pop() {
            let of = |what: &str| std::fs::read_to_string(format!("/proc/{process}/{what}")).unwrap_or_default();
            if of("cmdline").contains("--type=gpu-process") {
                assert!(Command::new("kill").args(["-KILL", &process]).status().unwrap().success());
                return;
            }
            for thread in std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
                let children = of(&format!("task/{}/children", thread.file_name().display()));
                processes.extend(children.split_whitespace().map(str::to_owned));
            }
        }
        panic!("the browser has no process for its GPU");
    }

    /// What was complained of so far.
    #[must_use]
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// The value of a JavaScript expression.
    pub fn eval(&mut self, expression: &str) -> Value {
        self.eval_within(PATIENCE, expression)
    }

    /// The value of an expression that may take longer.
    pub fn eval_within(&mut self, patience: Duration, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call_within(patience, "Runtime.evaluate", params);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub fn wait(&mut self, expression: &str) {
        self.wait_within(PATIENCE, expression);
    }

    /// Waits longer.
    pub fn wait_within(&mut self, patience: Duration, expression: &str) {
        let deadline = Instant::now() + patience;
        while self.eval(expression) != true {
            assert!(Instant::now() < deadline, "never true: {expression}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Makes the window so wide.
    pub fn resize(&mut self, width: u32) {
        let metrics = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Puts files into a file input.
    pub fn choose_files(&mut self, selector: &str, files: &[&Path]) {
        let document = self.call("DOM.getDocument", json!({}));
        let found = json!({ "nodeId": document["root"]["nodeId"], "selector": selector });
        let node = self.call("DOM.querySelector", found);
        self.call("DOM.setFileInputFiles", json!({ "files": files, "nodeId": node["nodeId"] }));
    }

    /// Drops a file on what a selector finds.
    pub fn drop_file(&mut self, selector: &str, file: &Path) {
        let [x, y] = self.place_of(selector);
        let data = json!({ "items": [], "files": [file], "dragOperationsMask": 1 });
        for kind in ["dragEnter", "dragOver", "drop"] {
            self.call("Input.dispatchDragEvent", json!({ "type": kind, "x": x, "y": y, "data": data }));
        }
    }

    /// Lets downloads go to a folder, under the names that the page gives them.
    pub fn download_to(&mut self, folder: &Path) {
        let session = self.session.take();
        let behavior = json!({ "behavior": "allow", "downloadPath": folder });
        self.call("Browser.setDownloadBehavior", behavior);
        self.session = session;
    }

    /// A picture of the whole page, as PNG.
    pub fn screenshot(&mut self) -> Vec<u8> {
        // The window's width: its scroll bar is not in the picture.
        let clip = self.eval(
            "({ x: 0, y: 0, width: innerWidth, height: Math.max(innerHeight, document.documentElement.scrollHeight), scale: 1 })",
        );
        let shot = self.call("Page.captureScreenshot", json!({ "captureBeyondViewport": true, "clip": clip }));
        base64::prelude::BASE64_STANDARD.decode(shot["data"].as_str().unwrap_or_default()).unwrap()
    }

    /// Asks for `light` or `dark`.
    pub fn color_scheme(&mut self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// The middle of what a selector finds, scrolled to.
    fn place_of(&mut self, selector: &str) -> [f64; 2] {
        let place = self.eval(&format!(
            "(() => {{ const e = document.querySelector({selector:?}); e.scrollIntoView({{ block: 'center', inline: 'center' }}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        ));
        [0, 1].map(|ix| place[ix].as_f64().unwrap())
    }

    /// Clicks on what a selector finds, with the mouse.
    pub fn click(&mut self, selector: &str) {
        let place = self.place_of(selector);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Presses a key.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "ArrowDown" => (40, ""),
            " " => (32, " "),
            _ => panic!("no code for the key {key:?}"),
        };
        let event = |kind| json!({ "type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code });
        self.call("Input.dispatchKeyEvent", event(if text.is_empty() { "rawKeyDown" } else { "keyDown" }));
        self.call("Input.dispatchKeyEvent", event("keyUp"));
    }
}

/// What an event complains of, if it does.
fn complaint(event: &Value) -> Option<String> {
    let params = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
        "Log.entryAdded" if params["entry"]["level"] == "error" => Some(params["entry"].to_string()),
        "Runtime.consoleAPICalled" if params["type"] == "error" => Some(params["args"].to_string()),
        _ => None,
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}

/// The browser: what `WGQUANT_TEST_CHROMIUM` names, or else one of the usual names.
fn chromium() -> PathBuf {
    if let Some(path) = std::env::var_os("WGQUANT_TEST_CHROMIUM") {
        return path.into();
    }
    let folders: Vec<_> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let mut files = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    files.find(|file| file.is_file()).unwrap_or_else(|| {
        panic!(
            "there is no Chromium ({}): run `cargo xtask test`, or name one in WGQUANT_TEST_CHROMIUM",
            names.join(", ")
        )
    })
}
