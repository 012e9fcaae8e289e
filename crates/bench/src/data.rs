//! What is quantized: weights as models have them.

use rayon::prelude::*;

const CHUNK: usize = 1 << 16;

/// Normally distributed weights (a sum of uniform numbers), the same every time.
pub(crate) fn weights(n_elems: usize) -> Vec<f32> {
    let mut weights = vec![0.0; n_elems];
    weights.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, weights)| {
        let mut state = chunk as u64;
        for weight in weights {
            let mut sum = 0.0;
            for _ in 0..4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                sum += (state >> 40) as f32 / 16_777_216.0 - 0.5;
            }
            *weight = sum * 0.03;
        }
    });
    weights
}
