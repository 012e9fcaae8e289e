//! A quantized checkpoint of weights that an app has packed already, on its device or elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::StoredDtype;
use super::output::{Existing, Kind, Output, Target};
use super::packing::write_packed;
use super::plan::{FixedBytes, Plan, Step, output_kind};
use super::quantize::QuantizeOptions;
use super::safetensors::TensorInfo;
use super::select::{Override, Selection};
use super::source::Source;
use crate::error::{Error, Result};
use crate::format::{Container, Format};
use crate::packed::Packed;

/// A tensor of a file that is going to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    /// Name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Type; of a packed weight the one that it had, F32, F16 or BF16.
    pub dtype: StoredDtype,
    /// Format of a packed weight; `None` for a tensor that is stored as it is.
    pub format: Option<Format>,
}

/// Writes a checkpoint tensor by tensor, in any order, and holds none of them. The file is what [`quantize()`] would write
/// for an input with the same tensors in the same order, and appears under its name only when it is complete.
///
/// [`quantize()`]: super::quantize()
#[derive(Debug)]
pub struct PackedWriter {
    output: Output,
    plan: Plan,
    tensors: Vec<TensorInfo>,
    missing: BTreeSet<usize>,
}

impl PackedWriter {
    /// Starts a file of these tensors; all are to be written before [`Self::finish`]. `metadata` becomes the entries of
    /// `__metadata__` beside the container's own; `force` replaces a file that is there.
    ///
    /// # Errors
    /// [`Error::Refused`] for a container that is a folder or does not hold a format or a shape, for names that clash, and
    /// for a place that can't be written to; [`Error::Io`].
    pub fn create(
        output: &Path,
        container: Container,
        tensors: &[NewTensor],
        metadata: BTreeMap<String, String>,
        force: bool,
    ) -> Result<Self> {
        let refused = |text: String| Err(Error::Refused(text).in_file(output));
        let Some(format) = tensors.iter().find_map(|tensor| tensor.format) else {
            return refused("none of its tensors is packed: give at least one a format".to_owned());
        };
        let source = Source::to_be(output, tensors.iter().map(TensorInfo::to_be).collect(), metadata)?;
        let packed = tensors.iter().filter(|tensor| tensor.format.is_some());
        let exactly = |name: &str| globset::escape(name).replace('\\', "[\\]");
        let of = |tensor: &NewTensor| Override { pattern: exactly(&tensor.name), format: tensor.format };
        let others = Override { pattern: "*".to_owned(), format: None };
        let overrides = std::iter::once(others).chain(packed.map(of)).collect();
        let selection = Selection { overrides, ..Selection::default() };
        let options = QuantizeOptions { container, selection, ..QuantizeOptions::new(format) };
        if output_kind(&source, Some(container), None) == Kind::Folder {
            return refused(format!("{} makes a folder, and one file is wanted here", container.name()));
        }
        let plan = Plan::new(&source, &options).map_err(|error| error.in_file(output))?;
        let target = Target::new(output, Existing { force, ..Existing::default() }, &source, Kind::File)?;
        let missing = (0..tensors.len()).collect();
        let output = target.create(&plan.layout, &Value::Null)?;
        Ok(Self { output, plan, tensors: source.into_tensors(), missing })
    }

    /// Writes a packed weight, for example one that [`Gpu::download`](crate::Gpu::download) brought from a device; gives its
    /// digest.
    ///
    /// # Errors
    /// [`Error::Refused`] if the file has no such weight or it has another format or length, and [`Error::Io`].
    pub fn write(&mut self, name: &str, packed: &Packed) -> Result<[u8; 32]> {
        let ix = self.find(name)?;
        let Some(Step::Quantize(weight, fixed)) = self.plan.steps.get(ix) else {
            return refused(name, "was to be stored as it is, and is packed");
        };
        if (weight.format, weight.n_elems) != (packed.format(), packed.n_elems()) {
            let text = format!(
                "was to be {} weights in {}, and has {} in {}",
                weight.n_elems,
                weight.format,
                packed.n_elems(),
                packed.format()
            );
            return refused(name, &text);
        }
        for FixedBytes { at, bytes } in fixed {
            self.output.data().write_at(*at, bytes)?;
        }
        let digest = write_packed(weight, self.output.data(), packed)?;
        self.missing.remove(&ix);
        Ok(digest)
    }

    /// Writes a tensor that is stored as it is: its elements, little-endian.
    ///
    /// # Errors
    /// [`Error::Refused`] if the file has no such tensor or it has another length, and [`Error::Io`].
    pub fn write_plain(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let ix = self.find(name)?;
        let (Some(Step::Copy(at)), Some(tensor)) = (self.plan.steps.get(ix), self.tensors.get(ix)) else {
            return refused(name, "was to be packed, and is plain");
        };
        if tensor.n_bytes != bytes.len() as u64 {
            return refused(name, &format!("was to be {} bytes long, and has {}", tensor.n_bytes, bytes.len()));
        }
        self.output.data().write_at(*at, bytes)?;
        self.missing.remove(&ix);
        Ok(())
    }

    /// Gives the file its name; `sync`: only once it is on the disk.
    ///
    /// # Errors
    /// [`Error::Refused`] that names a tensor which was not written, and [`Error::Io`]. Nothing of the file remains.
    pub fn finish(self, sync: bool) -> Result<()> {
        match self.missing.first().and_then(|&ix| self.tensors.get(ix)) {
            Some(tensor) => refused(&tensor.name, "was not written"),
            None => self.output.finish(sync, false),
        }
    }

    fn find(&self, name: &str) -> Result<usize> {
        let found = self.tensors.iter().position(|tensor| tensor.name == name);
        found.map_or_else(|| refused(name, "is none of the file's"), Ok)
    }
}

impl TensorInfo {
    /// A tensor that lies nowhere yet.
    fn to_be(tensor: &NewTensor) -> Self {
        let NewTensor { name, shape, dtype, .. } = tensor.clone();
        let n_bits = shape.iter().fold(dtype.bitsize() as u64, |n, &dimension| n.saturating_mul(dimension));
        Self { name, dtype, shape, offset: 0, n_bytes: n_bits.div_ceil(8) }
    }
}

fn refused<T>(tensor: &str, what: &str) -> Result<T> {
    Err(Error::Refused(what.to_owned()).in_tensor(tensor))
}
