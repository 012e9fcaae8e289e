//! How bytes of the host come into a kernel's inputs: in pieces that stay in a core's cache, straight to where the device
//! takes them from.

use super::Gpu;
use super::stream::Slot;
use crate::error::Result;

/// What is read and written at a time: small enough for a core's cache, and enough for a disk.
#[cfg(not(target_family = "wasm"))]
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// In a browser reading and writing go through JavaScript, and each call costs more than the cache saves.
#[cfg(target_family = "wasm")]
pub(super) const PIECE_BYTES: usize = 4 << 20;

/// The inputs of a slot that is not in flight.
pub(super) struct Inputs<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) slot: &'a Slot,
}

impl Inputs<'_> {
    /// Writes at byte `at` of an input, a multiple of 8. What is left of the last word is worth nothing then.
    #[cfg(not(target_family = "wasm"))]
    pub(super) fn write(&self, input: usize, at: usize, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let range = at as u64..(at + bytes.len().next_multiple_of(4)) as u64;
        let view = self.slot.uploads[input].get_mapped_range_mut(range);
        let mut view = view.map_err(|error| self.gpu.lost_error(&error.to_string()))?;
        view.slice(..bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    /// The same through the queue: what is mapped in a browser is a copy in another process, and would be copied here too.
    #[cfg(target_family = "wasm")]
    pub(super) fn write(&self, input: usize, at: usize, bytes: &[u8]) -> Result<()> {
        let (words, rest) = bytes.split_at(bytes.len() - bytes.len() % 4);
        let (queue, buffer) = (&self.gpu.queue, &self.slot.inputs[input]);
        queue.write_buffer(buffer, at as u64, words);
        if !rest.is_empty() {
            let mut word = [0; 4];
            word[..rest.len()].copy_from_slice(rest);
            queue.write_buffer(buffer, (at + words.len()) as u64, &word);
        }
        Ok(())
    }
}
