//! The case table: hostile and ordinary tensors through every kernel of a GPU, compared with the CPU reference by bits.
//!
//! The test suite runs it on every adapter and in the browser; an application can run it on its user's GPU.

use crate::dtype::{Dtype, Weights};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::gpu::{Gpu, Kernel};
use crate::packed::Packed;
use crate::random::SplitMix;
use crate::reference;

/// A tensor to try.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it is.
    pub name: String,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its elements, little-endian.
    pub bytes: Vec<u8>,
}

/// Where a GPU's bytes differ from the reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Label of the kernel.
    pub kernel: String,
    /// Name of the case.
    pub case: String,
    /// What differs, with the first bad index, the input's bits, both values, and how many differ.
    pub difference: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, case {:?}: {}", self.kernel, self.case, self.difference)
    }
}

impl Case {
    /// A case from the elements' bits.
    #[must_use]
    pub fn new(name: impl Into<String>, dtype: Dtype, bits: &[u32]) -> Self {
        let bytes = bits.iter().flat_map(|bits| bits.to_le_bytes()[..dtype.n_bytes()].to_vec()).collect();
        Self { name: name.into(), dtype, bytes }
    }

    /// Its elements.
    #[must_use]
    pub fn weights(&self) -> Weights<'_> {
        // The bytes were made from whole elements.
        Weights::from_le_bytes(self.dtype, &self.bytes).unwrap_or_else(|_| Weights::from(&[][..] as &[f32]))
    }
}

/// Bits of the smallest infinity, which all finite magnitudes are below.
fn infinity(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F32 => 0x7f80_0000,
        Dtype::F16 => 0x7c00,
        Dtype::BF16 => 0x7f80,
    }
}

fn sign(dtype: Dtype) -> u32 {
    1 << (8 * dtype.n_bytes() - 1)
}

/// Bits of the smallest normal number.
fn min_normal(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F32 => 1 << 23,
        Dtype::F16 => 1 << 10,
        Dtype::BF16 => 1 << 7,
    }
}

/// Finite weights of every kind, for `format`'s quantize kernels.
#[must_use]
pub fn cases(format: Format, dtype: Dtype) -> Vec<Case> {
    let block = format.info().block;
    let (infinity, sign, normal) = (infinity(dtype), sign(dtype), min_normal(dtype));
    let mut random = SplitMix::new(1);
    let mut any = |n: usize, from: u32, to: u32| -> Vec<u32> {
        let mut one = || {
            let bits = random.next();
            #[expect(clippy::cast_possible_truncation, reason = "below `to`")]
            let magnitude = from + ((bits >> 1) % u64::from(to - from)) as u32;
            magnitude | if bits & 1 == 1 { sign } else { 0 }
        };
        (0..n).map(|_| one()).collect()
    };
    let mut cases = Vec::new();
    let mut add = |name: &str, bits: &[u32]| cases.push(Case::new(name, dtype, bits));

    // Magnitudes from a few binades below 1 to 1, as weights are.
    let ordinary =
        (normal * (if dtype == Dtype::F16 { 4 } else { 118 }), normal * (if dtype == Dtype::F16 { 15 } else { 127 }));
    for n in [1, 2, 3, block - 1, block, block + 1, 2 * block - 1, 5 * block + 7, 67 * block] {
        add(&format!("ordinary, {n} elements"), &any(n, ordinary.0, ordinary.1));
    }
    add("zeros", &vec![0; 2 * block + 1]);
    add("zeros of both signs", &(0..).map(|i| if i % 3 == 0 { sign } else { 0 }).take(block + 5).collect::<Vec<_>>());
    add("a constant", &vec![ordinary.0 + 7; block + 1]);
    add("any finite bits", &any(301 * block + 5, 0, infinity));
    add("subnormals", &any(65 * block, 0, normal));
    add("around the smallest normal", &any(33 * block, normal / 2, 3 * normal));
    add("the largest magnitudes", &any(9 * block, infinity - 3, infinity));
    add("the smallest magnitudes", &any(65 * block, 0, 40));
    let mut extremes = any(9 * block, 0, 3);
    extremes.iter_mut().step_by(7).for_each(|x| *x |= infinity - 1);
    add("the largest among the smallest", &extremes);
    let equal: Vec<u32> = any(33 * block, 0, 2).iter().map(|x| (x & sign) | ordinary.0).collect();
    add("equal magnitudes of either sign", &equal);
    let sparse: Vec<u32> = any(33 * block, ordinary.0, ordinary.1)
        .into_iter()
        .enumerate()
        .map(|(i, x)| if i % 50 == 0 { x } else { 0 })
        .collect();
    add("one element a block", &sparse);
    add("ties and their neighbours", &ties(format, dtype));
    if format.info().whole_blocks {
        // Tensors that can't be packed are refused alike on both sides; whole blocks of each are tried as well.
        let whole = cases.iter().filter(|case| format.info().check_len(case.weights().len() as u64).is_err());
        let whole: Vec<_> = whole
            .map(|case| {
                let mut bytes = case.bytes.clone();
                bytes.resize(bytes.len().next_multiple_of(block * dtype.n_bytes()), 0);
                Case { name: format!("{}, padded", case.name), dtype, bytes }
            })
            .collect();
        cases.extend(whole);
    }
    cases
}

/// Blocks that begin with their maximum and go on with elements on both sides of every code boundary, for scales over all
/// exponents.
fn ties(format: Format, dtype: Dtype) -> Vec<u32> {
    let block = format.info().block;
    let (infinity, sign) = (infinity(dtype), sign(dtype));
    let mut random = SplitMix::new(2);
    let mut bits = Vec::new();
    let n_scales = if dtype == Dtype::F32 { 1100 } else { 200 };
    for i in 0..n_scales {
        // Evenly over the exponents, anywhere within them, and the ends.
        let step = u64::from(infinity) / n_scales;
        #[expect(clippy::cast_possible_truncation, reason = "below infinity's bits")]
        let absmax = match i {
            0 => 1,
            1 => infinity - 1,
            _ => (i * step + random.below(step.max(1))).max(1) as u32,
        };
        let around: Vec<u32> = boundaries(format, dtype, absmax)
            .into_iter()
            .flat_map(|x| [x - 1, x, (x - 1) | sign, x | sign])
            .filter(|x| x & !sign < absmax) // the first element stays the one that decides
            .collect();
        for rest in around.chunks(block - 1) {
            bits.push(absmax);
            bits.extend(rest);
            bits.resize(bits.len().next_multiple_of(block), 0);
        }
    }
    bits
}

/// The magnitudes at which the reference's code changes, for elements of either sign, in a block whose maximum is
/// `absmax`: found by bisection, ascending.
#[must_use]
pub fn boundaries(format: Format, dtype: Dtype, absmax: u32) -> Vec<u32> {
    let info = format.info();
    let value = |bits: u32| {
        let (mut codes, mut scale, mut values) = ([0; 16], [0; 4], [0.0; 2]);
        let scale = &mut scale[..info.scale.n_bytes()];
        // A block that can't be packed has no boundaries: its values stay 0.
        let _ = (info.codec.quantize_block)(&[dtype.widen(absmax), dtype.widen(bits)], &mut codes, scale);
        let _ = (info.codec.dequantize_block)(&codes, scale, &mut values);
        values[1].to_bits()
    };
    let mut found = Vec::new();
    for sign in [0, sign(dtype)] {
        let mut open = vec![(0, value(sign), absmax, value(absmax | sign))];
        while let Some((low, low_value, high, high_value)) = open.pop() {
            if low_value == high_value {
                continue;
            }
            if high - low == 1 {
                found.push(high);
                continue;
            }
            let middle = low + (high - low) / 2;
            let middle_value = value(middle | sign);
            open.extend([(low, low_value, middle, middle_value), (middle, middle_value, high, high_value)]);
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Weights with one that is not finite, at hostile places.
#[must_use]
pub fn non_finite_cases(format: Format, dtype: Dtype) -> Vec<Case> {
    let block = format.info().block;
    let (infinity, sign) = (infinity(dtype), sign(dtype));
    let n = if format.info().whole_blocks { 6 * block } else { 5 * block + 3 };
    let mut cases = Vec::new();
    for (name, bits) in
        [("NaN", infinity + 1), ("-NaN", sign | (infinity + 5)), ("+Inf", infinity), ("-Inf", sign | infinity)]
    {
        for index in [0, block - 1, block, 3 * block + 2, n - 1] {
            let mut elements = vec![1; n];
            elements[index] = bits;
            elements[n - 1] = bits;
            cases.push(Case::new(format!("{name} at {index}"), dtype, &elements));
        }
    }
    cases
}

/// Packed tensors for `format`'s dequantize kernels: what the cases quantize to, and codes and scales that no weights
/// gave, damaged ones among them.
#[must_use]
pub fn packed_cases(format: Format) -> Vec<(String, Packed)> {
    let info = format.info();
    let mut packed: Vec<(String, Packed)> = cases(format, Dtype::F32)
        .into_iter()
        .filter_map(|case| Some((case.name.clone(), reference::quantize(format, case.weights()).ok()?)))
        .collect();
    let mut random = SplitMix::new(3);
    for i in 0..200_u32 {
        let mut n_elems = 1 + random.below(4 * info.block as u64);
        if info.whole_blocks {
            n_elems = n_elems.next_multiple_of(info.block as u64);
        }
        let bytes = |n: u64, random: &mut SplitMix| (0..n).map(|_| random.next().to_le_bytes()[0]).collect::<Vec<u8>>();
        let codes = bytes(info.codes_bytes(n_elems), &mut random);
        let scales = bytes(info.stored_scales_bytes(n_elems), &mut random);
        let nested = bytes(info.nested_absmax_bytes(n_elems), &mut random);
        let offset = f32::from_bits(0x3c00_0000 + i);
        if let Ok(tensor) = Packed::from_nested_parts(format, n_elems, codes, scales, nested, offset) {
            packed.push((format!("random codes and scales {i}"), tensor));
        }
    }
    packed
}

/// Runs every case that `gpu` has kernels for, in the shape and the chunk size that it is set to, and calls `failed` for
/// each that differs. Gives the number of comparisons.
///
/// # Errors
/// The GPU's errors that are not about the data: a lost device, no memory.
pub async fn run(gpu: &Gpu, mut failed: impl FnMut(Failure)) -> Result<usize> {
    let mut n_compared = 0;
    let is_used = |of: &Kernel| *of == gpu.kernel(of.format, of.direction, gpu.shape(), of.dtype);
    for kernel in Kernel::all().filter(is_used) {
        for (case, difference) in match kernel.direction {
            crate::gpu::Direction::Quantize => run_quantize(gpu, kernel, &mut n_compared).await?,
            crate::gpu::Direction::Dequantize => run_dequantize(gpu, kernel, &mut n_compared).await?,
        } {
            failed(Failure { kernel: kernel.label(), case, difference });
        }
    }
    Ok(n_compared)
}

type Differences = Vec<(String, String)>;

async fn run_quantize(gpu: &Gpu, kernel: Kernel, n_compared: &mut usize) -> Result<Differences> {
    let mut differences = Vec::new();
    let (format, dtype) = (kernel.format, kernel.dtype);
    for case in cases(format, dtype).into_iter().chain(non_finite_cases(format, dtype)) {
        let expected = reference::quantize(format, case.weights());
        let actual = about_data(gpu.quantize(format, case.weights()).await)?;
        *n_compared += 1;
        let difference = match (&expected, &actual) {
            (Ok(expected), Ok(actual)) => packed_difference(case.weights(), expected, actual),
            (expected, actual) => outcome_difference(expected, actual),
        };
        differences.extend(difference.map(|difference| (case.name, difference)));
    }
    Ok(differences)
}

async fn run_dequantize(gpu: &Gpu, kernel: Kernel, n_compared: &mut usize) -> Result<Differences> {
    let mut differences = Vec::new();
    for (name, packed) in packed_cases(kernel.format) {
        let expected = reference::dequantize(&packed, kernel.dtype);
        let actual = about_data(gpu.dequantize(&packed, kernel.dtype).await)?;
        *n_compared += 1;
        let difference = match (&expected, &actual) {
            (Ok(expected), Ok(actual)) => values_difference(kernel.dtype, expected, actual),
            (expected, actual) => outcome_difference(expected, actual),
        };
        differences.extend(difference.map(|difference| (name, difference)));
    }
    Ok(differences)
}

/// Errors about the data are an outcome to compare; the others end the run.
fn about_data<T>(result: Result<T>) -> Result<Result<T>> {
    match result {
        Err(
            error @ (Error::DeviceLost { .. }
            | Error::OutOfDeviceMemory { .. }
            | Error::DeviceTimeout { .. }
            | Error::Gpu { .. }),
        ) => Err(error),
        result => Ok(result),
    }
}

/// How a packed tensor differs from the expected one, if it does.
#[must_use]
pub fn packed_difference(weights: Weights<'_>, expected: &Packed, actual: &Packed) -> Option<String> {
    let info = expected.format().info();
    let scale_bytes = info.scale.stored_bytes();
    let scales = first_difference(expected.scales(), actual.scales()).map(|(at, n)| {
        let block = at / scale_bytes;
        let part = |scales: &[u8]| format!("{:02x?}", &scales[block * scale_bytes..][..scale_bytes]);
        let element = (block * info.block).min(weights.len().saturating_sub(1));
        format!(
            "scale of block {block} (element {element}, bits {:#x}) is {} for {}, {n} bytes differ",
            weights.bits(element),
            part(actual.scales()),
            part(expected.scales()),
        )
    });
    let codes = || {
        first_difference(expected.codes(), actual.codes()).map(|(at, n)| {
            let element = (at * 8 / info.bits).min(weights.len().saturating_sub(1));
            format!(
                "code byte {at} (element {element}, bits {:#x}) is {:#04x} for {:#04x}, {n} bytes differ",
                weights.bits(element),
                actual.codes()[at],
                expected.codes()[at],
            )
        })
    };
    let nested = || {
        let (expected, actual) = (expected.nested(), actual.nested());
        (expected != actual).then(|| format!("nested scales are {actual:?} for {expected:?}"))
    };
    scales.or_else(codes).or_else(nested)
}

fn values_difference(dtype: Dtype, expected: &[u8], actual: &[u8]) -> Option<String> {
    first_difference(expected, actual).map(|(at, n)| {
        let index = at / dtype.n_bytes();
        let part = |bytes: &[u8]| format!("{:02x?}", &bytes[index * dtype.n_bytes()..][..dtype.n_bytes()]);
        format!("value {index} is {} for {} (little-endian), {n} bytes differ", part(actual), part(expected))
    })
}

/// Index of the first byte that differs, and how many do; a length that differs counts from the shorter one's end.
fn first_difference(expected: &[u8], actual: &[u8]) -> Option<(usize, usize)> {
    let mut differing = expected.iter().zip(actual).enumerate().filter(|(_, (e, a))| e != a).map(|(at, _)| at);
    let longer = expected.len().abs_diff(actual.len());
    match differing.next() {
        Some(at) => Some((at, 1 + differing.count() + longer)),
        None => (longer > 0).then(|| (expected.len().min(actual.len()), longer)),
    }
}

fn outcome_difference<T>(expected: &Result<T>, actual: &Result<T>) -> Option<String> {
    let text = |result: &Result<T>| match result {
        Ok(_) => "a result".to_owned(),
        Err(error) => format!("the error {:?}", error.to_string()),
    };
    let (expected, actual) = (text(expected), text(actual));
    (expected != actual).then(|| format!("gave {actual} for {expected}"))
}
