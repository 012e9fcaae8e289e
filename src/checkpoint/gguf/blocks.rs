//! Blocks as GGUF stores them, each scale before its codes, and as everything else here has them: all codes, all scales.

use crate::format::FormatInfo;

/// Bytes of one block.
pub(crate) const fn block_bytes(info: &FormatInfo) -> usize {
    info.scale.n_bytes() + info.block_codes_bytes()
}

/// Makes `blocks` the whole blocks of which these are the codes and the scales.
pub(crate) fn interleave(info: &FormatInfo, codes: &[u8], scales: &[u8], blocks: &mut Vec<u8>) {
    blocks.clear();
    let scales = scales.chunks_exact(info.scale.n_bytes());
    for (scale, codes) in scales.zip(codes.chunks_exact(info.block_codes_bytes())) {
        blocks.extend_from_slice(scale);
        blocks.extend_from_slice(codes);
    }
}

/// Fills `codes` and `scales` from whole blocks; all three hold the same number.
pub(crate) fn split(info: &FormatInfo, blocks: &[u8], codes: &mut [u8], scales: &mut [u8]) {
    let scales = scales.chunks_exact_mut(info.scale.n_bytes());
    let codes = codes.chunks_exact_mut(info.block_codes_bytes());
    for ((block, codes), scale) in blocks.chunks_exact(block_bytes(info)).zip(codes).zip(scales) {
        let (from_scale, from_codes) = block.split_at(scale.len());
        scale.copy_from_slice(from_scale);
        codes.copy_from_slice(from_codes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Format;

    #[test]
    fn blocks_and_planes_hold_the_same() {
        for (format, n_bytes) in [(Format::Q4_0, 18), (Format::Q8_0, 34), (Format::Mxfp4, 17)] {
            let info = format.info();
            assert_eq!(block_bytes(info), n_bytes);
            let codes: Vec<u8> = (0..=255).take(3 * info.block_codes_bytes()).collect();
            let scales: Vec<u8> = (200..=255).take(3 * info.scale.n_bytes()).collect();
            let mut blocks = vec![9];
            interleave(info, &codes, &scales, &mut blocks);
            assert_eq!(blocks.len(), 3 * n_bytes);
            let second = &blocks[n_bytes..2 * n_bytes];
            let (scale, code) = (info.scale.n_bytes(), info.block_codes_bytes());
            assert_eq!((&second[..scale], &second[scale..]), (&scales[scale..2 * scale], &codes[code..2 * code]));
            let (mut codes_back, mut scales_back) = (vec![0; codes.len()], vec![0; scales.len()]);
            split(info, &blocks, &mut codes_back, &mut scales_back);
            assert_eq!((codes_back, scales_back), (codes, scales));
        }
    }
}
