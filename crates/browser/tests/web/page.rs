//! The page: from drop to download, by keyboard, at both widths, and where there is no WebGPU.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use wgquant_browser::{Page, Server, WEBGPU};

use crate::common::{LONG, assert_same, command_line, downloaded, real_checkpoint, serve, site, strings};

/// Opens the page, and counts tasks that hold the main thread.
fn open(arguments: &[&str]) -> (Server, Page) {
    open_after(arguments, "", "127.0.0.1")
}

/// Opens the page after a script of the test's own, from a host of this name.
fn open_after(arguments: &[&str], script: &str, host: &str) -> (Server, Page) {
    let server = serve();
    let mut page = Page::start(arguments);
    page.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script }));
    page.resize(1440);
    page.go_to(&server.url("index.html").replace("127.0.0.1", host));
    page.wait("document.body.dataset.ready === 'true'");
    page.eval(
        "globalThis.longTasks = []; new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((e) => e.duration)))\
         .observe({ type: 'longtask' });",
    );
    (server, page)
}

fn set(page: &mut Page, id: &str, value: &str) {
    page.eval(&format!(
        "{{ const it = document.getElementById('{id}'); it.value = '{value}'; \
                        if (it.value !== '{value}') throw new Error('no such choice'); \
                        it.dispatchEvent(new Event('change')); }}"
    ));
}

/// What the command line makes of the real checkpoint.
fn by_command_line(folder: &Path, format: &str) -> Vec<u8> {
    let output = folder.join(format!("{format}.safetensors"));
    command_line(&[&"--quiet", &"quantize", &real_checkpoint(), &"-o", &output, &"--device=cpu", &"--format", &format]);
    std::fs::read(output).unwrap()
}

/// A picture for people to look at.
fn keep_screenshot(page: &mut Page, name: &str) {
    let folder: PathBuf = site().join("../screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{name}.png")), page.screenshot()).unwrap();
}

fn no_wider_than_the_window(page: &mut Page) {
    let [inside, window] =
        ["document.documentElement.scrollWidth", "innerWidth"].map(|width| page.eval(width).as_u64());
    assert!(inside <= window, "{inside:?} in {window:?}");
}

#[test]
fn from_drop_to_download() {
    let folder = tempfile::tempdir().unwrap();
    let expected = by_command_line(folder.path(), "nf4");
    let (server, mut page) = open(WEBGPU);
    // On a GPU in software it says so, and lets it be chosen.
    assert!(page.eval("device.textContent").as_str().unwrap().contains("only in software"));
    keep_screenshot(&mut page, "empty-1440-light");
    page.drop_file("#drop", &real_checkpoint());
    page.wait("!document.getElementById('start').disabled");
    let chosen = page.eval("chosen.textContent");
    assert!(chosen.as_str().unwrap().ends_with("22,713,728 numbers in 104 tensors, 90.9 MB"), "{chosen}");
    set(&mut page, "format", "nf4");
    set(&mut page, "engine", "gpu");
    page.eval(
        "globalThis.seen = []; new MutationObserver(() => seen.push([progress.value, percent.textContent, rate.textContent]))\
         .observe(document.getElementById('running'), { subtree: true, childList: true, characterData: true });",
    );
    page.click("#start");
    page.wait_within(LONG, "!result.hidden && document.querySelectorAll('#histograms svg').length === 3");
    let seen = page.eval("seen");
    let moved =
        seen.as_array().unwrap().iter().filter(|at| at[0].as_f64().is_some_and(|at| at > 0.0 && at < 1.0)).count();
    assert!(moved > 2 && seen.to_string().contains("/s, "), "it showed no progress: {seen}");

    assert_eq!(page.eval("error.hidden"), true);
    assert_eq!(page.eval("document.querySelector('#tensors tbody').rows.length"), 104);
    assert_eq!(page.eval("document.querySelectorAll('#tensors .marked').length"), 1);
    assert_eq!(page.eval("document.getElementById('total-verified').textContent"), "every byte");
    let bars = page.eval("document.querySelectorAll('#histograms rect.after').length");
    assert_eq!(bars, 3 * 48);
    page.download_to(folder.path());
    page.click("#download");
    assert_same(&downloaded(folder.path(), "model-nf4.safetensors"), &expected, "the download");

    let long = page.eval("longTasks");
    assert!(long.as_array().unwrap().iter().all(|ms| ms.as_f64().unwrap() <= 200.0), "{long}");
    let sent = server.requests();
    assert!(
        sent.len() > 5 && sent.iter().all(|request| request.method == "GET" && request.body_bytes == 0),
        "{sent:?}"
    );
    for width in [1440, 360] {
        page.resize(width);
        for scheme in ["light", "dark"] {
            page.color_scheme(scheme);
            no_wider_than_the_window(&mut page);
            keep_screenshot(&mut page, &format!("result-{width}-{scheme}"));
        }
    }
    assert_eq!(page.complaints(), Vec::<String>::new());
}

#[test]
fn by_keyboard_alone() {
    let (_server, mut page) = open(WEBGPU);
    let focus = |page: &mut Page, wanted: &str| {
        page.press("Tab");
        assert_eq!(page.eval("document.activeElement.id"), wanted);
        let outline = page.eval(
            "(() => { const it = document.activeElement; const shown = it.id === 'file' ? it.parentElement : it; \
             return getComputedStyle(shown).outlineStyle; })()",
        );
        assert_eq!(outline, "solid", "{wanted} does not show that it has the focus");
    };
    focus(&mut page, "file");
    // What opens is the system's dialog, so the file comes as it would from there.
    page.choose_files("#file", &[&real_checkpoint()]);
    page.wait("!document.getElementById('start').disabled");
    focus(&mut page, "format");
    let before = page.eval("format.value");
    page.press("ArrowDown");
    assert_ne!(page.eval("format.value"), before);
    focus(&mut page, "engine");
    focus(&mut page, "verify");
    page.press("ArrowDown");
    assert_eq!(page.eval("verify.value"), "sample");
    focus(&mut page, "start");
    page.press("Enter");
    page.wait("document.activeElement.id === 'cancel'");
    page.press("Enter");
    page.wait("running.hidden && !document.getElementById('start').disabled");
    assert_eq!(page.eval("result.hidden && error.hidden"), true);
    // Again, to its end, from where the focus is now.
    assert_eq!(page.eval("document.activeElement.id"), "start");
    page.press("Enter");
    page.wait_within(LONG, "!result.hidden && document.querySelectorAll('#histograms svg').length === 3");
    assert_eq!(page.eval("document.activeElement.id"), "result-title");
    focus(&mut page, "download");
    let folder = tempfile::tempdir().unwrap();
    page.download_to(folder.path());
    page.press("Enter");
    let name = page.eval("download.download");
    assert!(!downloaded(folder.path(), name.as_str().unwrap()).is_empty());
    assert_eq!(page.complaints(), Vec::<String>::new());
}

/// A browser that knows no WebGPU, one that finds no adapter for it, and one that gives a page over plain HTTP neither that nor
/// files of its own.
#[test]
fn without_webgpu_the_cpu_does_it_in_the_background() {
    let folder = tempfile::tempdir().unwrap();
    let expected = by_command_line(folder.path(), "sym4");
    // Without an argument this browser has no adapter.
    for (script, host, sentence) in [
        ("delete Navigator.prototype.gpu;", "127.0.0.1", "This browser has no WebGPU."),
        ("", "127.0.0.1", "This browser has WebGPU, but finds no GPU for it."),
        ("", "plain.test", "This page was not loaded over HTTPS, so the browser does not let it use WebGPU."),
    ] {
        let (_server, mut page) = open_after(&["--host-resolver-rules=MAP plain.test 127.0.0.1"], script, host);
        assert_eq!(page.eval("isSecureContext"), host != "plain.test");
        let said = page.eval("device.textContent");
        assert!(said.as_str().unwrap().starts_with(sentence), "{said}");
        assert!(said.as_str().unwrap().contains("The CPU does the work instead, in the background"), "{said}");
        assert_eq!(page.eval("Array.from(engine.options, (option) => option.value)"), json!(["cpu"]));
        page.resize(360);
        no_wider_than_the_window(&mut page);
        keep_screenshot(&mut page, "no-webgpu-360");
        page.choose_files("#file", &[&real_checkpoint()]);
        page.wait("!document.getElementById('start').disabled");
        set(&mut page, "format", "sym4");
        page.click("#start");
        // The page answers while it works.
        let answered = std::time::Instant::now();
        assert_eq!(page.eval("new Promise((done) => requestAnimationFrame(() => done('here')))"), "here");
        assert!(answered.elapsed() < Duration::from_secs(5));
        page.wait_within(LONG, "!result.hidden");
        assert_eq!(page.eval("document.getElementById('total-done-by').textContent"), "CPU");
        page.download_to(folder.path());
        page.click("#download");
        assert_same(&downloaded(folder.path(), "model-sym4.safetensors"), &expected, sentence);
        std::fs::remove_file(folder.path().join("model-sym4.safetensors")).unwrap();
        let long = page.eval("longTasks");
        assert!(long.as_array().unwrap().iter().all(|ms| ms.as_f64().unwrap() <= 200.0), "{long}");
    }
}

#[test]
fn what_is_no_model_gets_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "no model at all").unwrap();
    let (_server, mut page) = open(WEBGPU);
    page.drop_file("#drop", &file);
    page.wait("!error.hidden");
    let said = page.eval("error.textContent");
    assert!(
        said.as_str().unwrap().starts_with("Notes.txt: ") || said.as_str().unwrap().starts_with("notes.txt: "),
        "{said}"
    );
    assert_eq!(page.eval("document.getElementById('start').disabled"), true);
    assert_eq!(page.eval("error.getAttribute('role')"), "alert");
    // Text has enough contrast in both schemes: 4.5 to 1.
    for scheme in ["light", "dark"] {
        page.color_scheme(scheme);
        let poor = page.eval(
            "(() => {
               const luminance = (color) => { const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
                 .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
               const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
                 if (!/, 0\\)$/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
               const poor = [];
               for (const e of document.querySelectorAll('h1, p, label, strong, span, button, select')) {
                 if (!e.offsetParent || !e.textContent.trim() || e.disabled) continue;
                 const [a, b] = [getComputedStyle(e).color, behind(e)].map(luminance).sort((x, y) => y - x);
                 if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(`${e.tagName} ${e.id} ${e.textContent.slice(0, 30)}`);
               }
               return poor;
             })()",
        );
        assert_eq!(strings(&poor), Vec::<String>::new(), "{scheme}");
    }
}

/// A model of 1 GiB: four matrices of one pattern each.
fn large_model(file: &Path) {
    let (rows, columns) = (16_384_u64, 4096_u64);
    let n_bytes = rows * columns * 4;
    let tensors: Vec<_> = (0..4_u64)
        .map(|ix| {
            let offsets = [ix * n_bytes, (ix + 1) * n_bytes];
            format!("\"layer.{ix}\":{{\"dtype\":\"F32\",\"shape\":[{rows},{columns}],\"data_offsets\":{offsets:?}}}")
        })
        .collect();
    let mut header = format!("{{{}}}", tensors.join(","));
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let mut out = std::io::BufWriter::new(std::fs::File::create(file).unwrap());
    let mut state = 1_u32;
    let pattern: Vec<u8> = (0..1 << 20)
        .flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / 16_777_216.0 - 0.5).to_le_bytes()
        })
        .collect();
    out.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    out.write_all(header.as_bytes()).unwrap();
    for piece in 0..4 * n_bytes / pattern.len() as u64 {
        // Another start each time, so that no two pieces are the same.
        let (end, start) = pattern.split_at((piece as usize * 4) % pattern.len());
        out.write_all(start).unwrap();
        out.write_all(end).unwrap();
    }
    out.flush().unwrap();
}

#[test]
fn a_gibibyte_goes_through_in_little_memory_and_the_page_never_freezes() {
    let folder = tempfile::tempdir().unwrap();
    let (original, by_command_line) = (folder.path().join("large.safetensors"), folder.path().join("expected"));
    large_model(&original);
    assert!(original.metadata().unwrap().len() > 1 << 30);
    let (_server, mut page) = open(WEBGPU);
    page.drop_file("#drop", &original);
    page.wait("!document.getElementById('start').disabled");
    for (id, value) in [("format", "sym4"), ("engine", "gpu"), ("verify", "sample")] {
        set(&mut page, id, value);
    }
    page.click("#start");
    page.wait_within(LONG, "!result.hidden && document.querySelectorAll('#histograms svg').length === 3");
    let memory = page.eval("+result.dataset.memory").as_f64().unwrap();
    let long = page.eval("longTasks");
    println!(
        "1 GiB: {} at {}, {:.1} MiB of wasm memory, tasks over 50 ms: {long}",
        page.eval("document.getElementById('total-time').textContent"),
        page.eval("document.getElementById('total-rate').textContent"),
        memory / f64::from(1 << 20)
    );
    assert!(memory > 0.0 && memory < f64::from(256 << 20), "{memory}");
    assert!(long.as_array().unwrap().iter().all(|ms| ms.as_f64().unwrap() <= 200.0), "{long}");
    // The count of long tasks sees one.
    page.eval("setTimeout(() => { const end = performance.now() + 300; while (performance.now() < end); })");
    page.wait("longTasks.some((ms) => ms > 200)");
    page.download_to(folder.path());
    page.click("#download");
    let actual = downloaded(folder.path(), "large-sym4.safetensors");
    command_line(&[&"--quiet", &"quantize", &original, &"-o", &by_command_line, &"--device=cpu", &"--format=sym4"]);
    assert_same(&actual, &std::fs::read(by_command_line).unwrap(), "1 GiB");
}
