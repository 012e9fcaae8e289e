//! Reports, as a browser shows them.

use serde_json::{Value, json};

use crate::common::{Folder, Tensor, file, floats, mixed, stderr};
use wgquant_browser::Page;

const QUANTIZE: [&str; 8] = ["quantize", "in", "-o", "out", "--format", "sym4", "--device", "cpu"];

/// Names that would be something else in a page that did not escape them.
const HOSTILE: [&str; 4] = [
    "</script><script>pwned=1</script>",
    "<img src=x onerror=pwned=1>",
    "\"><svg/onload=pwned=1>&amp;&#65;",
    "' onmouseover='pwned=1",
];

fn hostile() -> Vec<Tensor> {
    let mut tensors = mixed();
    tensors.extend((0..).zip(HOSTILE).map(|(seed, name)| floats(name, "F32", &[64 + seed, 64], seed)));
    tensors.push(floats("control\u{1b}\0\n.weight", "F32", &[64, 64], 9));
    tensors
}

/// A value that a page's script reads, of what `selector` finds.
fn rows(page: &mut Page) -> Vec<Vec<String>> {
    let rows = page.eval(
        "[...document.querySelector('#tensors').tBodies[0].rows].map(r => \
         [r.cells[0].textContent, ...[...r.cells].map(c => c.dataset.value)])",
    );
    serde_json::from_value(rows).unwrap()
}

/// The column of a heading.
fn column(page: &mut Page, heading: &str) -> usize {
    let headings = page.eval("[...document.querySelector('#tensors').tHead.rows[0].cells].map(c => c.textContent)");
    headings.as_array().unwrap().iter().position(|found| found == heading).unwrap_or_else(|| panic!("{headings}"))
}

fn total(page: &mut Page, id: &str) -> String {
    page.eval(&format!("document.getElementById({id:?}).dataset.value")).as_str().unwrap().to_owned()
}

/// A number as the page has it, against the document's.
fn assert_number(shown: &str, wanted: &Value, what: &str) {
    match wanted.as_f64() {
        None => assert_eq!(shown, "", "{what}"),
        Some(wanted) => assert_eq!(shown.parse::<f64>().unwrap(), wanted, "{what}"),
    }
}

/// Nothing of the page reaches out of the window, all text is readable in both color schemes, and no name did anything.
fn assert_sound(page: &mut Page) {
    for width in [360, 1440] {
        page.resize(width);
        let widths = page.eval("[document.documentElement.scrollWidth, document.documentElement.clientWidth]");
        assert_eq!(widths[0], widths[1], "at {width} px the page is wider than the window");
        let outside = page.eval(
            "[...document.querySelectorAll('main, h1, h2, p, dl, dd, figure, figcaption, svg, .scroll')].filter(e => { \
             const r = e.getBoundingClientRect(); return r.left < 0 || r.right > innerWidth; }).map(e => e.outerHTML)",
        );
        assert_eq!(outside, json!([]), "at {width} px");
    }
    for scheme in ["light", "dark"] {
        page.color_scheme(scheme);
        let contrasts = page.eval(CONTRASTS);
        for (text, contrast) in contrasts.as_object().unwrap() {
            assert!(contrast.as_f64().unwrap() >= 4.5, "{scheme}: {text} has the contrast {contrast}");
        }
        assert!(contrasts.as_object().unwrap().len() > 5);
    }
    assert_eq!(
        page.eval("[typeof pwned, document.scripts.length, document.images.length]"),
        json!(["undefined", 1, 0])
    );
    assert_eq!(page.eval("performance.getEntriesByType('resource').length"), 0, "it asks for nothing");
    assert_eq!(page.eval("document.querySelectorAll('svg:not([aria-label])').length"), 0);
}

/// The contrast of each kind of text to the page, as WCAG defines it.
const CONTRASTS: &str = "(() => {
    const luminance = (color) => color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, ix) => sum + v * [0.2126, 0.7152, 0.0722][ix], 0);
    const page = luminance(getComputedStyle(document.body).backgroundColor);
    const found = {};
    for (const name of ['h1', 'h2', 'p', 'dt', 'dd', 'figcaption', 'td', 'th', 'svg text', '.key', '.worst']) {
        const element = document.querySelector(name);
        if (!element) continue;
        const style = getComputedStyle(element);
        const own = luminance(element instanceof SVGElement ? style.fill : style.color);
        found[name] = (Math.max(own, page) + 0.05) / (Math.min(own, page) + 0.05);
    }
    return found;
})()";

/// What the page shows is what the document says, whatever the names are.
#[test]
fn quantize() {
    let folder = Folder::with("in", &file(&hostile()));
    let document = folder.quantize("sym4", &["--verify", "full", "--report", "out.html"]);
    let verified = folder.json(&["verify", "in", "out", "--report", "verified.html"]);
    let mut page = Page::open(&folder.path("out.html"));
    let tensors = document["tensors"].as_array().unwrap();
    let shown = rows(&mut page);
    assert_eq!(shown.len(), tensors.len());
    for ((row, tensor), found) in shown.iter().zip(tensors).zip(verified["tensors"].as_array().unwrap()) {
        let name = tensor["name"].as_str().unwrap();
        assert_eq!(row[0], name.replace(char::is_control, "\u{fffd}"));
        for (heading, value) in [
            ("SQNR", &tensor["sqnr_db"]),
            ("MSE", &tensor["mse"]),
            ("max error", &tensor["max_abs_error"]),
            ("worst block", &found["worst_block"]),
        ] {
            assert_number(&row[column(&mut page, heading) + 1], value, &format!("{name:?}: {heading}"));
        }
        assert_eq!(row[column(&mut page, "digest (BLAKE3)") + 1], tensor["digest"].as_str().unwrap_or_default());
        assert_eq!(row[column(&mut page, "becomes") + 1], tensor["format"].as_str().unwrap_or("copied"));
    }
    for (id, key) in [("bytes-in", "bytes_in"), ("bytes-out", "bytes_out")] {
        assert_number(&total(&mut page, id), &document[key], key);
    }
    for key in ["format", "container", "adapter"] {
        assert_eq!(total(&mut page, key), document[key].as_str().unwrap());
    }
    // The plot has a point a weight, as high as its SQNR, and the four worst stand out.
    let points = page.eval(
        "[...document.querySelectorAll('#plot [data-tensor]')].map(p => [p.dataset.tensor, +p.dataset.value, \
         p.getBBox().y + p.getBBox().height / 2, p.classList.contains('worst')])",
    );
    let mut points: Vec<(String, f64, f64, bool)> = serde_json::from_value(points).unwrap();
    assert_eq!(points.len(), 8);
    points.sort_by(|a, b| a.1.total_cmp(&b.1));
    assert!(points.windows(2).all(|pair| pair[0].2 >= pair[1].2), "{points:?}");
    assert_eq!(points.iter().map(|point| point.3).collect::<Vec<_>>(), [[true; 4], [false; 4]].concat());
    // Their histograms count every value, before and after.
    let counted = page.eval(
        "[...document.querySelectorAll('.histogram')].map(h => [h.querySelector('bdi').textContent, \
         ...[...h.querySelectorAll('[data-counts]')].map(p => p.dataset.counts.split(' ').reduce((a, n) => a + +n, 0))])",
    );
    let counted: Vec<(String, u64, u64)> = serde_json::from_value(counted).unwrap();
    assert_eq!(counted.len(), 4);
    for ((name, before, after), point) in counted.iter().zip(&points) {
        assert_eq!(*name, point.0, "worst first");
        let tensor = &tensors[shown.iter().position(|row| row[0] == *name).unwrap()];
        let n_elems: u64 = tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product();
        assert_eq!((*before, *after), (n_elems, n_elems), "{name}");
    }
    assert_sound(&mut page);
    let mut page = Page::open(&folder.path("verified.html"));
    assert_eq!(
        rows(&mut page).iter().map(|row| &row[0]).collect::<Vec<_>>(),
        shown.iter().map(|row| &row[0]).collect::<Vec<_>>()
    );
    assert_eq!(total(&mut page, "matches"), "yes, every byte");
    assert_sound(&mut page);
}

/// Columns sort by mouse and by keyboard, both ways, and say so; what has no value stands last.
#[test]
fn sorting() {
    let folder = Folder::with("in", &file(&hostile()));
    folder.quantize("sym4", &["--verify", "full", "--report", "out.html"]);
    let mut page = Page::open(&folder.path("out.html"));
    page.resize(1440);
    let sqnr = column(&mut page, "SQNR");
    let values =
        |page: &mut Page| -> Vec<Option<f64>> { rows(page).iter().map(|row| row[sqnr + 1].parse().ok()).collect() };
    let before = values(&mut page);
    let mut known: Vec<f64> = before.iter().flatten().copied().collect();
    assert!(known.len() > 4 && known.len() < before.len());
    known.sort_by(f64::total_cmp);
    let nothing = vec![None; before.len() - known.len()];
    let ascending = [known.iter().copied().map(Some).collect(), nothing.clone()].concat();
    let descending = [known.iter().rev().copied().map(Some).collect(), nothing].concat();
    assert!(before != ascending && before != descending);

    let head = format!("#tensors thead th:nth-child({})", sqnr + 1);
    let sorted = |page: &mut Page| page.eval(&format!("document.querySelector('{head}').getAttribute('aria-sort')"));
    assert_eq!(sorted(&mut page), Value::Null);
    page.click(&format!("{head} button"));
    assert_eq!((sorted(&mut page), values(&mut page)), (json!("ascending"), ascending.clone()));
    page.click(&format!("{head} button"));
    assert_eq!((sorted(&mut page), values(&mut page)), (json!("descending"), descending.clone()));

    // By keyboard alone: Tab from the heading before.
    page.eval(&format!("document.querySelector('#tensors thead th:nth-child({sqnr}) button').focus()"));
    page.press("Enter");
    assert_eq!(sorted(&mut page), Value::Null, "one column at a time");
    page.press("Tab");
    assert_eq!(page.eval("document.activeElement.textContent"), "SQNR");
    assert_ne!(page.eval("getComputedStyle(document.activeElement).outlineStyle"), "none", "the focus shows");
    page.press("Enter");
    assert_eq!((sorted(&mut page), values(&mut page)), (json!("ascending"), ascending));
    page.press(" ");
    assert_eq!((sorted(&mut page), values(&mut page)), (json!("descending"), descending));
    assert_eq!(page.eval("document.querySelectorAll('#tensors [aria-sort]').length"), 1);
}

#[test]
fn compare() {
    let folder = Folder::with("in", &file(&hostile()));
    let document = folder.json(&["compare", "in", "--report", "out.html"]);
    let mut page = Page::open(&folder.path("out.html"));
    let formats = document["formats"].as_array().unwrap();
    let shown = page.eval(
        "[...document.querySelector('#formats').tBodies[0].rows].map(r => [...r.cells].map(c => c.dataset.value))",
    );
    let shown: Vec<Vec<String>> = serde_json::from_value(shown).unwrap();
    assert_eq!(shown.len(), formats.len());
    for (row, format) in shown.iter().zip(formats) {
        assert_eq!(row[0], format["format"].as_str().unwrap());
        assert_eq!(row[1], if format["frontier"] == true { "yes" } else { "no" });
        let numbers = ["bits_per_weight", "bytes_out", "sqnr_db", "mse", "max_abs_error", "unfit_tensors"];
        for (shown, key) in row[2..].iter().zip(numbers) {
            assert_number(shown, &format[key], key);
        }
    }
    let tensors = document["tensors"].as_array().unwrap();
    let table = rows(&mut page);
    assert_eq!(table.len(), tensors.len());
    for (row, tensor) in table.iter().zip(tensors) {
        for format in tensor["formats"].as_array().unwrap() {
            let name = format["format"].as_str().unwrap();
            assert_number(&row[column(&mut page, name) + 1], &format["sqnr_db"], name);
        }
    }
    // Points lie where their figures say: the plot's order is that of sizes and errors.
    let points = page.eval(
        "[...document.querySelectorAll('#plot [data-format]')].map(p => { const b = p.getBBox(); return [p.dataset.format, \
         +p.dataset.x, +p.dataset.y, b.x + b.width / 2, b.y + b.height / 2, p.classList.contains('worst')]; })",
    );
    let points: Vec<(String, f64, f64, f64, f64, bool)> = serde_json::from_value(points).unwrap();
    assert_eq!(points.len(), formats.len());
    for a in &points {
        let format = formats.iter().find(|format| format["format"] == *a.0).unwrap();
        assert_eq!((json!(a.1), json!(a.2)), (format["bits_per_weight"].clone(), format["sqnr_db"].clone()));
        assert_eq!(json!(a.5), format["frontier"]);
        for b in &points {
            assert!(a.1 >= b.1 || a.3 <= b.3 + 0.1, "{a:?} is left of {b:?}");
            assert!(a.2 >= b.2 || a.4 >= b.4 - 0.1, "{a:?} is below {b:?}");
        }
    }
    assert_sound(&mut page);
}

/// What differs is in the page of `verify`, too.
#[test]
fn a_mismatch_is_reported() {
    let folder = Folder::with("in", &file(&mixed()));
    folder.quantize("sym4", &[]);
    let mut damaged = folder.read("out");
    let at = damaged.len() / 2;
    damaged[at] ^= 0x11;
    folder.write("out", &damaged);
    let output = folder.run(&["verify", "in", "out", "--report", "out.html"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let page = String::from_utf8(folder.read("out.html")).unwrap();
    assert!(page.contains("data-value=\"NO\"") && page.contains("class=\"note\""), "{page}");
}

/// Without figures there is a page without plots; without tensors one without rows.
#[test]
fn nothing_to_show() {
    let folder = Folder::with("in", &file(&mixed()));
    folder.quantize("sym4", &["--verify", "none", "--report", "out.html"]);
    let page = String::from_utf8(folder.read("out.html")).unwrap();
    assert!(page.contains("because nothing was verified") && !page.contains("<svg"));
    folder.write("in", &file(&[]));
    folder.quantize("sym4", &["--force", "--report", "out.html"]);
    assert!(String::from_utf8(folder.read("out.html")).unwrap().contains("Quantization report"));
}

/// A report goes only where it may.
#[test]
fn places() {
    let folder = Folder::with("in", &file(&mixed()));
    let run = |more: &[&str], wanted| folder.fails(1, &[&QUANTIZE[..], &["--report"], more].concat(), wanted);
    run(&["out"], "out: the report is the output: give it another name");
    run(&["./out"], "./out: the report is the output");
    run(&["in"], "in: exists already: give another name, or --force to replace it");
    run(&["in", "--force"], "in: is no HTML page, so a report does not replace it");
    run(&[".", "--force"], ".: is no HTML page");
    run(&["missing/out.html"], "missing/out.html: its folder does not exist: make it first");
    let compare = ["compare", "in", "--report"];
    folder.fails(1, &[&compare[..], &["in", "--force"]].concat(), "in: is no HTML page");
    folder.fails(2, &["compare", "in", "--force"], "--report");

    folder.ok(&[&compare[..], &["out.html"]].concat());
    let page = folder.read("out.html");
    folder.fails(1, &[&compare[..], &["out.html"]].concat(), "out.html: exists already");
    run(&["out.html"], "out.html: exists already");
    assert_eq!(folder.read("out.html"), page);
    folder.ok(&[&QUANTIZE[..], &["--report", "out.html", "--force"]].concat());
    assert_ne!(folder.read("out.html"), page);
    folder.fails(1, &["verify", "in", "out", "--report", "out.html"], "out.html: exists already");
    folder.ok(&["verify", "in", "out", "--report", "out.html", "--force"]);
    assert_eq!(folder.names(), ["in", "out", "out.html"], "nothing is left beside them");

    #[cfg(unix)]
    {
        // A link stays, and what it leads to is replaced.
        std::os::unix::fs::symlink("out.html", folder.path("link.html")).unwrap();
        folder.ok(&[&compare[..], &["link.html", "--force"]].concat());
        assert!(folder.path("link.html").is_symlink());
        assert_eq!(folder.read("out.html"), folder.read("link.html"));
        assert!(String::from_utf8(folder.read("out.html")).unwrap().contains("Comparison of formats"));
    }
}
