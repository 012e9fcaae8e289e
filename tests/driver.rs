//! The driver beyond the case table: what must stay untouched, lengths beyond 32 bits, devices with less, devices lost.

mod common;

use std::sync::atomic::{AtomicU32, Ordering};

use wgquant::gpu::{Access, Direction, Kernel, Params, Shape, Work};
use wgquant::{Dtype, Engine, Error, Format, Gpu, Weights, quantize, selftest};

const SENTINEL: u8 = 0xa5;

/// One dispatch of `source` over `inputs`, by hand: every output buffer is longer than needed and filled with a sentinel,
/// and far more workgroups run than there are blocks. Gives the whole outputs.
fn dispatch_by_hand(gpu: &Gpu, kernel: Kernel, source: &str, inputs: &[&[u8]], n_elems: u32) -> Vec<Vec<u8>> {
    use wgpu::util::DeviceExt as _;
    let device = gpu.device();
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("by hand"),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("by hand"),
        layout: None,
        module: &module,
        entry_point: Some(kernel.entry_point()),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let buffer = |contents: &[u8]| {
        device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::UNIFORM,
        })
    };
    let n_blocks = n_elems.div_ceil(u32::try_from(kernel.format.info().block).expect("small"));
    let params = buffer(bytemuck::bytes_of(&Params { n_elems, n_blocks, ..Params::default() }));
    let inputs: Vec<_> = inputs
        .iter()
        .map(|bytes| {
            let mut padded = bytes.to_vec();
            padded.resize(bytes.len().next_multiple_of(16), 0xff); // NaN: what lies past the end must not be used
            buffer(&padded)
        })
        .collect();
    let outputs: Vec<_> = kernel
        .output_block_bytes()
        .iter()
        .map(|block_bytes| buffer(&vec![SENTINEL; (n_blocks as usize + 3) * block_bytes.next_multiple_of(16)]))
        .collect();
    let status = buffer(&[0; 8]);
    let all: Vec<_> = [&params].into_iter().chain(&inputs).chain(&outputs).chain([&status]).collect();
    let entries: Vec<_> = (0..)
        .zip(all)
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    });
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(n_blocks + 2, 3, 1);
    }
    gpu.queue().submit([encoder.finish()]);
    outputs.iter().map(|buffer| pollster::block_on(gpu.read_buffer(buffer)).expect("readable")).collect()
}

/// Weights of three blocks and a short one, in `dtype`.
fn case(format: Format, dtype: Dtype) -> selftest::Case {
    let block = format.info().block;
    let cases = selftest::cases(format, dtype);
    let n = if format.info().whole_blocks { 67 * block } else { 5 * block + 7 };
    let wanted = format!("ordinary, {n} elements");
    cases.into_iter().find(|case| case.name == wanted).expect("a case of that name")
}

#[test]
fn what_lies_past_the_last_block_stays_untouched() {
    for name in common::adapter_names() {
        let gpu = common::open(&name);
        // Where weights are read in words, what is written is the same: one shape will do.
        let apart = |kernel: &Kernel| kernel.access == Access::Vectors || kernel.direction == Direction::Dequantize;
        for kernel in Kernel::all().filter(|kernel| apart(kernel) || kernel.shape == Shape::Block) {
            let case = case(kernel.format, kernel.dtype);
            let n_elems = u32::try_from(case.weights().len()).expect("small");
            let expected = quantize(kernel.format, case.weights()).expect("finite");
            let packed = || [padded_codes(kernel, expected.codes(), n_elems), scale_words(kernel, expected.scales())];
            let inputs = match kernel.direction {
                Direction::Quantize => vec![case.bytes.clone()],
                Direction::Dequantize => packed().to_vec(),
            };
            let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
            let outputs = dispatch_by_hand(&gpu, kernel, &kernel.source(), &inputs, n_elems);
            let n_blocks = kernel.format.info().n_blocks(n_elems.into());
            for (output, block_bytes) in outputs.iter().zip(kernel.output_block_bytes()) {
                let used = usize::try_from(n_blocks).expect("small") * block_bytes;
                assert!(output[used..].iter().all(|&b| b == SENTINEL), "{name}: {} wrote past its end", kernel.label());
            }
            if kernel.direction == Direction::Quantize {
                let info = kernel.format.info();
                let n_codes = expected.codes().len();
                assert_eq!(&outputs[0][..n_codes], expected.codes(), "{name}: {}", kernel.label());
                let whole = usize::try_from(n_blocks).expect("small") * info.block_codes_bytes();
                assert!(outputs[0][n_codes..whole].iter().all(|&b| b == 0), "{name}: {}: tail", kernel.label());
            }
        }
    }
}

/// Scales as the kernels take them: a word each.
fn scale_words(kernel: Kernel, scales: &[u8]) -> Vec<u8> {
    let word = |scale: &[u8]| {
        let mut word = [0; 4];
        word[..scale.len()].copy_from_slice(scale);
        word
    };
    scales.chunks_exact(kernel.format.info().scale.n_bytes()).flat_map(word).collect()
}

fn padded_codes(kernel: Kernel, codes: &[u8], n_elems: u32) -> Vec<u8> {
    let info = kernel.format.info();
    let mut codes = codes.to_vec();
    codes.resize(usize::try_from(info.n_blocks(n_elems.into())).expect("small") * info.block_codes_bytes(), 0);
    codes
}

/// The comparison must notice one changed constant in a shader, in every quantize kernel.
#[test]
fn a_changed_constant_is_noticed() {
    let gpu = common::open(&common::adapter_names()[0]);
    // A nested format has its base format's kernels; its scales are quantized on the host.
    let is_nested = |kernel: &Kernel| kernel.format.info().scale == wgquant::format::ScaleType::Nested;
    let quantizes = |k: &Kernel| k.direction == Direction::Quantize && k.access == Access::Vectors;
    for kernel in Kernel::all().filter(|kernel| quantizes(kernel) && !is_nested(kernel)) {
        let case = case(kernel.format, kernel.dtype);
        let n_elems = u32::try_from(case.weights().len()).expect("small");
        let expected = quantize(kernel.format, case.weights()).expect("finite");
        let difference = |source: &str| {
            let outputs = dispatch_by_hand(&gpu, kernel, source, &[&case.bytes], n_elems);
            let codes = outputs[0][..expected.codes().len()].to_vec();
            let width = kernel.format.info().scale.n_bytes();
            let n_blocks = expected.scales().len() / width;
            // On the device a scale takes a word, whatever its type.
            let scales = outputs[1].chunks_exact(4).take(n_blocks).flat_map(|word| word[..width].to_vec()).collect();
            let actual = wgquant::Packed::from_parts(kernel.format, n_elems.into(), codes, scales).expect("sizes fit");
            selftest::packed_difference(case.weights(), &expected, &actual)
        };
        let source = kernel.source();
        assert_eq!(difference(&source), None, "{}", kernel.label());
        let mut n_changed = 0;
        // Where codes are guessed, what works for those in doubt has too little to do to be noticed here.
        let of_doubt = ["i32(exponent(x)) - 150"];
        for (from, to) in [
            ("OFFSET, ordinary", "OFFSET + 1.0, ordinary"),
            ("let block = ", "let block = 1u + "),
            ("+ (K - 1u) / 2u) / K", "+ (K - 1u) / 2u) / (K + 2u)"), // sym4, sym8
            ("i32(exponent(x)) - 150", "i32(exponent(x)) - 149"),    // the formats with a reciprocal
            ("i32(scale) + 21", "i32(scale) + 20"),                  // mxfp4
        ]
        .into_iter()
        .filter(|(from, _)| !kernel.guesses() || !of_doubt.contains(from))
        {
            let broken = source.replace(from, to);
            if broken != source {
                n_changed += 1;
                assert!(difference(&broken).is_some(), "{}: {to:?} went unnoticed", kernel.label());
            }
        }
        assert!(n_changed >= 2, "{}: {n_changed} constants to change", kernel.label());
    }
}

/// Guesses that are off by as much as WGSL allows, to either side, end in the same bytes; the integers that settle them do
/// work; and guesses that are off by more are noticed.
#[test]
fn guesses_at_both_ends_of_what_is_allowed_give_the_same_bytes() {
    let is_nested = |kernel: &Kernel| kernel.format.info().scale == wgquant::format::ScaleType::Nested;
    for name in common::adapter_names() {
        let gpu = common::open(&name);
        // What is guessed is an `f32`, whatever the weights were.
        let of_f32 = |kernel: &Kernel| kernel.dtype == Dtype::F32 && kernel.access == Access::Vectors;
        let kernels = Kernel::all().filter(|kernel| kernel.guesses() && of_f32(kernel));
        let kernels: Vec<_> = kernels.filter(|kernel| !is_nested(kernel)).collect();
        assert_eq!(kernels.len(), 4, "kernels that guess");
        for kernel in kernels {
            let cases = selftest::cases(kernel.format, kernel.dtype);
            let ties = cases.into_iter().find(|case| case.name == "ties and their neighbours").expect("such a case");
            // Not all of them: every dispatch works on far more blocks than there are.
            let blocks = ties.bytes.chunks(4 * kernel.format.info().block).step_by(16);
            let bytes = blocks.collect::<Vec<_>>().concat();
            let weights = Weights::from_le_bytes(Dtype::F32, &bytes).expect("whole elements");
            let n_elems = u32::try_from(weights.len()).expect("small");
            let expected = quantize(kernel.format, weights).expect("finite");
            let source = kernel.source();
            let codes = |from: &str, to: &str| {
                let changed = source.replace(from, to);
                assert!(changed != source || from == to, "{from:?} isn't there");
                let outputs = dispatch_by_hand(&gpu, kernel, &changed, &[&bytes], n_elems);
                outputs[0][..expected.codes().len()].to_vec()
            };
            const PUSH: &str = "PUSH: u32 = 0u";
            // Three units of the fraction are more than all of its operations may be off; the device's own errors add to them.
            for push in ["PUSH: u32 = 0u", "PUSH: u32 = 3u", "PUSH: u32 = 0xfffffffdu"] {
                assert!(codes(PUSH, push) == expected.codes(), "{name}: {}: {push}", kernel.label());
            }
            for push in ["PUSH: u32 = 32u", "PUSH: u32 = 0xffffffe0u"] {
                assert!(codes(PUSH, push) != expected.codes(), "{name}: {}: {push}", kernel.label());
            }
            let label = kernel.label();
            assert!(codes("least < DOUBTFUL", "false") != expected.codes(), "{name}: {label}: nothing is in doubt");
        }
    }
}

/// A tensor longer than 2^31 elements, whose blocks repeat, so that the reference is known without computing it all.
#[test]
fn more_than_two_to_the_31_elements() {
    const PERIOD: usize = 64 * 1009; // elements; chunks are no multiple of it
    const TAIL: usize = 3;
    let gpu = common::open(&common::adapter_names()[0]);
    let format = Format::Sym4;
    let info = format.info();
    let n_elems = (1 << 31) + 64 * 5 + TAIL as u64;
    let bits: Vec<u16> = (0..PERIOD).map(|i| 0x3c00 + u16::try_from(i * 7919 % 0x380).expect("small")).collect();
    let weights: &[half::bf16] = bytemuck::cast_slice(&bits);
    let period = quantize(format, weights).expect("finite");
    let tail_at = usize::try_from((n_elems - TAIL as u64) % PERIOD as u64).expect("small");
    let tail = quantize(format, &weights[tail_at..tail_at + TAIL]).expect("finite");

    let whole = n_elems - TAIL as u64;
    let expected = |period: &[u8], tail: &[u8], n_whole: u64, at: u64, len: usize| -> Vec<u8> {
        (at..at + len as u64)
            .map(|at| match usize::try_from(at.saturating_sub(n_whole)).expect("small") {
                _ if at < n_whole => period[usize::try_from(at % period.len() as u64).expect("small")],
                past => tail[past],
            })
            .collect()
    };
    let (mut codes_at, mut scales_at) = (0, 0);
    pollster::block_on(Engine::Gpu(gpu).quantize_stream(
        format,
        Dtype::BF16,
        n_elems,
        |first, out| {
            let mut at = usize::try_from(first % PERIOD as u64).expect("small");
            let mut out: &mut [u16] = bytemuck::cast_slice_mut(out);
            while !out.is_empty() {
                let n = out.len().min(PERIOD - at);
                let (head, rest) = out.split_at_mut(n);
                head.copy_from_slice(&bits[at..at + n]);
                (out, at) = (rest, 0);
            }
            Ok(())
        },
        |chunk| {
            assert_eq!(codes_at, info.codes_bytes(chunk.first_elem));
            let codes = expected(period.codes(), tail.codes(), info.codes_bytes(whole), codes_at, chunk.codes.len());
            assert!(chunk.codes == codes, "codes from byte {codes_at} on differ");
            let n_scales = chunk.scales.len();
            let scales = expected(period.scales(), tail.scales(), info.scales_bytes(whole), scales_at, n_scales);
            assert!(chunk.scales == scales, "scales from byte {scales_at} on differ");
            codes_at += chunk.codes.len() as u64;
            scales_at += n_scales as u64;
            Ok(())
        },
    ))
    .expect("finite weights");
    assert_eq!((codes_at, scales_at), (info.codes_bytes(n_elems), info.scales_bytes(n_elems)));
}

/// One workgroup a block goes beyond what a dimension of a dispatch may have.
#[test]
fn more_than_65535_workgroups() {
    for name in common::adapter_names() {
        let gpu = common::open(&name).with_shape(Shape::Block);
        let format = Format::Sym4;
        let n = 65_537 * format.info().block + 11;
        let weights: Vec<f32> =
            (0..n).map(|i| f32::from(u16::try_from(i * 7919 % 65_521).expect("small")) - 3e4).collect();
        let actual = pollster::block_on(gpu.quantize(format, &weights)).expect("finite");
        let expected = quantize(format, &weights).expect("finite");
        assert_eq!(selftest::packed_difference((&weights).into(), &expected, &actual), None, "{name}");
        let values = pollster::block_on(gpu.dequantize(&actual, Dtype::F32)).expect("valid");
        assert!(values == wgquant::dequantize(&expected, Dtype::F32).expect("valid"), "{name}: values differ");
    }
}

/// Every shape is tried once; another device on the same adapter knows the result, and bytes stay the same.
#[test]
fn the_fastest_shape_is_measured_once() {
    for name in common::adapter_names() {
        let (format, dtype) = (Format::Nf4, Dtype::F16);
        for work in [Work::Quantize { format, dtype }, Work::Dequantize { format, dtype }] {
            let measured = pollster::block_on(common::open(&name).with_fastest_shape(work)).expect("a working device");
            assert_eq!(measured.n_pipelines(), Shape::ALL.len(), "{name}: {work:?}");
            let again = pollster::block_on(common::open(&name).with_fastest_shape(work)).expect("a working device");
            assert_eq!((again.n_pipelines(), again.shape()), (0, measured.shape()), "{name}: {work:?}");
            let small = common::open_with(&name, |limits| limits.max_compute_invocations_per_workgroup = 128);
            let small = pollster::block_on(small.with_fastest_shape(work)).expect("a working device");
            assert_ne!(small.shape(), Shape::Tile, "{name}: {work:?}: its workgroups are too small");

            let weights: Vec<f32> = (0..10_000_u16).map(|i| f32::from(i % 1009) / 64.0 - 7.0).collect();
            let expected = quantize(format, &weights).expect("finite");
            let actual = pollster::block_on(again.quantize(format, &weights)).expect("finite");
            assert_eq!(selftest::packed_difference((&weights).into(), &expected, &actual), None, "{name}");
        }
    }
}

/// A device with far smaller limits than any adapter has: dispatches fold after 7 workgroups, bindings hold 16 KiB.
#[test]
fn small_limits_change_no_byte() {
    for name in common::adapter_names() {
        for shape in Shape::ALL {
            let gpu = common::open_with(&name, |limits| {
                limits.max_compute_workgroups_per_dimension = 7;
                limits.max_storage_buffer_binding_size = 16 << 10;
            })
            .with_shape(shape);
            let mut failures = Vec::new();
            let n = pollster::block_on(selftest::run(&gpu, |failure| failures.push(failure.to_string())));
            assert!(failures.is_empty(), "{name}: {}", failures.join("\n"));
            assert!(n.expect("a working device") > 500, "{name}");
        }
    }
}

#[test]
fn weights_stay_on_the_device_between_quantize_and_dequantize() {
    for name in common::adapter_names() {
        let gpu = common::open(&name);
        // On the device nested scales are not yet quantized, so the values are the base format's.
        let not_nested = |format: &&Format| format.info().scale != wgquant::format::ScaleType::Nested;
        let formats = Format::ALL.iter().filter(not_nested);
        for (&format, dtype) in formats.zip([Dtype::BF16, Dtype::F32].into_iter().cycle()) {
            let case = case(format, dtype);
            let n_elems = case.weights().len() as u64;
            let (expected, actual, values) =
                pollster::block_on(on_device(&gpu, format, &case, n_elems)).expect("finite");
            assert_eq!(selftest::packed_difference(case.weights(), &expected, &actual), None, "{name}: {format}");
            let expected = wgquant::dequantize(&expected, Dtype::F16).expect("in range");
            assert!(values[..expected.len()] == expected, "{name}: {format}: values differ");
        }
    }
}

async fn on_device(
    gpu: &Gpu,
    format: Format,
    case: &selftest::Case,
    n_elems: u64,
) -> wgquant::Result<(wgquant::Packed, wgquant::Packed, Vec<u8>)> {
    use wgpu::util::DeviceExt as _;
    let mut bytes = case.bytes.clone();
    bytes.resize(bytes.len().next_multiple_of(16), 0xff);
    let weights = gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("weights"),
        contents: &bytes,
        usage: wgpu::BufferUsages::STORAGE,
    });
    let n_out = n_elems.next_multiple_of(format.info().block as u64) * 2;
    let values = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("values"),
        size: n_out,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let packed = gpu.record_quantize(&mut encoder, format, case.dtype, n_elems, &weights).await?;
    gpu.record_dequantize(&mut encoder, &packed, Dtype::F16, &values).await?;
    gpu.queue().submit([encoder.finish()]);
    Ok((quantize(format, case.weights())?, gpu.download(&packed).await?, gpu.read_buffer(&values).await?))
}

#[test]
fn a_buffer_that_does_not_fit_is_refused() {
    let gpu = common::open(&common::adapter_names()[0]);
    let buffer = |size, usage| {
        gpu.device().create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mut record = |buffer: &wgpu::Buffer, n| {
        pollster::block_on(gpu.record_quantize(&mut encoder, Format::Sym4, Dtype::F32, n, buffer)).map(|_| ())
    };
    let small = record(&buffer(64, wgpu::BufferUsages::STORAGE), 17).expect_err("16 elements fit");
    assert!(
        small.to_string().contains("17 F32 weights takes 68 bytes from byte 0 on, and the buffer has 64"),
        "{small}"
    );
    let wrong_use = record(&buffer(64, wgpu::BufferUsages::COPY_DST), 16).expect_err("no storage buffer");
    assert!(matches!(wrong_use, Error::Refused(_)), "{wrong_use}");
    assert!(!wrong_use.to_string().contains('\n'), "one sentence: {wrong_use}");
}

/// A device that is gone before the work or in the middle of it is an error value, and soon.
#[test]
fn a_lost_device_is_an_error() {
    for name in common::adapter_names() {
        let gpu = common::open(&name);
        gpu.device().destroy();
        let started = std::time::Instant::now();
        let error = pollster::block_on(gpu.quantize(Format::Sym4, &vec![1.0_f32; 1000])).expect_err("no device");
        assert!(matches!(error, Error::DeviceLost { .. }), "{name}: {error}");

        let engine = Engine::Gpu(common::open(&name).with_max_chunk_bytes(4096));
        let Engine::Gpu(gpu) = &engine else { unreachable!("just made") };
        let device = gpu.device().clone();
        let n_read = AtomicU32::new(0);
        let error = pollster::block_on(engine.quantize_stream(
            Format::Sym8,
            Dtype::F32,
            1 << 16,
            |_, out| {
                if n_read.fetch_add(1, Ordering::Relaxed) == 4 {
                    device.destroy();
                }
                out.fill(0);
                Ok(())
            },
            |_| Ok(()),
        ))
        .expect_err("the device is gone");
        assert!(matches!(error, Error::DeviceLost { .. }), "{name}: {error}");
        let n_read = n_read.into_inner();
        assert!(n_read < 10, "{name}: {n_read} pieces after the loss");
        assert!(started.elapsed().as_secs() < 60, "{name}: took {:?}", started.elapsed());
    }
}

/// An error of the caller's own ends the stream with that error, and the driver works on.
#[test]
fn a_failing_reader_or_writer_ends_the_stream() {
    let engine = Engine::Gpu(common::open(&common::adapter_names()[0]).with_max_chunk_bytes(4096));
    let refuse = || Err(Error::Refused("enough".to_owned()));
    let run = |fail_read: bool| {
        pollster::block_on(engine.quantize_stream(
            Format::Sym4,
            Dtype::F32,
            1 << 14,
            |first, out| {
                out.fill(0);
                if fail_read && first > 5000 { refuse() } else { Ok(()) }
            },
            |chunk| if chunk.first_elem > 5000 { refuse() } else { Ok(()) },
        ))
    };
    assert_eq!(run(true).expect_err("refused").to_string(), "enough");
    assert_eq!(run(false).expect_err("refused").to_string(), "enough");
    let Engine::Gpu(gpu) = &engine else { unreachable!("just made") };
    assert_eq!(
        pollster::block_on(gpu.quantize(Format::Sym4, &vec![1.0_f32; 5000])).expect("finite"),
        quantize(Format::Sym4, &vec![1.0_f32; 5000]).expect("finite")
    );
}

#[test]
fn work_in_memory_ends_when_it_is_told_to() {
    for name in common::adapter_names() {
        let gpu = Engine::Gpu(common::open(&name).with_max_chunk_bytes(64 << 10));
        let weights: Vec<f32> = (0..200_000_u32).map(|ix| f32::from((ix % 977) as u16) - 488.0).collect();
        for (format, stops_at) in [(Format::Nf4Dq, 1), (Format::Sym8, 3), (Format::Mxfp4, u32::MAX)] {
            let mut n_checks = 0;
            let mut check = || {
                n_checks += 1;
                if n_checks == stops_at { Err(Error::GivenUp) } else { Ok(()) }
            };
            let done = pollster::block_on(gpu.quantize(format, &weights[..], &mut check));
            let packed = quantize(format, &weights[..]).expect("finite");
            match stops_at {
                u32::MAX => assert_eq!(done.expect("finite"), packed),
                _ => assert!(matches!(done, Err(Error::GivenUp))),
            }
            n_checks = 0;
            let mut check = || {
                n_checks += 1;
                if n_checks == stops_at { Err(Error::GivenUp) } else { Ok(()) }
            };
            let mut values = vec![0; weights.len() * 4];
            let done = pollster::block_on(gpu.dequantize(&packed, Dtype::F32, &mut values, &mut check));
            match stops_at {
                u32::MAX => assert!(values == wgquant::dequantize(&packed, Dtype::F32).expect("sound")),
                _ => assert!(matches!(done, Err(Error::GivenUp))),
            }
            assert!(n_checks >= stops_at.min(8), "{n_checks} pieces");
        }
    }
}

/// What one driver on a device has compiled, all others on it have.
#[test]
fn drivers_on_one_device_share_their_kernels() {
    for name in common::adapter_names() {
        let one = common::open(&name);
        let weights = vec![1.5_f32; 300];
        let other = one.share();
        let by = |gpu: &Gpu| pollster::block_on(gpu.quantize(Format::Nf4, &weights)).expect("finite");
        assert_eq!((one.n_pipelines(), other.n_pipelines()), (0, 0));
        assert_eq!(by(&other), quantize(Format::Nf4, &weights).expect("finite"));
        let n = one.n_pipelines();
        assert_eq!((n > 0, other.n_pipelines(), one.share().n_pipelines()), (true, n, n));
        drop(other);
        assert_eq!(by(&one), quantize(Format::Nf4, &weights).expect("finite"));
        assert_eq!(one.n_pipelines(), n);
    }
}
