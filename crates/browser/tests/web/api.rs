//! Tensors in memory: bytes are the library's, whatever is handed over.

use serde_json::Value;
use wgquant::{Dtype, Format, Weights, dequantize, quantize};
use wgquant_browser::Page;

use crate::common::{LONG, package, strings};

/// Weights that both sides make: the same arithmetic in integers, then bits of numbers between -1 and 1. A block of
/// subnormals is among them.
fn weights() -> Vec<f32> {
    let mut state = 12345_u32;
    (0..64 * 1000)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let exponent = if (640..704).contains(&i) { 0 } else { 0x3e00_0000 };
            f32::from_bits((state & 0x8000_0000) | exponent | ((state >> 8) & 0x007f_ffff))
        })
        .collect()
}

const WEIGHTS: &str = "
globalThis.weights = new Float32Array(64 * 1000);
{ const bits = new Uint32Array(weights.buffer); let state = 12345;
  for (let i = 0; i < bits.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const exponent = i >= 640 && i < 704 ? 0 : 0x3e000000;
    bits[i] = ((state & 0x80000000) | exponent | ((state >>> 8) & 0x7fffff)) >>> 0;
  } }
globalThis.digest = async (bytes) => Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256',
  new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength))), (byte) => byte.toString(16).padStart(2, '0')).join('');
globalThis.refusal = (promise) => promise.then(() => 'nothing was refused', (error) => `${error.name}: ${error.message}`);";

#[test]
fn typed_arrays_give_the_bytes_of_the_library() {
    let (_server, mut page) = package();
    page.eval(&format!("{{ {WEIGHTS} }}"));
    let all = weights();
    for &format in Format::ALL {
        let expected = quantize(format, &all[..]).unwrap();
        let values = dequantize(&expected, Dtype::F32).unwrap();
        let halves = dequantize(&expected, Dtype::BF16).unwrap();
        for engine in ["gpu({ allowSoftware: true })", "cpu()"] {
            let found = page.eval_within(
                LONG,
                &format!(
                    "(async () => {{
                       const engine = await wgquant.Engine.{engine};
                       const told = [];
                       const packed = await engine.quantize('{format}', weights, {{ onProgress: (p) => told.push(p) }});
                       const {{ codes, scales, nestedAbsmax, nestedOffset, length, format }} = packed;
                       const again = await wgquant.Packed.fromParts(
                         {{ format, length, codes, scales, nestedAbsmax, nestedOffset }});
                       const [values, halves] = [await engine.dequantize(again),
                                                 await engine.dequantize(again, {{ dtype: 'bf16' }})];
                       const figures = await packed.verify(weights);
                       const damaged = codes.slice(); damaged[7] ^= 1;
                       const other = await wgquant.Packed.fromParts(
                         {{ format, length, codes: damaged, scales, nestedAbsmax, nestedOffset }});
                       return {{ digest: packed.digest, again: again.digest, length, byteLength: packed.byteLength,
                         values: Array.from(new Uint32Array(values.buffer.slice(640 * 4, 704 * 4))),
                         sums: [values, halves].map((array) => new Uint8Array(array.buffer).reduce((a, b) => (a * 31 + b) % 65521, 7)),
                         figures, told: told.at(-1), refused: await refusal(other.verify(weights)) }};
                     }})()"
                ),
            );
            let what = format!("{format} on {engine}");
            let hex = expected.digest().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            assert_eq!((&found["digest"], &found["again"]), (&hex.clone().into(), &hex.into()), "{what}");
            assert_eq!(found["length"], all.len(), "{what}");
            assert_eq!(found["byteLength"], expected.size_in_bytes(), "{what}");
            let sum = |bytes: &[u8]| bytes.iter().fold(7_u64, |sum, &byte| (sum * 31 + u64::from(byte)) % 65521);
            assert_eq!(found["sums"], Value::from(vec![sum(&values), sum(&halves)]), "{what}");
            let of_block: Vec<_> =
                values[640 * 4..704 * 4].as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
            assert_eq!(found["values"], Value::from(of_block), "{what}: a block of subnormals");
            let figures = wgquant::verify::verify_tensor(Weights::from(&all[..]), &expected).unwrap();
            assert_eq!(found["figures"]["mse"], figures.mse(), "{what}");
            assert_eq!(found["told"], serde_json::json!({ "done": all.len() * 4, "total": all.len() * 4 }), "{what}");
            assert!(found["refused"].as_str().unwrap().starts_with("MismatchError: "), "{what}: {}", found["refused"]);
        }
    }
}

/// The page's own device stays the page's; a product on it is within the bound that the library documents.
#[test]
fn products_on_the_pages_own_device_in_serial_kernels() {
    products("serial", 5);
}

#[test]
fn products_on_the_pages_own_device_in_kernels_for_few_vectors() {
    products("tile", 5);
}

#[test]
fn products_on_the_pages_own_device_in_tile_kernels() {
    products("tile", 70);
}

fn products(shape: &str, vectors: usize) {
    let (_server, mut page) = package();
    page.eval(&format!("{{ {WEIGHTS} }}"));
    let (rows, columns) = (100, 640);
    for &format in Format::ALL {
        let found = page.eval_within(
            LONG,
            &format!(
                "(async () => {{
                   globalThis.device ??= await (await navigator.gpu.requestAdapter()).requestDevice();
                   const before = navigator.gpu;
                   const engine = await wgquant.Engine.gpu({{ device, shape: '{shape}' }});
                   if (engine.device !== device || navigator.gpu !== before) throw new Error('another device');
                   const packed = await engine.quantize('{format}', weights);
                   const matrix = await engine.upload(packed);
                   const x = Float32Array.from({{ length: {vectors} * {columns} }}, (_, i) => ((i * 37) % 101) / 101 - 0.5);
                   const bias = Float32Array.from({{ length: {rows} }}, (_, i) => i / 8);
                   const size = {{ rows: {rows}, columns: {columns} }};
                   const y = await matrix.product(x, {{ ...size, bias }});
                   const refused = await Promise.all([refusal(matrix.product(x, {{ ...size, rows: 7 }})),
                     refusal(matrix.product(x.subarray(1), size)),
                     refusal(matrix.product(x, {{ ...size, bias: x }}))]);
                   engine.free();
                   device.createBuffer({{ size: 4, usage: GPUBufferUsage.COPY_DST }});
                   const lost = await Promise.race([device.lost, Promise.resolve('there')]);
                   return {{ y: Array.from(y), refused, lost }};
                 }})()"
            ),
        );
        let packed = quantize(format, &weights()[..]).unwrap();
        let values = wgquant::dequantize_f32(&packed).unwrap();
        for vector in 0..vectors {
            for row in 0..rows {
                let x = |c: usize| f64::from((((vector * columns + c) * 37 % 101) as f64 / 101.0 - 0.5) as f32);
                let bias = row as f64 / 8.0;
                let terms: Vec<f64> = (0..columns).map(|c| x(c) * f64::from(values[row * columns + c])).collect();
                let exact = terms.iter().sum::<f64>() + bias;
                let size = terms.iter().map(|term| term.abs()).sum::<f64>() + bias;
                let bound = (columns as f64 / 32.0 + 40.0) * 2.0_f64.powi(-23) * size;
                let actual = found["y"][vector * rows + row].as_f64().unwrap();
                assert!(
                    (actual - exact).abs() <= bound,
                    "{format}, {shape}, vector {vector}, row {row}: {actual} for {exact}"
                );
            }
        }
        let refused = strings(&found["refused"]);
        for (text, wanted) in refused.iter().zip(["are not the", "no whole number of vectors", "one number for each"]) {
            assert!(text.starts_with("WgquantError: ") && text.contains(wanted), "{text}");
        }
        assert_eq!(found["lost"], "there");
    }
    assert_eq!(page.complaints(), Vec::<String>::new());
}

#[test]
fn what_cant_be_done_is_one_sentence_and_what_is_given_up_leaves_nothing() {
    let (_server, mut page) = package();
    page.eval(&format!("{{ {WEIGHTS} }}"));
    let said = page.eval_within(
        LONG,
        "(async () => {
           const engine = await wgquant.Engine.cpu();
           const bad = weights.slice(); bad[100] = NaN;
           const file = (text, name) => new File([text], name);
           const packed = await engine.quantize('nf4', weights);
           return Promise.all([
             refusal(engine.quantize('nf4', bad)),
             refusal(engine.quantize('nf5', weights)),
             refusal(engine.quantize('nf4', new Uint16Array(64))),
             refusal(engine.quantize('nf4', new Float32Array(0))),
             refusal(engine.upload(packed)),
             refusal(wgquant.quantizeFile(file('nothing', 'x.safetensors'), { format: 'nf4' })),
             refusal(wgquant.quantizeFile(file('nothing', 'x.safetensors'), { format: 'nf4', container: 'bnb2' })),
             refusal(wgquant.quantizeFile(file('nothing', 'x.safetensors'), { format: 'nf4', mistyped: 1 })),
             refusal(wgquant.Packed.fromParts({ format: 'nf4', length: 64, codes: new Uint8Array(3), scales: new Uint8Array(4) })),
             refusal(engine.quantize('nf4', weights, { signal: AbortSignal.abort() })),
           ]);
         })()",
    );
    let wanted = [
        "WgquantError: element 100 is NaN",
        "there is no format \"nf5\"; there are: sym4",
        "TypeError: say what a Uint16Array holds with dtype: f16 or bf16",
        "there are no weights to quantize",
        "products run on a GPU",
        "WgquantError: x.safetensors: ",
        "there is no container \"bnb2\"; there are: native",
        "unknown field `mistyped`",
        "codes should be 32 bytes long for 64 weights in nf4, not 3",
        "AbortError: ",
    ];
    for (said, wanted) in strings(&said).iter().zip(wanted) {
        assert!(said.contains(wanted) && !said.contains('\n'), "{said} for {wanted}");
    }
    // In the middle: a tensor, and a job whose file then is gone.
    page.choose_files("#files", &[&crate::common::real_checkpoint()]);
    let stopped = page.eval_within(
        LONG,
        "(async () => {
           const engine = await wgquant.Engine.cpu();
           const large = new Float32Array(3 << 20).fill(1);
           let n = 0;
           const first = new AbortController();
           const tensor = await refusal(engine.quantize('nf4', large,
             { signal: first.signal, onProgress: () => { n++; first.abort(); } }));
           const second = new AbortController();
           let told = 0;
           const job = await refusal(wgquant.quantizeFile(files.files[0], { format: 'nf4', device: 'cpu', verify: 'full',
             signal: second.signal, onProgress: ({ done }) => { told = done; second.abort(new Error('enough')); } }));
           return { tensor, n, job, told };
         })()",
    );
    assert!(stopped["tensor"].as_str().unwrap().starts_with("AbortError: "), "{stopped}");
    assert_eq!((&stopped["n"], &stopped["job"]), (&1.into(), &"Error: enough".into()), "{stopped}");
    assert!(stopped["told"].as_u64().unwrap() < 181_000_000, "it was not in the middle: {stopped}");
    nothing_is_left(&mut page);
}

/// Where the browser has no private files, the output is made of parts.
#[test]
fn a_browser_without_private_files_gives_the_same_bytes() {
    let (_server, mut page) = package();
    page.eval(&format!("{{ {WEIGHTS} }}"));
    // An output of several parts, whose header comes first and digests last, as the storage itself sees it.
    let compared = page.eval_within(
        LONG,
        "(async () => {
           const source = `
             import { PartsStorage } from '${location.origin}/wgquant/storage.js';
             const parts = new PartsStorage(), n = 9 * 1024 * 1024 + 5;
             const plain = new Uint8Array(n);
             parts.truncate(n);
             const write = (at, length, seed) => {
               const bytes = Uint8Array.from({ length }, (_, i) => (i * 7 + seed) % 251);
               plain.set(bytes, at);
               if (parts.write(at, bytes) !== length) throw new Error('not all was taken');
             };
             write(0, 5000, 1);
             for (let at = 5000; at < n; at += 1 << 20) write(at, Math.min(1 << 20, n - at), at % 97);
             write(4 * 1024 * 1024 - 10, 20, 3);
             write(100, 50, 4);
             const back = new Uint8Array(300);
             parts.read(4 * 1024 * 1024 - 150, back);
             const file = new Uint8Array(await (await parts.finish()).arrayBuffer());
             postMessage({
               whole: file.length === n && file.every((byte, i) => byte === plain[i]),
               part: back.every((byte, i) => byte === plain[4 * 1024 * 1024 - 150 + i]),
               end: parts.read(n - 3, new Uint8Array(10)), size: parts.size() });`;
           const url = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
           const worker = new Worker(url, { type: 'module' });
           return new Promise((resolve, reject) => {
             worker.onmessage = ({ data }) => resolve(data);
             worker.onerror = (event) => reject(new Error(event.message));
           });
         })()",
    );
    assert_eq!(compared, serde_json::json!({ "whole": true, "part": true, "end": 3, "size": 9 * 1024 * 1024 + 5 }));
}

/// The site has no private files.
fn nothing_is_left(page: &mut Page) {
    let left = page.eval(
        "(async () => {
           const left = [];
           for await (const name of (await navigator.storage.getDirectory()).keys()) left.push(name);
           return left;
         })()",
    );
    assert_eq!(strings(&left), Vec::<String>::new());
}

/// A device that is lost in the middle: the page's own, and all of the browser's, whose process ends.
#[test]
fn a_lost_device_is_one_sentence() {
    let (_server, mut page) = package();
    page.eval(&format!("{{ {WEIGHTS} }}"));
    let said = page.eval_within(
        LONG,
        "(async () => {
           const device = await (await navigator.gpu.requestAdapter()).requestDevice();
           const engine = await wgquant.Engine.gpu({ device });
           const large = new Float32Array(3 << 22).fill(1);
           const middle = await refusal(engine.quantize('nf4', large, { onProgress: () => device.destroy() }));
           const after = await refusal(engine.quantize('nf4', weights));
           const another = await wgquant.Engine.gpu({ allowSoftware: true });
           const digests = [await another.quantize('nf4', weights), await (await wgquant.Engine.cpu()).quantize('nf4', weights)];
           return { lost: [middle, after], same: digests[0].digest === digests[1].digest };
         })()",
    );
    for text in strings(&said["lost"]) {
        assert!(text.starts_with("GpuError: ") && text.contains("lost") && !text.contains('\n'), "{text}");
    }
    assert_eq!(said["same"], true);

    page.choose_files("#files", &[&crate::common::real_checkpoint()]);
    page.eval(
        "{ globalThis.told = 0; globalThis.job = refusal(wgquant.quantizeFile(files.files[0],
             { format: 'nf4', device: 'gpu', verify: 'full', onProgress: ({ done }) => { told = done; } }));
           // Not the promise, which would be waited for.
           'begun'; }",
    );
    page.wait_within(LONG, "told > 0");
    page.end_gpu_process();
    let said = page.eval_within(LONG, "job");
    let told = page.eval("told").as_u64().unwrap();
    assert!(told < 181_000_000, "it was not in the middle: {told}");
    assert!(said.as_str().unwrap().starts_with("GpuError: ") && said.as_str().unwrap().contains("lost"), "{said}");
    nothing_is_left(&mut page);
}

/// Where nobody asked for the GPU, the CPU does what a lost one has left, and the file is the same.
#[test]
fn the_cpu_goes_on_where_a_gpu_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (original, expected) = (crate::common::real_checkpoint(), folder.path().join("expected.safetensors"));
    crate::common::command_line(&[
        &"--quiet",
        &"quantize",
        &original,
        &"-o",
        &expected,
        &"--device=cpu",
        &"--format=nf4",
    ]);
    let (_server, mut page) = package();
    page.choose_files("#files", &[&original]);
    let done = page.eval_within(
        LONG,
        "(async () => {
           const at = `${location.origin}/wgquant`;
           const source = `
             import { Engine } from '${at}/engine.js';
             import { BlobStorage, PartsStorage } from '${at}/storage.js';
             import { load } from '${at}/wasm.js';
             onmessage = async ({ data: file }) => {
               const wasm = await load();
               const engine = await Engine.gpu({ allowSoftware: true, goesOn: true });
               const storage = new PartsStorage();
               let lost = 0;
               const progress = (_, done, total) => {
                 if (lost === 0 && done > total / 3) { lost = done / total; engine.device.destroy(); }
                 return false;
               };
               const options = JSON.stringify({ format: 'nf4' });
               const report = await wasm.quantizeFile(engine.raw, new BlobStorage(file), file.name, storage, options, progress)
                 .catch((error) => JSON.stringify(error.message));
               postMessage({ file: await storage.finish(), lost, report: JSON.parse(report) });
             };`;
           const url = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
           const worker = new Worker(url, { type: 'module' });
           worker.postMessage(files.files[0]);
           const done = await new Promise((resolve, reject) => {
             worker.onmessage = ({ data }) => resolve(data);
             worker.onerror = (event) => reject(new Error(event.message));
           });
           globalThis.output = new File([done.file], 'it', { type: 'application/octet-stream' });
           return { lost: done.lost, report: done.report };
         })()",
    );
    let lost = done["lost"].as_f64().unwrap();
    assert!(lost > 0.3 && lost < 0.9, "{lost}");
    assert!(done["report"]["tensors"].is_array(), "{}", done["report"]);
    crate::common::assert_same(
        &crate::common::download(&mut page, "output"),
        &std::fs::read(expected).unwrap(),
        "what the CPU went on with",
    );
}
