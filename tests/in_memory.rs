//! Tensors in memory in pieces, and whether they are what they should be.

#![cfg(test)] // so that lints know every helper for a part of a test

use std::cell::RefCell;

use wgquant::verify::verify_tensor;
use wgquant::{Dtype, Engine, Error, Format, Packed, Weights, quantize};

/// More than one piece of the CPU path, and a last block that is short where that goes.
fn weights(format: Format) -> Vec<u8> {
    let n = if format.info().whole_blocks { 1_100_000_usize.next_multiple_of(64) } else { 1_100_001 };
    (0..n).flat_map(|i| ((i % 977) as f32 / 977.0 - 0.4).to_le_bytes()).collect()
}

fn in_pieces(format: Format, bytes: &[u8], done: impl FnMut(u64) -> wgquant::Result<()>) -> wgquant::Result<Packed> {
    let read = |first: u64, out: &mut [u8]| {
        let at = usize::try_from(first).unwrap() * 4;
        out.copy_from_slice(&bytes[at..at + out.len()]);
        Ok(())
    };
    let n_elems = (bytes.len() / 4) as u64;
    pollster::block_on(Engine::Cpu.quantize_to_memory(format, Dtype::F32, n_elems, read, done))
}

#[test]
fn pieces_give_what_the_whole_gives_and_progress_ends_at_its_end() {
    for &format in Format::ALL {
        let bytes = weights(format);
        let seen = RefCell::new(Vec::new());
        let packed = in_pieces(format, &bytes, |n| {
            seen.borrow_mut().push(n);
            Ok(())
        })
        .unwrap();
        let weights = Weights::from_le_bytes(Dtype::F32, &bytes).unwrap();
        assert_eq!(packed, quantize(format, weights).unwrap(), "{format}");
        let seen = seen.into_inner();
        assert!(seen.len() > 1 && seen.is_sorted() && *seen.last().unwrap() == packed.n_elems(), "{format}: {seen:?}");

        let mut values = Vec::new();
        let write = |_: u64, piece: &[u8]| {
            values.extend_from_slice(piece);
            Ok(())
        };
        pollster::block_on(Engine::Cpu.dequantize_from_memory(&packed, Dtype::F16, write)).unwrap();
        assert_eq!(values, wgquant::dequantize(&packed, Dtype::F16).unwrap(), "{format}");
    }
    let stopped = in_pieces(Format::Sym4, &weights(Format::Sym4), |_| Err(Error::GivenUp));
    assert!(matches!(stopped, Err(Error::GivenUp)));
}

#[test]
fn every_part_of_a_packed_tensor_is_checked() {
    for &format in Format::ALL {
        let bytes = weights(format);
        let weights = Weights::from_le_bytes(Dtype::F32, &bytes).unwrap();
        let packed = quantize(format, weights).unwrap();
        let figures = verify_tensor(weights, &packed).unwrap();
        assert!(figures.n_elems == packed.n_elems() && figures.mse() > 0.0, "{format}: {figures:?}");

        let parts = || [packed.codes(), packed.scales(), packed.nested_absmax()].map(<[u8]>::to_vec);
        let changed = |part: Option<usize>| {
            let [codes, scales, absmax] = {
                let mut parts = parts();
                if let Some(byte) = part.and_then(|part| parts[part].last_mut()) {
                    *byte ^= 1;
                }
                parts
            };
            let offset = if part.is_none() { packed.nested_offset() + 1.0 } else { packed.nested_offset() };
            Packed::from_nested_parts(format, packed.n_elems(), codes, scales, absmax, offset).unwrap()
        };
        let nested = !packed.nested_absmax().is_empty();
        for part in [Some(0), Some(1), Some(2), None].into_iter().take(if nested { 4 } else { 2 }) {
            let error = verify_tensor(weights, &changed(part)).expect_err("a part was changed");
            assert!(matches!(error, Error::Mismatch(_)), "{format}, part {part:?}: {error}");
        }
        let fewer = weights.slice(0..weights.len() - 64);
        assert!(matches!(verify_tensor(fewer, &packed), Err(Error::Refused(_))), "{format}");
    }
}
