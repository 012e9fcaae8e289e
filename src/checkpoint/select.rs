//! Which tensors are quantized.

use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};

use super::StoredDtype;
use super::container::{Rules, rules};
use super::safetensors::TensorInfo;
use crate::error::{Error, Result};
use crate::format::{Container, Format};

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
    /// Patterns of names that are left alone, whatever `include` and `overrides` say.
    pub exclude: Vec<String>,
    /// Smaller tensors are left alone. `None`: [`DEFAULT_MIN_ELEMENTS`] without `include`, and any size with it. What an
    /// override gives a format may have any size.
    pub min_elements: Option<u64>,
    /// Whether a tensor whose rows are no multiple of the format's block, where that is needed, is copied through. If not,
    /// it is refused.
    pub copy_unfit: bool,
    /// Formats of their own for what patterns match; of several that match, the last counts.
    pub overrides: Vec<Override>,
}

/// What becomes of the tensors that a pattern matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Pattern of names, as in [`Selection::include`].
    pub pattern: String,
    /// Their format; `None` for copying them through.
    pub format: Option<Format>,
}

impl Override {
    /// Of a pattern and the name of a format, or `keep`.
    ///
    /// # Errors
    /// [`Error::Refused`] for another name.
    pub fn named(pattern: &str, format: &str) -> Result<Self> {
        let format = match format {
            "keep" => None,
            name => Some(name.parse().map_err(|error: Error| Error::Refused(format!("{error}; or keep")))?),
        };
        Ok(Self { pattern: pattern.to_owned(), format })
    }
}

impl FromStr for Override {
    type Err = Error;

    /// `PATTERN=FORMAT` or `PATTERN=keep`; the pattern may hold `=` itself.
    fn from_str(text: &str) -> Result<Self> {
        match text.rsplit_once('=') {
            Some((pattern, format)) if !pattern.is_empty() => Self::named(pattern, format),
            _ => Err(Error::Refused(format!("{text:?} is no override: it is PATTERN=FORMAT or PATTERN=keep"))),
        }
    }
}

/// What the selection gives for each tensor, and what a person should know of it.
#[derive(Debug)]
pub(crate) struct Selected {
    /// The format that each tensor gets, if it is quantized.
    pub(crate) formats: Vec<Option<Format>>,
    /// Sentences.
    pub(crate) notices: Vec<String>,
}

/// A pattern, and the option that it was given with.
struct Pattern<'a> {
    option: &'static str,
    matcher: GlobMatcher,
    /// Of an override, what becomes of what it matches.
    becomes: Option<&'a Override>,
}

impl Pattern<'_> {
    fn matches(&self, tensor: &TensorInfo) -> bool {
        self.matcher.is_match(&tensor.name)
    }
}

/// Option and pattern, as they were given.
impl std::fmt::Display for Pattern<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.option, self.matcher.glob().glob())
    }
}

impl Selection {
    /// Decides for each tensor.
    ///
    /// # Errors
    /// [`Error::Refused`] for a pattern that is none, one that matches nothing, and a named tensor that can't be
    /// quantized, be it for its type, for its rows or for what the container holds.
    pub(crate) fn select(&self, tensors: &[TensorInfo], format: Format, container: Container) -> Result<Selected> {
        let rules = rules(container);
        let include = patterns("--include", &self.include)?;
        let exclude = patterns("--exclude", &self.exclude)?;
        let overrides =
            self.overrides.iter().map(|of| Ok(Pattern { becomes: Some(of), ..pattern("--override", &of.pattern)? }));
        let overrides = overrides.collect::<Result<Vec<_>>>()?;
        let mut all = include.iter().chain(&exclude).chain(&overrides);
        if let Some(pattern) = all.find(|pattern| !tensors.iter().any(|tensor| pattern.matches(tensor))) {
            return Err(Error::Refused(format!("{pattern} matches no tensor (wgquant inspect lists their names)")));
        }
        let min_elements = self.min_elements.unwrap_or(if include.is_empty() { DEFAULT_MIN_ELEMENTS } else { 0 });
        let mut selected = Selected { formats: Vec::with_capacity(tensors.len()), notices: Vec::new() };
        let (mut other_floats, mut unfit_names) = (Vec::new(), Vec::new());
        for tensor in tensors {
            let excluded = exclude.iter().any(|pattern| pattern.matches(tensor));
            let overridden = overrides.iter().rfind(|pattern| pattern.matches(tensor));
            let becomes = overridden.and_then(|pattern| pattern.becomes);
            let (named, format, min_elements) = match becomes {
                // Kept as it is.
                Some(Override { format: None, .. }) => {
                    selected.formats.push(None);
                    continue;
                }
                Some(Override { format: Some(format), .. }) => (overridden, *format, 1),
                None => (include.iter().find(|pattern| pattern.matches(tensor)), format, min_elements.max(1)),
            };
            let wanted = named.is_some() || (include.is_empty() && tensor.shape.len() >= MIN_DIMENSIONS);
            let candidate = wanted && !excluded && tensor.n_elems() >= min_elements;
            if let (Some(pattern), false, None) = (named, excluded, tensor.float()) {
                return Err(Error::Refused(format!(
                    "{pattern} matches tensor {:?}, whose type {} can't be quantized (F32, F16 and BF16 can): narrow the \
                     pattern or add --exclude",
                    tensor.name, tensor.dtype
                )));
            }
            let refusal = rules.refuses(tensor);
            if let (Some(pattern), false, Some(reason)) = (named, excluded, refusal) {
                return Err(Error::Refused(format!(
                    "{pattern} matches tensor {:?}, which can't be packed in {} because {reason}: narrow the pattern or \
                     add --exclude",
                    tensor.name,
                    container.name()
                )));
            }
            if candidate && tensor.float().is_none() && is_float(tensor.dtype) {
                other_floats.push(format!("{} ({})", tensor.name, tensor.dtype));
            }
            let quantize = candidate && tensor.float().is_some() && refusal.is_none();
            let multiple = row_multiple(rules, format);
            let fits = row(tensor).is_multiple_of(multiple);
            if quantize && !fits {
                if !self.copy_unfit {
                    return Err(unfit(tensor, format, container));
                }
                unfit_names.push(format!("{} ({multiple})", tensor.name));
            }
            selected.formats.push((quantize && fits).then_some(format));
        }
        if !unfit_names.is_empty() {
            selected.notices.push(format!(
                "copied as they are, because their rows are no multiple of what their format takes: {}",
                short_list(&unfit_names)
            ));
        }
        if !other_floats.is_empty() {
            selected.notices.push(format!(
                "copied as they are, because only F32, F16 and BF16 are quantized: {}",
                short_list(&other_floats)
            ));
        }
        if selected.formats.iter().all(Option::is_none) {
            selected.notices.push(format!(
                "no tensor was quantized: none of type F32, F16 or BF16 was chosen that has at least {min_elements} elements{} \
                 (see --include and --min-elements)",
                if include.is_empty() { " and two dimensions" } else { "" }
            ));
        }
        Ok(selected)
    }
}

/// Elements of a tensor's rows.
fn row(tensor: &TensorInfo) -> u64 {
    tensor.shape.last().copied().unwrap_or(1)
}

/// What rows must be a multiple of. Both numbers are powers of two.
fn row_multiple(rules: &dyn Rules, format: Format) -> u64 {
    let info = format.info();
    rules.row_multiple().max(if info.whole_blocks { info.block as u64 } else { 1 })
}

fn unfit(tensor: &TensorInfo, format: Format, container: Container) -> Error {
    let needs = row_multiple(rules(container), format);
    let (what, others) = if format.info().whole_blocks {
        let any = Format::ALL.iter().filter(|f| !f.info().whole_blocks).map(|f| f.name());
        (format.name().to_owned(), any.collect::<Vec<_>>().join(", "))
    } else {
        let any = format.info().containers.iter().filter(|&&other| row_multiple(rules(other), format) == 1);
        let any: Vec<_> = any.map(|other| other.name()).collect();
        (format!("the container {}", container.name()), format!("--container {}", any.join(" or ")))
    };
    Error::Refused(format!(
        "tensor {:?} has rows of {} elements, and {what} takes multiples of {needs}: use {others}, which takes any, or copy \
         such tensors through with --copy-unfit",
        tensor.name,
        row(tensor)
    ))
}

fn patterns(option: &'static str, globs: &[String]) -> Result<Vec<Pattern<'static>>> {
    globs.iter().map(|glob| pattern(option, glob)).collect()
}

fn pattern(option: &'static str, glob: &str) -> Result<Pattern<'static>> {
    match GlobBuilder::new(glob).build() {
        Ok(built) => Ok(Pattern { option, matcher: built.compile_matcher(), becomes: None }),
        Err(error) => Err(Error::Refused(format!("{option} {glob:?} is no pattern: {}", error.kind()))),
    }
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
