//! Single kernels, dispatched by hand, as their texts are and with changes: what they must leave untouched, that a changed
//! constant is noticed, and guesses that are off.

mod common;

use wgquant::gpu::{Access, Direction, Kernel, Params, Shape};
use wgquant::{Dtype, Gpu, Weights, quantize, selftest};

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

#[test]
fn what_lies_past_the_last_block_stays_untouched() {
    for name in common::adapter_names() {
        let gpu = common::open(&name);
        // Where weights are read in words, what is written is the same: one shape will do.
        let apart = |kernel: &Kernel| kernel.access != Access::Words || kernel.direction == Direction::Dequantize;
        let runs = |kernel: &Kernel| gpu.device().features().contains(kernel.needs()) && !is_nested(kernel);
        for kernel in Kernel::all().filter(|kernel| runs(kernel) && (apart(kernel) || kernel.shape == Shape::Block)) {
            let case = common::case(kernel.format, kernel.dtype);
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

/// A nested format has its base format's kernels; its scales are quantized on the host.
fn is_nested(kernel: &Kernel) -> bool {
    kernel.format.info().scale == wgquant::format::ScaleType::Nested
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
    let quantizes = |k: &Kernel| k.direction == Direction::Quantize && k.access != Access::Words;
    for kernel in Kernel::all().filter(|kernel| quantizes(kernel) && !is_nested(kernel)) {
        let case = common::case(kernel.format, kernel.dtype);
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
