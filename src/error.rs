//! The one error type of the library. Each text is one sentence: what went wrong, where, and what would do.

use std::path::PathBuf;

/// Everything that can go wrong. `Display` gives one sentence for a person; [`Error::Tensor`] and [`Error::File`] add
/// where it happened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A block quantizer was given nothing: a scale needs at least one weight.
    #[error("there are no weights to quantize (the input is empty)")]
    Empty,
    /// A block of zero elements has no scale.
    #[error("the block size must be at least 1")]
    BlockSizeZero,
    /// NaN or an infinity among the weights.
    #[error("element {index} is {value} (bits {bits}), and only finite weights can be quantized")]
    NonFinite {
        /// Flat row-major index of the first such element.
        index: u64,
        /// `NaN`, `+Inf` or `-Inf`.
        value: &'static str,
        /// Its bit pattern in the input's own type, as hexadecimal.
        bits: String,
    },
    /// Packed codes or scales have another length than the number of weights calls for.
    #[error("{what} should be {expected} bytes long for {n_elems} weights in {format}, not {actual}")]
    PackedSize {
        /// Which part: `codes` or `scales`.
        what: &'static str,
        /// Name of the format.
        format: &'static str,
        /// How many weights the tensor has.
        n_elems: u64,
        /// Bytes that the format's layout gives.
        expected: u64,
        /// Bytes that are there.
        actual: u64,
    },
    /// A code that no writer of the format makes.
    #[error(
        "block {block} holds the code {code} at element {index}, which {format} never writes: the data is damaged, or from \
         another program, whose codes {format} does not have"
    )]
    InvalidCode {
        /// Block index within the tensor.
        block: u64,
        /// Flat index of the element.
        index: u64,
        /// The code as stored.
        code: u8,
        /// Name of the format.
        format: &'static str,
    },
    /// A scale that no writer of the format makes.
    #[error("the scale of block {block} is {value}, which {format} never writes: the data is damaged")]
    InvalidScale {
        /// Block index within the tensor.
        block: u64,
        /// The scale as read.
        value: f32,
        /// Name of the format.
        format: &'static str,
    },
    /// A block whose scale its type can't hold.
    #[error(
        "the scale of block {block} would be {value:e}, beyond what {format} can store (an f16): take a format with another scale"
    )]
    ScaleOverflow {
        /// Block index within the tensor.
        block: u64,
        /// The scale before it is rounded.
        value: f32,
        /// Name of the format.
        format: &'static str,
    },
    /// A number of weights that the format can't pack.
    #[error("{format} packs whole blocks of {block} weights, and {n_elems} are no multiple of that")]
    PartialBlock {
        /// Name of the format.
        format: &'static str,
        /// Weights a block.
        block: usize,
        /// How many weights there are.
        n_elems: u64,
    },
    /// A dequantized value lies beyond the output type's range.
    #[error(
        "element {index} dequantizes to {value:e}, beyond the largest {dtype}: ask for a wider type (--dtype f32 or bf16)"
    )]
    Overflow {
        /// Flat index of the first such element.
        index: u64,
        /// The exact product of code value and scale.
        value: f64,
        /// Output type that cannot hold it.
        dtype: &'static str,
    },
    /// The tensor's type is not one that can be quantized.
    #[error("weights of type {0} can't be quantized; F32, F16 and BF16 can")]
    UnsupportedDtype(String),
    /// No format has this name.
    #[error("there is no format {name:?}; there are: {known}")]
    UnknownFormat {
        /// What was asked for.
        name: String,
        /// Names of all formats.
        known: String,
    },

    /// No adapter fits what was asked for.
    #[error("no GPU adapter matches {wanted:?}; {available}")]
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// What there is, as a clause.
        available: String,
    },
    /// Several adapters fit what was asked for.
    #[error("{wanted:?} fits several GPU adapters, so name one of them in full: {matches}")]
    AmbiguousAdapter {
        /// What was asked for.
        wanted: String,
        /// The names that fit.
        matches: String,
    },
    /// The adapter gave no device.
    #[error("the GPU {adapter:?} could not be opened: {reason}")]
    OpenDevice {
        /// Name of the adapter.
        adapter: String,
        /// The driver's reason.
        reason: String,
    },
    /// The device went away: driver reset, unplugged, destroyed.
    #[error("the GPU {adapter:?} was lost while working ({reason}): run it again or use --device cpu")]
    DeviceLost {
        /// Name of the adapter.
        adapter: String,
        /// The driver's reason.
        reason: String,
    },
    /// The device has no memory for the buffers.
    #[error("the GPU {adapter:?} has no memory for {what}: {reason}")]
    OutOfDeviceMemory {
        /// Name of the adapter.
        adapter: String,
        /// What was being allocated.
        what: String,
        /// The driver's reason.
        reason: String,
    },
    /// wgpu refused a call, which is a fault of this library or of the driver.
    #[error("the GPU {adapter:?} refused {what}: {reason}")]
    Gpu {
        /// Name of the adapter.
        adapter: String,
        /// What was being done.
        what: String,
        /// The reason given.
        reason: String,
    },
    /// The device did not answer in time.
    #[error("the GPU {adapter:?} did not finish within {seconds} s")]
    DeviceTimeout {
        /// Name of the adapter.
        adapter: String,
        /// How long was waited.
        seconds: u64,
    },

    /// Reading, writing or renaming failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, as a clause.
        what: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{0}")]
    BadFile(String),
    /// What was asked for cannot be done, and was refused before any work.
    #[error("{0}")]
    Refused(String),
    /// The job was told to stop, as by [`Progress::stop`](crate::checkpoint::Progress::stop).
    #[error("it was stopped before it was done")]
    Stopped,
    /// The job was given up, as by [`Progress::give_up`](crate::checkpoint::Progress::give_up).
    #[error("it was given up before it was done")]
    GivenUp,
    /// Written bytes differ from what the CPU reference gives.
    #[error("{0}")]
    Mismatch(Box<crate::verify::Mismatch>),

    /// The same, with what of the job is kept.
    #[error("{source}; {n_done} finished tensors are kept in {}: run it again with --resume", place.display())]
    Kept {
        /// What happened.
        source: Box<Error>,
        /// Tensors that need not be done again.
        n_done: usize,
        /// The unfinished output.
        place: PathBuf,
    },
    /// The same, with the tensor that it happened in.
    #[error("tensor {name:?}: {source}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// What happened.
        source: Box<Error>,
    },
    /// The same, with the file that it happened in.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: Box<Error>,
    },
}

/// What the library's calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What happened, without where.
    #[must_use]
    pub fn root(&self) -> &Self {
        match self {
            Self::Kept { source, .. } | Self::Tensor { source, .. } | Self::File { source, .. } => source.root(),
            error => error,
        }
    }

    /// Whether the same job may end well another time: what failed is the machine, and not the input.
    pub(crate) fn may_pass(&self) -> bool {
        self.is_of_engine() || matches!(self.root(), Self::Io { .. } | Self::Stopped)
    }

    /// Whether what failed is the device that did the work, so that another may do it.
    pub(crate) fn is_of_engine(&self) -> bool {
        matches!(
            self.root(),
            Self::DeviceLost { .. } | Self::OutOfDeviceMemory { .. } | Self::Gpu { .. } | Self::DeviceTimeout { .. }
        )
    }

    /// Adds the tensor that the error happened in. Being stopped happens nowhere.
    #[must_use]
    pub fn in_tensor(self, name: &str) -> Self {
        match self {
            Self::Stopped | Self::GivenUp => self,
            error => Self::Tensor { name: name.to_owned(), source: Box::new(error) },
        }
    }

    /// Adds the file that the error happened in. Being stopped happens nowhere.
    #[must_use]
    pub fn in_file(self, path: &std::path::Path) -> Self {
        match self {
            Self::Stopped | Self::GivenUp => self,
            error => Self::File { path: path.to_owned(), source: Box::new(error) },
        }
    }
}
