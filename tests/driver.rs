//! The driver beyond the case table: lengths beyond 32 bits, devices with less, devices lost, work that is ended.

mod common;

use std::sync::atomic::{AtomicU32, Ordering};

use wgquant::gpu::{Shape, Work};
use wgquant::{Dtype, Engine, Error, Format, Gpu, quantize, selftest};

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
            let case = common::case(format, dtype);
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
