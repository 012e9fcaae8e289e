//! The page at `/`, in a headless Chromium.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wgquant_browser::Page;

use crate::common::{Folder, file, mixed};
use crate::service::{Service, job};
use crate::submitted::{large, small};

/// A page of the service, and the folder that its downloads go to.
fn open(folder: &Folder, service: &Service) -> Page {
    let mut page = Page::open_url(&format!("http://{}/", service.address));
    let downloads = folder.path("downloads");
    std::fs::create_dir_all(&downloads).unwrap();
    page.call("Browser.setDownloadBehavior", json!({ "behavior": "allow", "downloadPath": downloads }));
    page
}

fn download(folder: &Folder, name: &str) -> Vec<u8> {
    let path = folder.path("downloads").join(name);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !path.exists() {
        assert!(Instant::now() < deadline, "{name} was never saved");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::read(path).unwrap()
}

/// Drops a file onto the page with the mouse.
fn drop_file(page: &mut Page, path: &std::path::Path) {
    let place = page.eval(
        "(() => { const r = document.getElementById('drop').getBoundingClientRect(); return [r.x + r.width / 2, r.y + 20]; })()",
    );
    let data = json!({ "items": [], "files": [path], "dragOperationsMask": 1 });
    for kind in ["dragEnter", "dragOver", "drop"] {
        page.call("Input.dispatchDragEvent", json!({ "type": kind, "x": place[0], "y": place[1], "data": data }));
    }
}

/// Keeps a picture, where the one who looks at it wants it.
fn picture(page: &mut Page, name: &str) {
    if let Some(folder) = std::env::var_os("WGQUANT_TEST_PICTURES") {
        let shot = page.call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true }));
        let path = std::path::Path::new(&folder).join(format!("{name}.png.base64"));
        std::fs::write(path, shot["data"].as_str().unwrap()).unwrap();
    }
}

#[test]
fn a_dropped_file_comes_back_compressed() {
    let folder = small();
    folder.write("model.safetensors", &file(&mixed()));
    let service = Service::start(&folder, &[]);
    let mut page = open(&folder, &service);
    page.wait(
        "document.querySelectorAll('#format option').length > 3 && document.querySelector('#devices li') !== null",
    );
    assert_eq!(page.eval("document.querySelector('#devices').textContent"), "CPU");
    drop_file(&mut page, &folder.path("model.safetensors"));
    page.wait("document.querySelector('#files a') !== null");
    assert_eq!(page.eval("document.querySelector('#files .state').textContent"), "done");
    page.click("#files a");
    let saved = download(&folder, "model-nf4.safetensors");
    let report =
        folder.json(&["quantize", "model.safetensors", "-o", "expected", "--format", "nf4", "--device", "cpu"]);
    assert!(saved == folder.read("expected"), "the bytes of the command line");
    folder.write("downloads/again", &saved);
    let shown = folder.json(&["inspect", "downloads/again"]);
    let digests = |of: &Value, key: &str| -> Vec<Value> {
        of["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|tensor| !tensor["digest"].is_null())
            .map(|tensor| tensor[key].clone())
            .collect()
    };
    assert_eq!(digests(&shown, "digest"), digests(&report, "digest"));
    // Chosen by the keyboard's way, in another format; and one that is no checkpoint.
    page.eval("(() => { const s = document.getElementById('format'); s.value = 'sym8'; s.dispatchEvent(new Event('change')); })()");
    choose(&mut page, &folder.path("model.safetensors"));
    page.wait("document.querySelectorAll('#files a').length === 2");
    page.click("#files a");
    folder.ok(&["quantize", "model.safetensors", "-o", "expected2", "--format", "sym8", "--device", "cpu"]);
    assert!(download(&folder, "model-sym8.safetensors") == folder.read("expected2"));
    folder.write("bad.safetensors", b"\x02\0\0\0\0\0\0\0{]");
    choose(&mut page, &folder.path("bad.safetensors"));
    page.wait("document.querySelector('#files .state').textContent === 'failed'");
    let error = page.eval("document.querySelector('#files .error').textContent");
    assert!(error.as_str().unwrap().contains("safetensors"), "{error}");
    picture(&mut page, "files");
}

/// Chooses a file as one does with the keyboard.
fn choose(page: &mut Page, path: &std::path::Path) {
    let document = page.call("DOM.getDocument", json!({}));
    let found = json!({ "nodeId": document["root"]["nodeId"], "selector": "#file" });
    let node = page.call("DOM.querySelector", found);
    page.call("DOM.setFileInputFiles", json!({ "nodeId": node["nodeId"], "files": [path] }));
}

#[test]
fn a_jobs_bar_moves() {
    let folder = large(24);
    let service = Service::start(&folder, &[]);
    let mut page = open(&folder, &service);
    page.wait("document.getElementById('no-jobs').hidden === false");
    // Submitted with the keyboard alone.
    page.eval("document.querySelector('#submit-box summary').focus()");
    page.press("Enter");
    page.wait("document.getElementById('submit-box').open");
    page.press("Tab");
    assert_eq!(page.eval("document.activeElement.id"), "source");
    page.call("Input.insertText", json!({ "text": "in" }));
    page.press("Tab");
    page.call("Input.insertText", json!({ "text": "out" }));
    page.eval("document.getElementById('job-verify').value = 'full'");
    page.press("Enter");
    page.wait(
        "document.querySelector('#jobs progress') !== null && document.querySelector('#jobs progress').position > 0",
    );
    let first = page.eval("document.querySelector('#jobs progress').position").as_f64().unwrap();
    let waiting = service.take(&job("in", "out2", "sym4"));
    page.wait(&format!("document.querySelector('#jobs progress[value]').position > {first}"));
    page.wait(&format!("document.getElementById('job-{waiting}') !== null"));
    let text = page.eval("[...document.querySelectorAll('#jobs .text')].map((e) => e.textContent).join('\\n')");
    assert!(text.as_str().unwrap().contains("% of 3.2 GB") && text.as_str().unwrap().contains("left"), "{text}");
    for (width, scheme) in [(360, "light"), (360, "dark"), (1440, "light"), (1440, "dark")] {
        page.resize(width);
        page.color_scheme(scheme);
        let overflow = page.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert_eq!(overflow, 0, "at {width} pixels");
        picture(&mut page, &format!("jobs-{width}-{scheme}"));
    }
    // One of them is cancelled, the other ends.
    page.click(&format!("#job-{waiting} button"));
    page.wait(&format!("document.querySelector('#job-{waiting} .state').textContent === 'cancelled'"));
    page.wait("[...document.querySelectorAll('#jobs .state')].some((e) => e.textContent === 'done')");
    let done = page.eval("[...document.querySelectorAll('#jobs .text')].map((e) => e.textContent).join('\\n')");
    assert!(done.as_str().unwrap().contains("1.6 GB to"), "{done}");
}

/// Where a token is set, the page asks for it, and nothing is shown without one.
#[test]
fn the_page_asks_for_a_token() {
    let folder = small();
    folder.write("tokens", b"a-token-for-this-test\n");
    let service = Service::start(&folder, &["--token-file", "tokens"]);
    service.submit(&job("in", "out", "nf4")).problem(401);
    let mut page = open(&folder, &service);
    page.wait("!document.getElementById('login').hidden && document.getElementById('main').hidden");
    assert_eq!(page.eval("document.activeElement.id"), "token");
    page.call("Input.insertText", json!({ "text": "a-token-that-is-wrong" }));
    page.press("Enter");
    page.wait("document.getElementById('trouble').textContent.includes('not one of those')");
    page.call("Input.insertText", json!({ "text": "a-token-for-this-test" }));
    page.press("Enter");
    page.wait("document.getElementById('login').hidden && document.querySelectorAll('#format option').length > 3");
    choose(&mut page, &folder.path("data/in"));
    page.wait("document.querySelector('#files a') !== null");
}

/// What the page may do, and that texts of others are texts.
#[test]
fn the_page_is_its_own() {
    let folder = small();
    let service = Service::start(&folder, &[]);
    let answer = service.get("/");
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    for path in ["/", "/page.css", "/page.js"] {
        let answer = service.get(path);
        assert_eq!((answer.status, answer.header("x-content-type-options")), (200, Some("nosniff")), "{path}");
        let foreign = service.send(&format!("GET {path}"), &[("Origin", "http://evil.example")], b"");
        assert_eq!(foreign.status, 403, "{path}");
    }
    let name = "<img src=x onerror=document.title=1>";
    folder.write(&format!("data/{name}"), &folder.read("data/in"));
    let id = service.take(&job(name, "out", "nf4"));
    let mut page = open(&folder, &service);
    page.wait(&format!("document.getElementById('job-{id}') !== null"));
    assert_eq!(page.eval("document.title"), "wgquant");
    let shown = page.eval(&format!("document.querySelector('#job-{id} .name').textContent"));
    assert_eq!(shown, format!("{name} → out"));
    assert_eq!(page.eval("document.querySelectorAll('#jobs img').length"), 0);
}

/// Texts can be read: four and a half to one against what they stand on, in both schemes.
#[test]
fn texts_can_be_read() {
    let folder = small();
    let service = Service::start(&folder, &[]);
    let id = service.take(&job("in", "out", "nf4"));
    service.ended(&id, "done");
    let mut page = open(&folder, &service);
    page.wait("document.querySelector('#jobs .state.done') !== null");
    for scheme in ["light", "dark"] {
        page.color_scheme(scheme);
        let poor = page.eval(CONTRASTS);
        assert_eq!(poor, json!([]), "{scheme}");
    }
}

/// Elements with text that is hard to read.
const CONTRASTS: &str = r"(() => {
    const parse = (c) => c.match(/[\d.]+/g).map(Number);
    const light = (c) => {
        const [r, g, b] = parse(c).map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; const p = parse(c); if (p.length < 4 || p[3] === 1) return c; } return 'rgb(255,255,255)'; };
    const poor = [];
    for (const e of document.querySelectorAll('body *')) {
        const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        if (!text || !e.getClientRects().length) continue;
        const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(e.tagName + ' ' + e.textContent.trim().slice(0, 30));
    }
    return poor;
})()";
