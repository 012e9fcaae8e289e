//! The five tests that the contract names.

use super::*;

/// Weights that are no multiples of anything, in -1..1.
fn wavy(n: usize) -> Vec<f32> {
    #[expect(clippy::cast_precision_loss, reason = "small indices")]
    let wave = |i: usize| (i as f32 * 0.7).sin() * (i as f32 * 0.13).cos();
    (0..n).map(wave).collect()
}

#[test]
fn test_quantize_dequantize_round_trip() {
    let weights = wavy(256);
    let packed = quantize(&weights, 64).expect("finite weights");
    for (index, (x, y)) in weights.iter().zip(packed.dequantize().expect("our own codes")).enumerate() {
        let scale = f64::from(packed.scales[index / 64]);
        let error = (f64::from(*x) - f64::from(y)).abs();
        assert!(error < scale, "element {index}: {x} came back as {y}, scale {scale}");
        assert!(error <= scale / 2.0 * (1.0 + 7.0 * 2f64.powi(-22)), "element {index}: {x} came back as {y}");
    }
}

#[test]
fn test_quantize_zeros() {
    let packed = quantize(&[0.0, -0.0, 0.0, -0.0, 0.0], 64).expect("zeros are finite");
    assert_eq!(packed.data, [0, 0, 0]);
    assert_eq!(packed.scales, [0.0]);
    let back = packed.dequantize().expect("our own codes");
    assert!(back.iter().all(|x| x.to_bits() == 0), "zeros come back as +0.0: {back:?}");
}

#[test]
fn test_quantize_multiple_blocks() {
    let weights: Vec<f32> =
        [1.0, 100.0, 0.01].iter().flat_map(|scale| wavy(64).into_iter().map(move |x| x * scale)).collect();
    let packed = quantize(&weights, 64).expect("finite weights");
    assert_eq!(packed.scales.len(), 3);
    for (block_ix, block) in weights.chunks(64).enumerate() {
        let alone = quantize(block, 64).expect("finite weights");
        assert_eq!(alone.scales[0], packed.scales[block_ix], "block {block_ix} depends on its neighbours");
        assert_eq!(alone.data, packed.data[block_ix * 32..][..32], "block {block_ix} depends on its neighbours");
    }
}

#[test]
fn test_quantize_odd_length() {
    for n in [1, 3, 63, 65, 127] {
        let weights = wavy(n + 1)[1..].to_vec();
        let packed = quantize(&weights, 64).expect("finite weights");
        assert_eq!(packed.data.len(), n.div_ceil(2));
        assert_eq!(packed.data[n / 2] & 0xf, 0, "an odd tail leaves the low nibble 0");
        assert_eq!(packed.dequantize().expect("our own codes").len(), n);
    }
    assert_eq!(
        quantize(&[7.0, -7.0, 3.0], 64).expect("finite").data,
        [0x79, 0x30],
        "the even element is in the high nibble"
    );
}

#[test]
fn test_quantized_data_size() {
    let whole = quantize(&wavy(6400), 64).expect("finite weights");
    assert_eq!((whole.data.len(), whole.scales.len(), whole.size_in_bytes()), (3200, 100, 3600));
    assert!((whole.compression_ratio() - 32.0 / (4.0 + 32.0 / 64.0)).abs() < 1e-12, "{}", whole.compression_ratio());
    for n in 2..300 {
        let packed = quantize(&wavy(n), 64).expect("finite weights");
        assert!(packed.compression_ratio() > 1.0 && packed.compression_ratio().is_finite(), "{n} weights");
    }
    // The contract's `ret > 1.0` fails for one weight: 4 bytes become 5.
    assert!((quantize(&[1.0], 64).expect("finite").compression_ratio() - 0.8).abs() < 1e-12);
}
