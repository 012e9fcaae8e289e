//! Places in buffers: what to bind for them, and which can't be used together.

use crate::error::{Error, Result};

/// Bytes of the widest vectors that a kernel loads and stores. No device binds at smaller multiples.
pub(super) const WIDEST: u64 = 32;

/// A place in a buffer, at any multiple of 4 bytes. Cloning it copies no memory: it names the same buffer.
#[derive(Debug, Clone)]
pub struct BufferAt {
    /// The buffer.
    pub buffer: wgpu::Buffer,
    /// Bytes from its start, a multiple of 4.
    pub offset: u64,
}

impl BufferAt {
    /// `offset` bytes into a buffer.
    #[must_use]
    pub fn new(buffer: &wgpu::Buffer, offset: u64) -> Self {
        Self { buffer: buffer.clone(), offset }
    }

    /// Refuses a place that does not have `n_bytes` (rounded up to whole words), or whose buffer was not made for `usage`.
    pub(super) fn check(&self, what: &str, n_bytes: u64, usage: wgpu::BufferUsages) -> Result<()> {
        let size = self.buffer.size();
        if !self.offset.is_multiple_of(4) {
            return Err(Error::Refused(format!(
                "{what} can't begin at byte {} of a buffer: it must be a multiple of 4",
                self.offset
            )));
        }
        let n_bytes = n_bytes.next_multiple_of(4);
        if self.offset.checked_add(n_bytes).is_none_or(|end| end > size) {
            return Err(Error::Refused(format!(
                "{what} takes {n_bytes} bytes from byte {} on, and the buffer has {size}",
                self.offset
            )));
        }
        if !self.buffer.usage().contains(usage) {
            return Err(Error::Refused(format!("the buffer for {what} was made without {usage:?}")));
        }
        Ok(())
    }

    /// Bytes of the widest vectors that can be loaded and stored here, whole up to the end of `n_bytes`: [`WIDEST`], 16 or 4.
    pub(super) fn vector_bytes(&self, n_bytes: u64) -> u64 {
        let fits = |size: &u64| {
            self.offset.is_multiple_of(*size) && self.offset + n_bytes.next_multiple_of(*size) <= self.buffer.size()
        };
        [WIDEST, 16].into_iter().find(fits).unwrap_or(4)
    }

    /// What to bind for `n_bytes` that begin `first` bytes after the place, on a device that binds at multiples of
    /// `alignment`.
    pub(super) fn bind(&self, first: u64, n_bytes: u64, alignment: u64) -> Bound<'_> {
        let begin = self.offset + first;
        let start = begin - begin % alignment;
        // Whole vectors where there is room for them: a kernel sees only what is bound whole.
        let end = (begin + n_bytes).next_multiple_of(WIDEST).min(self.buffer.size() / 4 * 4);
        Bound { buffer: &self.buffer, start, size: end - start, lead: begin - start }
    }
}

impl From<&wgpu::Buffer> for BufferAt {
    fn from(buffer: &wgpu::Buffer) -> Self {
        Self::new(buffer, 0)
    }
}

impl From<&Self> for BufferAt {
    fn from(place: &Self) -> Self {
        place.clone()
    }
}

/// A part of a buffer that a kernel is given.
#[derive(Debug)]
pub(super) struct Bound<'a> {
    pub(super) buffer: &'a wgpu::Buffer,
    /// First byte of the part, as the device wants it aligned.
    start: u64,
    size: u64,
    /// Bytes before what is meant.
    lead: u64,
}

impl<'a> Bound<'a> {
    /// Elements of `n_bytes` before what is meant; fewer than an alignment has bytes.
    pub(super) fn at(&self, n_bytes: u64) -> u32 {
        u32::try_from(self.lead / n_bytes).unwrap_or(u32::MAX)
    }

    /// For a bind group.
    pub(super) fn resource(&self) -> wgpu::BindingResource<'a> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: self.buffer,
            offset: self.start,
            size: wgpu::BufferSize::new(self.size),
        })
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.start + other.size && other.start < self.start + self.size
    }
}

/// Refuses what WebGPU can't use in one dispatch: a buffer that is both read and written, and parts that are written and
/// overlap where the device wants them aligned.
pub(super) fn check_together(
    read: &[(&str, &Bound<'_>)],
    written: &[(&str, &Bound<'_>)],
    alignment: u64,
) -> Result<()> {
    for (i, (name, bound)) in written.iter().enumerate() {
        if let Some((other, _)) = read.iter().find(|(_, other)| other.buffer == bound.buffer) {
            return Err(Error::Refused(format!("{name} can't be written to the buffer that {other} are read from")));
        }
        let clash = |(_, other): &&(&str, &Bound<'_>)| other.buffer == bound.buffer && other.overlaps(bound);
        if let Some((other, _)) = written[..i].iter().find(clash) {
            return Err(Error::Refused(format!(
                "{other} and {name} are too close in one buffer: on this device there must be a multiple of {alignment} \
                 bytes between them"
            )));
        }
    }
    Ok(())
}
