//! The options of direct requests, as they stand in the query.

use serde::Deserialize;
use utoipa::IntoParams;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use wgquant::checkpoint::{DequantizeOptions, QuantizeOptions, Selection};
use wgquant::verify::Verify;
use wgquant::{Container, Dtype, Format};

use crate::problem::{Kind, Problem};

/// The containers of one file.
const CONTAINERS: [Container; 3] = [Container::Native, Container::Gguf, Container::Mxfp4];
const VERIFY: [Verify; 3] = [Verify::None, Verify::Sample, Verify::Full];

/// How a checkpoint is compressed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct QuantizeQuery {
    /// The format: `GET /v1/formats` lists them
    #[param(example = "nf4", schema_with = formats)]
    format: String,
    /// The layout of the answer: `native` (the default), `gguf` or `mxfp4`; folders are for jobs
    #[param(required = false, schema_with = containers)]
    container: Option<String>,
    /// Quantize only tensors whose name matches one of these patterns, with commas between them
    include: Option<String>,
    /// Leave tensors alone whose name matches one of these patterns, with commas between them
    exclude: Option<String>,
    /// Leave smaller tensors alone (4096, or any size with `include`)
    min_elements: Option<u64>,
    /// `PATTERN=FORMAT` or `PATTERN=keep`, with commas between them; of several that match the last counts
    #[serde(rename = "override")]
    #[param(rename = "override")]
    overrides: Option<String>,
    /// Copy tensors whose rows are no multiple of the format's block, instead of refusing them
    #[serde(default)]
    #[param(required = false)]
    copy_unfit: bool,
    /// How much of the result is recomputed and compared: `none`, `sample` (the default) or `full`
    #[param(required = false, schema_with = ways_to_verify)]
    verify: Option<String>,
}

/// How a compressed checkpoint is turned back.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DequantizeQuery {
    /// The type of the weights: `f32`, `f16` or `bf16`; each one's own where it is not given
    #[param(example = "f32", required = false, schema_with = dtypes)]
    dtype: Option<String>,
}

/// One of these words.
fn one_of(names: impl IntoIterator<Item = &'static str>) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).build()
}

fn formats() -> Object {
    one_of(Format::ALL.iter().map(|format| format.name()))
}

fn containers() -> Object {
    one_of(CONTAINERS.map(Container::name))
}

fn ways_to_verify() -> Object {
    one_of(VERIFY.map(Verify::name))
}

fn dtypes() -> Object {
    one_of(Dtype::ALL.map(Dtype::name))
}

impl QuantizeQuery {
    /// As the library takes them.
    ///
    /// # Errors
    /// A sentence about what there is not.
    pub(crate) fn options(self) -> Result<QuantizeOptions, Problem> {
        let format = Format::from_name(&self.format)?;
        let container = self.container.as_deref().map(container).transpose()?.unwrap_or(Container::Native);
        let verify = self.verify.as_deref().map(str::parse).transpose()?.unwrap_or_default();
        let list = |text: Option<String>| -> Vec<String> {
            text.iter().flat_map(|text| text.split(',')).filter(|text| !text.is_empty()).map(str::to_owned).collect()
        };
        let overrides = list(self.overrides).iter().map(|text| text.parse()).collect::<wgquant::Result<_>>()?;
        let selection = Selection {
            include: list(self.include),
            exclude: list(self.exclude),
            min_elements: self.min_elements,
            copy_unfit: self.copy_unfit,
            overrides,
        };
        Ok(QuantizeOptions { container, selection, verify, ..QuantizeOptions::new(format) })
    }
}

impl DequantizeQuery {
    /// As the library takes them.
    ///
    /// # Errors
    /// A sentence about what there is not.
    pub(crate) fn options(self) -> Result<DequantizeOptions, Problem> {
        let dtype = self.dtype.as_deref().map(str::parse).transpose()?;
        Ok(DequantizeOptions { dtype, ..DequantizeOptions::default() })
    }
}

/// A container of one file.
fn container(name: &str) -> Result<Container, Problem> {
    let container: Container = name.parse()?;
    if CONTAINERS.contains(&container) {
        return Ok(container);
    }
    let text = format!("{name} makes a folder, and an answer is one file: submit a job for it");
    Err(Problem::new(Kind::BadRequest, text))
}
