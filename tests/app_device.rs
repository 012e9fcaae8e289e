//! The driver on a device of an app's own: its limits and features, its buffers and offsets, its error handlers.

mod common;

use std::sync::{Arc, Mutex};

use wgpu::util::DeviceExt as _;
use wgquant::gpu::{BufferAt, DevicePacked, Product, Shape, Work};
use wgquant::{Dtype, Format, Gpu, Packed, Weights, dequantize, quantize};

const SENTINEL: u8 = 0xa5;

/// An app's driver, and what its device reported outside of all scopes.
struct App {
    gpu: Gpu,
    reported: Arc<Mutex<Vec<String>>>,
}

impl App {
    fn new(name: &str, descriptor: impl FnOnce(&wgpu::Adapter) -> wgpu::DeviceDescriptor<'static>) -> Self {
        let (device, queue) = common::app_device(name, descriptor);
        let reported = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&reported);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            list.lock().expect("no panic").push(error.to_string());
        }));
        Self { gpu: Gpu::from_device(device, queue).expect("limits that suffice"), reported }
    }

    /// Nothing asked for: WebGPU's default limits, no feature.
    fn plain(name: &str) -> Self {
        Self::new(name, |_| wgpu::DeviceDescriptor {
            required_limits: wgpu::Limits::default(),
            ..wgpu::DeviceDescriptor::default()
        })
    }

    /// All that the adapter has.
    fn full(name: &str) -> Self {
        Self::new(name, |adapter| wgpu::DeviceDescriptor {
            required_limits: adapter.limits(),
            required_features: adapter.features() - wgpu::Features::all_experimental_mask(),
            ..wgpu::DeviceDescriptor::default()
        })
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// A buffer with these bytes at `offset`, and a sentinel around them.
    fn buffer(&self, bytes: &[u8], offset: usize, after: usize) -> BufferAt {
        let mut all = vec![SENTINEL; offset];
        all.extend(bytes);
        all.resize((all.len() + after).next_multiple_of(4), SENTINEL);
        let buffer = self.gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some("the app's"),
            contents: &all,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        });
        BufferAt::new(&buffer, offset as u64)
    }

    fn read(&self, place: &BufferAt) -> Vec<u8> {
        pollster::block_on(self.gpu.read_buffer(&place.buffer)).expect("readable")
    }
}

/// Weights in about ±4, in the type's own bytes.
fn weights(n: usize, dtype: Dtype) -> Vec<u8> {
    let mut state = 5_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(i16::try_from(state >> 18).expect("14 bits") - 8192) / 2048.0
    };
    (0..n)
        .flat_map(|_| match dtype {
            Dtype::F32 => next().to_le_bytes().to_vec(),
            Dtype::F16 => half::f16::from_f32(next()).to_le_bytes().to_vec(),
            Dtype::BF16 => half::bf16::from_f32(next()).to_le_bytes().to_vec(),
        })
        .collect()
}

fn on_cpu(format: Format, dtype: Dtype, bytes: &[u8]) -> Packed {
    quantize(format, Weights::from_le_bytes(dtype, bytes).expect("whole elements")).expect("finite")
}

/// How many weights: whole blocks and a short one where the format has those.
fn length(format: Format) -> usize {
    if format.info().whole_blocks { 96 * format.info().block } else { 97 * format.info().block + 7 }
}

/// Every format and type from one buffer each at several offsets, recorded into one encoder, into buffers of the driver's and
/// into one of the app's. Gives all bytes that came out.
fn quantize_everything(app: &App) -> Vec<Vec<u8>> {
    pollster::block_on(async {
        let mut encoder = app.encoder();
        let mut results = Vec::new();
        for (i, &format) in Format::ALL.iter().enumerate() {
            let n = length(format);
            for (k, dtype) in Dtype::ALL.into_iter().enumerate() {
                // Every place that has a kernel of its own, at the very end of the buffer or with the app's own data behind it.
                let [offset, after] = [[0, 0], [4, 0], [16, 64], [268, 8], [32, 64], [32, 4]][(i + k) % 6];
                let bytes = weights(n, dtype);
                let from = app.buffer(&bytes, offset, after);
                let packed = if (i + k) % 2 == 0 {
                    app.gpu.record_quantize(&mut encoder, format, dtype, n as u64, &from).await.expect("fits")
                } else {
                    // Codes and scales in one buffer at odd words; the status in another.
                    let (codes, scales) =
                        (DevicePacked::codes_bytes(format, n as u64), DevicePacked::scales_bytes(format, n as u64));
                    let arena =
                        app.buffer(&vec![SENTINEL; usize::try_from(codes + scales + 1024).expect("small")], 0, 0);
                    let place = |offset| BufferAt::new(&arena.buffer, offset);
                    let status = app.buffer(&[SENTINEL; 8], 36, 0);
                    let mut packed =
                        DevicePacked::in_buffers(format, n as u64, place(12), place(12 + codes + 516), status)
                            .expect("fits");
                    app.gpu.record_quantize_into(&mut encoder, dtype, &from, &mut packed).await.expect("fits");
                    packed
                };
                results.push((format, dtype, bytes, from, packed));
            }
        }
        app.gpu.queue().submit([encoder.finish()]);
        let mut out = Vec::new();
        for (format, dtype, bytes, from, packed) in results {
            let actual = app.gpu.download(&packed).await.expect("finite weights");
            assert!(actual == on_cpu(format, dtype, &bytes), "{format} from {dtype} at {}", from.offset);
            out.extend([actual.codes().to_vec(), actual.scales().to_vec()]);
            // What lies around in the app's buffer is as it was.
            let (codes, scales) = (packed.codes(), packed.scales());
            if codes.buffer == scales.buffer {
                let all = app.read(codes);
                let [codes_end, scales_at, scales_end] = [
                    codes.offset + DevicePacked::codes_bytes(format, packed.n_elems()),
                    scales.offset,
                    scales.offset + DevicePacked::scales_bytes(format, packed.n_elems()),
                ]
                .map(|at| usize::try_from(at).expect("small"));
                let around = [&all[..12], &all[codes_end..scales_at], &all[scales_end..]].concat();
                assert!(around.iter().all(|&b| b == SENTINEL), "{format}: something around the parts was written");
            }
        }
        out
    })
}

#[test]
fn default_limits_and_all_features_give_the_same_bytes() {
    for name in common::adapter_names() {
        let [plain, full] = [App::plain(&name), App::full(&name)];
        assert_eq!(plain.gpu.device().limits().max_storage_buffer_binding_size, 128 << 20);
        assert!(plain.gpu.device().features().is_empty() && !full.gpu.device().features().is_empty(), "{name}");
        let outputs = [&plain, &full].map(quantize_everything);
        assert!(outputs[0] == outputs[1], "{name}: bytes differ");
        assert!(outputs[0].len() == 2 * 3 * Format::ALL.len());
        for app in [plain, full] {
            assert_eq!(*app.reported.lock().expect("no panic"), [""; 0], "{name}");
        }
    }
}

/// The collector of errors does collect: otherwise its silence would say nothing.
#[test]
fn an_error_of_the_apps_own_reaches_its_handler() {
    let app = App::plain(&common::adapter_names()[0]);
    let mut encoder = app.encoder();
    encoder.clear_buffer(&app.buffer(&[0; 8], 0, 0).buffer, 2, None);
    app.gpu.queue().submit([encoder.finish()]);
    assert!(!app.reported.lock().expect("no panic").is_empty());
}

#[test]
fn any_run_of_elements_is_dequantized_and_nothing_around_it_is_written() {
    for app in common::adapter_names().iter().flat_map(|name| [App::plain(name), App::full(name)]) {
        let name = app.gpu.device().adapter_info().backend;
        for &format in Format::ALL {
            let (n, block) = (length(format), format.info().block);
            let packed = on_cpu(format, Dtype::F32, &weights(n, Dtype::F32));
            let on_device = pollster::block_on(app.gpu.upload(&packed)).expect("valid");
            assert!(pollster::block_on(app.gpu.download(&on_device)).expect("valid") == packed, "{format}: round trip");
            for dtype in Dtype::ALL {
                let (values, width) = (dequantize(&packed, dtype).expect("in range"), dtype.n_bytes());
                // Whole blocks at every place that has a kernel of its own, and blocks that are cut.
                let runs = [
                    (0..n, 0),
                    (block..n, 16),
                    (block..3 * block, 32),
                    (0..n, 300),
                    (0..1, 16),
                    (5..5, 0),
                    (3..4, 4),
                    (7..block + 2, 4),
                    (3 * block + 1..n, 16),
                    (n - 1..n, 300),
                ];
                for (run, offset) in runs {
                    let to = app.buffer(&vec![SENTINEL; (run.len() * width).next_multiple_of(4)], offset, 24);
                    let mut encoder = app.encoder();
                    let elems = run.start as u64..run.end as u64;
                    pollster::block_on(app.gpu.record_dequantize_range(&mut encoder, &on_device, elems, dtype, &to))
                        .expect("fits");
                    app.gpu.queue().submit([encoder.finish()]);
                    let all = app.read(&to);
                    let end = offset + run.len() * width;
                    let case = format!("{name}: {format} {run:?} to {dtype} at {offset}");
                    assert!(all[offset..end] == values[run.start * width..run.end * width], "{case}");
                    let around = [&all[..offset], &all[end..]].concat();
                    assert!(around.iter().all(|&b| b == SENTINEL), "{case}: something around it was written");
                }
            }
        }
        assert_eq!(*app.reported.lock().expect("no panic"), [""; 0], "{name}");
    }
}

/// Bindings far smaller than the tensor: many dispatches, cut within blocks and rows.
#[test]
fn small_bindings_change_no_value() {
    for name in common::adapter_names() {
        for shape in [Shape::Serial, Shape::Tile] {
            let small = common::open_with(&name, |limits| {
                limits.max_storage_buffer_binding_size = 16 << 10;
                limits.max_compute_workgroups_per_dimension = 9;
            });
            let large = common::open(&name);
            let run = |gpu: Gpu| {
                let app = App { gpu: gpu.with_shape(shape), reported: Arc::default() };
                pollster::block_on(async {
                    let (rows, cols, vectors) = (301, 131, 70);
                    let bytes = weights(rows * cols, Dtype::F16);
                    let (from, to) = (app.buffer(&bytes, 4, 0), app.buffer(&vec![0; rows * cols * 2 + 2], 8, 0));
                    let x = app.buffer(&weights(vectors * cols, Dtype::F16), 0, 0);
                    let (y, bias) =
                        (app.buffer(&vec![0; vectors * rows * 2], 12, 0), app.buffer(&weights(rows, Dtype::F16), 4, 4));
                    let mut encoder = app.encoder();
                    let n = (rows * cols) as u64;
                    let packed =
                        app.gpu.record_quantize(&mut encoder, Format::Nf4, Dtype::F16, n, &from).await.expect("fits");
                    app.gpu.record_dequantize_range(&mut encoder, &packed, 77..n, Dtype::F16, &to).await.expect("fits");
                    let product = Product {
                        weights: &packed,
                        n_rows: 301,
                        n_cols: 131,
                        x,
                        n_vectors: 70,
                        activations: Dtype::F16,
                        bias: Some(bias),
                        y: y.clone(),
                    };
                    app.gpu.record_product(&mut encoder, &product).await.expect("fits");
                    app.gpu.queue().submit([encoder.finish()]);
                    (app.gpu.download(&packed).await.expect("finite"), app.read(&to), app.read(&y))
                })
            };
            let [(packed, values, y), (other_packed, other_values, other_y)] = [run(small), run(large)];
            assert!(packed == other_packed && values == other_values, "{name}: {shape:?}");
            assert!(y == other_y, "{name}: {shape:?}: products differ");
            assert!(y[12..].iter().any(|&b| b != 0) && values[8..].iter().any(|&b| b != 0));
        }
    }
}

/// The status tells, tensor by tensor, in places of the app's choice; nothing is waited for in between.
#[test]
fn the_status_is_in_a_buffer_that_the_app_reads() {
    for name in common::adapter_names() {
        let app = App::plain(&name);
        let statuses = app.buffer(&[SENTINEL; 24], 0, 0);
        let mut bad = weights(640, Dtype::F32);
        bad[400..404].copy_from_slice(&f32::NAN.to_le_bytes());
        let mut encoder = app.encoder();
        let mut tensors = Vec::new();
        for (i, bytes) in [weights(640, Dtype::F32), bad, weights(640, Dtype::F32)].iter().enumerate() {
            let new = |n| app.buffer(&vec![0; n], 0, 0);
            let status = BufferAt::new(&statuses.buffer, 8 * i as u64);
            let mut packed = DevicePacked::in_buffers(Format::Sym4, 640, new(320), new(40), status).expect("fits");
            let from = app.buffer(bytes, 0, 0);
            pollster::block_on(app.gpu.record_quantize_into(&mut encoder, Dtype::F32, &from, &mut packed))
                .expect("fits");
            let to = new(640 * 4);
            pollster::block_on(app.gpu.record_dequantize(&mut encoder, &packed, Dtype::F32, &to)).expect("fits");
            tensors.push(packed);
        }
        app.gpu.queue().submit([encoder.finish()]);
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&app.read(&statuses));
        assert!(words[2] != 0, "{name}: the NaN went unseen, or dequantizing took the mark away");
        assert_eq!([words[0], words[1], words[4], words[5]], [0; 4], "{name}");
        assert!(
            pollster::block_on(app.gpu.download(&tensors[1])).expect_err("invalid").to_string().contains("invalid")
        );
        pollster::block_on(app.gpu.download(&tensors[2])).expect("valid");
    }
}

#[test]
fn no_pipeline_is_built_twice_or_after_it_was_prepared() {
    let app = App::plain(&common::adapter_names()[0]);
    let work = [
        Work::Quantize { format: Format::Nf4, dtype: Dtype::F32 },
        Work::Dequantize { format: Format::Nf4, dtype: Dtype::F32 },
        Work::Product { format: Format::Nf4, activations: Dtype::F32, n_cols: 64, n_vectors: 1 },
    ];
    assert_eq!(app.gpu.n_pipelines(), 0);
    pollster::block_on(app.gpu.prepare(&work)).expect("a working device");
    let n = app.gpu.n_pipelines();
    assert_eq!(n, 4);
    for _ in 0..3 {
        // Double quantization has the same shaders, so those are there, too.
        for format in [Format::Nf4, Format::Nf4Dq] {
            let from = app.buffer(&weights(128, Dtype::F32), 0, 0);
            let [x, y] = [64, 2].map(|n| app.buffer(&weights(n, Dtype::F32), 0, 0));
            let values = app.buffer(&[0; 512], 0, 0);
            let mut encoder = app.encoder();
            pollster::block_on(async {
                let packed = app.gpu.record_quantize(&mut encoder, format, Dtype::F32, 128, &from).await?;
                app.gpu.record_dequantize_range(&mut encoder, &packed, 1..100, Dtype::F32, &values).await?;
                app.gpu.record_dequantize(&mut encoder, &packed, Dtype::F32, &values).await?;
                let product = Product {
                    weights: &packed,
                    n_rows: 2,
                    n_cols: 64,
                    x,
                    n_vectors: 1,
                    activations: Dtype::F32,
                    bias: None,
                    y,
                };
                app.gpu.record_product(&mut encoder, &product).await
            })
            .expect("fits");
            app.gpu.queue().submit([encoder.finish()]);
        }
    }
    assert_eq!(app.gpu.n_pipelines(), n);
    pollster::block_on(app.gpu.prepare(&work)).expect("a working device");
    assert_eq!(app.gpu.n_pipelines(), n);
}

#[test]
fn what_cannot_be_done_is_refused_in_one_sentence() {
    let app = App::plain(&common::adapter_names()[0]);
    let [a, b, c] = [0; 3].map(|_| app.buffer(&[0; 1024], 0, 0));
    let at = |place: &BufferAt, offset| BufferAt::new(&place.buffer, offset);
    let mut encoder = app.encoder();
    let refused = |result: wgquant::Result<()>, part: &str| {
        let error = result.expect_err(part).to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    };
    let quantize = |encoder: &mut wgpu::CommandEncoder, from: BufferAt, packed: wgquant::Result<DevicePacked>| {
        pollster::block_on(app.gpu.record_quantize_into(encoder, Dtype::F32, from, &mut packed?))
    };
    let packed = |codes, scales, status| DevicePacked::in_buffers(Format::Sym4, 64, codes, scales, status);
    refused(quantize(&mut encoder, at(&a, 2), packed(at(&b, 0), at(&b, 512), at(&c, 0))), "must be a multiple of 4");
    refused(
        quantize(&mut encoder, at(&a, 772), packed(at(&b, 0), at(&b, 512), at(&c, 0))),
        "takes 256 bytes from byte 772",
    );
    refused(quantize(&mut encoder, at(&a, 0), packed(at(&a, 512), at(&b, 512), at(&c, 0))), "are read from");
    refused(quantize(&mut encoder, at(&a, 0), packed(at(&b, 0), at(&b, 32), at(&c, 0))), "too close");
    refused(packed(at(&b, 0), at(&b, 1024), at(&c, 0)).map(drop), "packed scales takes 4 bytes");
    refused(packed(at(&b, u64::MAX - 3), at(&b, 0), at(&c, 0)).map(drop), "and the buffer has 1024");
    let q4_0 = DevicePacked::in_buffers(Format::Q4_0, 33, at(&a, 0), at(&b, 0), at(&c, 0));
    refused(q4_0.map(drop), "whole blocks of 32");
    let weights = packed(at(&b, 0), at(&b, 512), at(&c, 0)).expect("fits");
    let range = |encoder: &mut wgpu::CommandEncoder, run, to| {
        pollster::block_on(app.gpu.record_dequantize_range(encoder, &weights, run, Dtype::F32, to))
    };
    refused(range(&mut encoder, 0..65, at(&a, 0)), "elements 0..65 are not in a tensor of 64");
    refused(range(&mut encoder, 0..64, at(&b, 768)), "are read from");
    let product = |n_rows, n_cols, activations, y| Product {
        weights: &weights,
        n_rows,
        n_cols,
        x: at(&a, 0),
        n_vectors: 1,
        activations,
        bias: None,
        y,
    };
    let mut multiply = |product: Product<'_>| pollster::block_on(app.gpu.record_product(&mut encoder, &product));
    refused(multiply(product(2, 31, Dtype::F32, at(&c, 0))), "are not the 64 weights");
    refused(multiply(product(2, 32, Dtype::BF16, at(&c, 0))), "not BF16");
    refused(multiply(product(0, 32, Dtype::F32, at(&c, 0))), "nothing to multiply");
    refused(multiply(product(2, 32, Dtype::F32, at(&a, 512))), "are read from");
    refused(multiply(product(2, 32, Dtype::F32, at(&c, 1020))), "y takes 8 bytes");

    let (device, queue) = common::app_device(&common::adapter_names()[0], |adapter| {
        let mut required_limits = adapter.limits();
        required_limits.max_storage_buffers_per_shader_stage = 3;
        wgpu::DeviceDescriptor { required_limits, ..wgpu::DeviceDescriptor::default() }
    });
    refused(Gpu::from_device(device, queue).map(drop), "max_storage_buffers_per_shader_stage = 3");
    assert_eq!(*app.reported.lock().expect("no panic"), [""; 0], "refused before the device saw it");
}

/// Where the device has wgpu's pipeline cache, the driver builds with the app's, and with one of its data again: the same
/// bytes and no error.
#[test]
fn pipelines_are_built_with_the_apps_cache() {
    let has_cache = |app: &App| app.gpu.device().features().contains(wgpu::Features::PIPELINE_CACHE);
    for app in common::adapter_names().iter().map(|name| App::full(name)).filter(has_cache) {
        let build = |data: Option<&[u8]>| {
            let descriptor = wgpu::PipelineCacheDescriptor { label: None, data, fallback: false };
            // SAFETY: the data is none, or what `get_data` just gave for a cache of the same device.
            let cache = unsafe { app.gpu.device().create_pipeline_cache(&descriptor) };
            let gpu = Gpu::from_device(app.gpu.device().clone(), app.gpu.queue().clone()).expect("limits that suffice");
            let gpu = gpu.with_pipeline_cache(cache.clone());
            let packed = pollster::block_on(gpu.quantize(Format::Q8_0, &[1.0_f32; 64][..])).expect("finite");
            assert!(packed == quantize(Format::Q8_0, &[1.0_f32; 64][..]).expect("finite"));
            cache.get_data().expect("a cache has data")
        };
        // How much is in it is the driver's affair: lavapipe gives a header alone.
        let data = build(None);
        assert!(!data.is_empty());
        build(Some(&data));
        assert_eq!(*app.reported.lock().expect("no panic"), [""; 0]);
    }
}
