//! Which tensors are quantized.

use globset::{GlobBuilder, GlobMatcher};

use super::StoredDtype;
use super::safetensors::TensorInfo;
use crate::error::{Error, Result};
use crate::format::Format;

/// Elements that a tensor needs to be quantized, unless told otherwise.
pub const DEFAULT_MIN_ELEMENTS: u64 = 4096;

/// Dimensions that a tensor needs to be quantized without being named.
const MIN_DIMENSIONS: usize = 2;

/// What to quantize. Without `include`: tensors of F32, F16 or BF16 with two or more dimensions and enough elements.
/// With it: what a pattern matches. The rest is copied through, bit for bit.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Patterns of names; `*` also matches dots and slashes.
    pub include: Vec<String>,
    /// Patterns of names that are left alone, whatever `include` says.
    pub exclude: Vec<String>,
    /// Smaller tensors are left alone. `None`: [`DEFAULT_MIN_ELEMENTS`] without `include`, and any size with it.
    pub min_elements: Option<u64>,
    /// Whether a tensor whose rows are no multiple of the format's block, where that is needed, is copied through. If not,
    /// it is refused.
    pub copy_unfit: bool,
}

/// What the selection gives for each tensor, and what a person should know of it.
#[derive(Debug)]
pub(crate) struct Selected {
    /// Whether each tensor is quantized.
    pub(crate) quantize: Vec<bool>,
    /// Sentences.
    pub(crate) notices: Vec<String>,
}

impl Selection {
    /// Decides for each tensor.
    ///
    /// # Errors
    /// [`Error::Refused`] for a pattern that is none, one that matches nothing, and an included tensor that can't be
    /// quantized, be it for its type or for its rows.
    pub(crate) fn select(&self, tensors: &[TensorInfo], format: Format) -> Result<Selected> {
        let (include, exclude) = (patterns("--include", &self.include)?, patterns("--exclude", &self.exclude)?);
        for (option, patterns) in [("--include", &include), ("--exclude", &exclude)] {
            for pattern in patterns {
                if !tensors.iter().any(|tensor| pattern.is_match(&tensor.name)) {
                    return Err(Error::Refused(format!(
                        "{option} {:?} matches no tensor (wgquant inspect lists their names)",
                        pattern.glob().glob()
                    )));
                }
            }
        }
        let min_elements = self.min_elements.unwrap_or(if include.is_empty() { DEFAULT_MIN_ELEMENTS } else { 0 });
        let mut selected = Selected { quantize: Vec::with_capacity(tensors.len()), notices: Vec::new() };
        let (mut other_floats, mut unfit_names) = (Vec::new(), Vec::new());
        for tensor in tensors {
            let named = include.iter().find(|pattern| pattern.is_match(&tensor.name));
            let wanted = if include.is_empty() { tensor.shape.len() >= MIN_DIMENSIONS } else { named.is_some() };
            let excluded = exclude.iter().any(|pattern| pattern.is_match(&tensor.name));
            let candidate = wanted && !excluded && tensor.n_elems() >= min_elements.max(1);
            if let (Some(pattern), false, None) = (named, excluded, tensor.float()) {
                return Err(Error::Refused(format!(
                    "--include {:?} matches tensor {:?}, whose type {} can't be quantized (F32, F16 and BF16 can): narrow the \
                     pattern or add --exclude",
                    pattern.glob().glob(),
                    tensor.name,
                    tensor.dtype
                )));
            }
            if candidate && tensor.float().is_none() && is_float(tensor.dtype) {
                other_floats.push(format!("{} ({})", tensor.name, tensor.dtype));
            }
            let quantize = candidate && tensor.float().is_some();
            if quantize && !fits(tensor, format) {
                if !self.copy_unfit {
                    return Err(unfit(tensor, format));
                }
                unfit_names.push(tensor.name.clone());
            }
            selected.quantize.push(quantize && fits(tensor, format));
        }
        if !unfit_names.is_empty() {
            let block = format.info().block;
            selected.notices.push(format!(
                "copied as they are, because their rows are no multiple of {block}: {}",
                short_list(&unfit_names)
            ));
        }
        if !other_floats.is_empty() {
            selected.notices.push(format!(
                "copied as they are, because only F32, F16 and BF16 are quantized: {}",
                short_list(&other_floats)
            ));
        }
        if !selected.quantize.contains(&true) {
            selected.notices.push(format!(
                "no tensor was quantized: none of type F32, F16 or BF16 was chosen that has at least {min_elements} elements{} \
                 (see --include and --min-elements)",
                if include.is_empty() { " and two dimensions" } else { "" }
            ));
        }
        Ok(selected)
    }
}

/// Whether a tensor's rows can be packed.
fn fits(tensor: &TensorInfo, format: Format) -> bool {
    let (info, row) = (format.info(), tensor.shape.last().copied().unwrap_or(1));
    !info.whole_blocks || row.is_multiple_of(info.block as u64)
}

fn unfit(tensor: &TensorInfo, format: Format) -> Error {
    let any: Vec<_> = Format::ALL.iter().filter(|f| !f.info().whole_blocks).map(|f| f.name()).collect();
    Error::Refused(format!(
        "tensor {:?} has rows of {} elements, and {format} takes multiples of {}: use {}, which take any, or copy such \
         tensors through with --copy-unfit",
        tensor.name,
        tensor.shape.last().copied().unwrap_or(1),
        format.info().block,
        any.join(", ")
    ))
}

fn patterns(option: &str, globs: &[String]) -> Result<Vec<GlobMatcher>> {
    globs
        .iter()
        .map(|glob| match GlobBuilder::new(glob).build() {
            Ok(built) => Ok(built.compile_matcher()),
            Err(error) => Err(Error::Refused(format!("{option} {glob:?} is no pattern: {}", error.kind()))),
        })
        .collect()
}

/// Floating-point types that no format takes.
fn is_float(dtype: StoredDtype) -> bool {
    matches!(
        dtype,
        StoredDtype::F64
            | StoredDtype::F8_E5M2
            | StoredDtype::F8_E4M3
            | StoredDtype::F8_E4M3FNUZ
            | StoredDtype::F8_E5M2FNUZ
            | StoredDtype::F6_E2M3
            | StoredDtype::F6_E3M2
            | StoredDtype::F4
    )
}

/// The first names of a list, and how many more there are.
fn short_list(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
