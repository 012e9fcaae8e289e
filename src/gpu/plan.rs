//! How a tensor is cut for a device: pure arithmetic on limits.

/// No chunk has more elements: flat indices within one fit the shaders' `u32` with room to spare.
const MAX_CHUNK_ELEMS: u64 = 1 << 30;

/// Sub-ranges of a buffer may have to begin at a multiple of 256 bytes; whole numbers of this many blocks do in every
/// buffer of every format, as the smallest has 4 bytes a block.
pub(crate) const ALIGNED_BLOCKS: u64 = 64;

/// A piece of a tensor: whole blocks, but for the tensor's last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Flat index of its first element.
    pub(crate) first_elem: u64,
    /// Elements in it.
    pub(crate) n_elems: u32,
    /// Blocks in it.
    pub(crate) n_blocks: u32,
}

/// What a device allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlanLimits {
    /// Bytes that one binding may span.
    pub(crate) max_binding_bytes: u64,
    /// Bytes that one buffer may have.
    pub(crate) max_buffer_bytes: u64,
    /// Bytes that one chunk's largest buffer should have, to bound memory.
    pub(crate) max_chunk_bytes: u64,
    /// Workgroups of one dispatch, folded into two dimensions; each takes a block or more.
    pub(crate) max_workgroups: u64,
}

/// How many blocks a chunk may have, where its largest buffer takes `block_bytes` a block.
pub(crate) fn blocks_per_chunk(limits: PlanLimits, block_elems: usize, block_bytes: usize) -> u64 {
    // The readback buffer holds all outputs together, so a buffer gets a third of what the device allows.
    let bytes = limits.max_binding_bytes.min(limits.max_buffer_bytes / 3).min(limits.max_chunk_bytes);
    let blocks =
        (bytes / block_bytes as u64).min(MAX_CHUNK_ELEMS / block_elems as u64).min(limits.max_workgroups).max(1);
    if blocks > ALIGNED_BLOCKS { blocks - blocks % ALIGNED_BLOCKS } else { blocks }
}

/// The pieces of a tensor of `n_elems` elements, in order.
pub(crate) fn chunks(n_elems: u64, block_elems: usize, blocks_per_chunk: u64) -> impl Iterator<Item = Chunk> {
    let block = block_elems as u64;
    let chunk_elems = blocks_per_chunk * block;
    (0..n_elems.div_ceil(chunk_elems)).map(move |index| {
        let first_elem = index * chunk_elems;
        let n = (n_elems - first_elem).min(chunk_elems);
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX); // at most MAX_CHUNK_ELEMS
        Chunk { first_elem, n_elems: small(n), n_blocks: small(n.div_ceil(block)) }
    })
}

/// A dispatch of at least `n` workgroups, folded into two dimensions where one does not suffice.
pub(crate) fn dispatch(n: u32, max_per_dimension: u32) -> [u32; 2] {
    let x = n.min(max_per_dimension).max(1);
    [x, n.div_ceil(x).max(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB_DEFAULT: PlanLimits = PlanLimits {
        max_binding_bytes: 128 << 20,
        max_buffer_bytes: 256 << 20,
        max_chunk_bytes: 32 << 20,
        max_workgroups: 65_535 * 65_535,
    };

    #[test]
    fn chunks_cover_a_tensor_exactly() {
        for n_elems in [1, 63, 64, 65, 4096, 8_388_608, 8_388_609, (1 << 31) + 77, (1 << 40) + 1] {
            for blocks in [1, 3, 64, 131_072, 1 << 24] {
                if n_elems / (blocks * 64) > 1_000_000 {
                    continue; // the same arithmetic, only slower
                }
                let mut next = 0;
                for chunk in chunks(n_elems, 64, blocks) {
                    assert_eq!(chunk.first_elem, next);
                    assert!(chunk.n_elems > 0 && u64::from(chunk.n_blocks) <= blocks);
                    assert_eq!(chunk.n_blocks, chunk.n_elems.div_ceil(64));
                    next += u64::from(chunk.n_elems);
                    assert!(chunk.n_elems % 64 == 0 || next == n_elems, "only the last block may be short");
                }
                assert_eq!(next, n_elems);
            }
        }
    }

    #[test]
    fn chunks_respect_every_limit() {
        assert_eq!(blocks_per_chunk(WEB_DEFAULT, 64, 256), (32 << 20) / 256);
        let tiny = PlanLimits { max_chunk_bytes: 4096, ..WEB_DEFAULT };
        assert_eq!(blocks_per_chunk(tiny, 64, 256), 16);
        let none = PlanLimits { max_chunk_bytes: 1, ..WEB_DEFAULT };
        assert_eq!(blocks_per_chunk(none, 64, 256), 1, "one block always goes");
        let few = PlanLimits { max_workgroups: 49, ..WEB_DEFAULT };
        assert_eq!(blocks_per_chunk(few, 64, 256), 49);
        let huge = PlanLimits {
            max_binding_bytes: u64::MAX,
            max_buffer_bytes: u64::MAX,
            max_chunk_bytes: u64::MAX,
            ..WEB_DEFAULT
        };
        assert_eq!(blocks_per_chunk(huge, 64, 256) * 64, MAX_CHUNK_ELEMS);
        let small_binding = PlanLimits { max_binding_bytes: 100_000, ..WEB_DEFAULT };
        let blocks = blocks_per_chunk(small_binding, 64, 256);
        assert!(blocks * 256 <= 100_000 && blocks.is_multiple_of(ALIGNED_BLOCKS), "{blocks}");
    }

    #[test]
    fn dispatches_fold_into_two_dimensions() {
        for n in [0, 1, 65_535, 65_536, 65_537, 131_071, 1 << 24] {
            let [x, y] = dispatch(n, 65_535);
            assert!(x <= 65_535 && y <= 65_535 && u64::from(x) * u64::from(y) >= u64::from(n), "{n}: {x} x {y}");
            assert!(u64::from(x) * u64::from(y) < u64::from(n.max(1)) + u64::from(x), "{n}: no row of idle workgroups");
        }
    }
}
