//! What the file jobs report, as classes that only hold values.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use wgquant::checkpoint::{
    Action, CompareReport, DequantizeReport, InspectReport, Outcome, PlanReport, QuantizeReport, VerifyReport, hex,
};
use wgquant::verify::{ErrorFigures, Verify};
use wgquant::{Container, Format};

/// Adds the classes to the module.
pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Adapter>()?;
    module.add_class::<Tensor>()?;
    module.add_class::<Report>()?;
    module.add_class::<Figures>()?;
    module.add_class::<Compared>()
}

#[pyclass(frozen, get_all, module = "wgquant")]
pub(crate) struct Adapter {
    name: String,
    backend: &'static str,
    device_type: &'static str,
    driver: String,
    limits: BTreeMap<&'static str, u64>,
    features: Vec<&'static str>,
}

impl From<wgquant::gpu::Adapter> for Adapter {
    fn from(adapter: wgquant::gpu::Adapter) -> Self {
        let wgquant::gpu::Adapter { name, backend, device_type, driver, limits, features } = adapter;
        Self { name, backend, device_type, driver, limits: limits.into_iter().collect(), features }
    }
}

#[pymethods]
impl Adapter {
    fn __repr__(&self) -> String {
        format!("Adapter({:?}, backend={:?}, device_type={:?})", self.name, self.backend, self.device_type)
    }
}

/// How far values moved.
#[pyclass(frozen, get_all, module = "wgquant")]
#[derive(Clone)]
pub(crate) struct Figures {
    max_abs_error: f64,
    mse: f64,
    sqnr_db: Option<f64>,
    worst_block: u64,
}

impl From<&ErrorFigures> for Figures {
    fn from(figures: &ErrorFigures) -> Self {
        Self {
            max_abs_error: figures.max_abs_error,
            mse: figures.mse(),
            sqnr_db: figures.sqnr_db(),
            worst_block: figures.worst_block,
        }
    }
}

#[pymethods]
impl Figures {
    fn __repr__(&self) -> String {
        format!("Figures(max_abs_error={:e}, mse={:e}, sqnr_db={:?})", self.max_abs_error, self.mse, self.sqnr_db)
    }
}

/// A tensor of a checkpoint; what a job does not know of it is `None`.
#[pyclass(frozen, get_all, module = "wgquant")]
#[derive(Clone, Default)]
pub(crate) struct Tensor {
    name: String,
    action: Option<&'static str>,
    format: Option<&'static str>,
    shape: Vec<u64>,
    dtype: String,
    bytes_in: Option<u64>,
    bytes_out: Option<u64>,
    digest: Option<String>,
    figures: Option<Figures>,
    verified: Option<&'static str>,
    mismatch: Option<String>,
}

#[pymethods]
impl Tensor {
    fn __repr__(&self) -> String {
        let format = self.format.unwrap_or("None");
        format!("Tensor({:?}, format={format:?}, shape={:?}, dtype={:?})", self.name, self.shape, self.dtype)
    }
}

/// What a job did, or would do; what does not apply to it is `None`.
#[pyclass(frozen, get_all, module = "wgquant")]
#[derive(Default)]
pub(crate) struct Report {
    adapter: Option<String>,
    format: Option<&'static str>,
    container: Option<&'static str>,
    bytes_in: Option<u64>,
    bytes_out: Option<u64>,
    tensors: Vec<Tensor>,
    n_resumed: Option<usize>,
    files: Option<Vec<String>>,
    n_files: Option<usize>,
    metadata: Option<BTreeMap<String, String>>,
    mismatch: Option<String>,
    notices: Vec<String>,
}

#[pymethods]
impl Report {
    fn __repr__(&self) -> String {
        format!("Report({} tensors, bytes_in={:?}, bytes_out={:?})", self.tensors.len(), self.bytes_in, self.bytes_out)
    }
}

impl Report {
    pub(crate) fn of_files(mut self, files: Vec<String>, n_files: usize) -> Self {
        (self.files, self.n_files) = (Some(files), Some(n_files));
        self
    }

    /// What differs first.
    pub(crate) fn mismatch(&self) -> Option<&str> {
        self.mismatch.as_deref()
    }
}

impl From<QuantizeReport> for Report {
    fn from(report: QuantizeReport) -> Self {
        let tensors = report.tensors.into_iter().map(|tensor| Tensor {
            name: tensor.name,
            action: Some(tensor.action.name()),
            format: tensor.format.map(Format::name),
            shape: tensor.shape,
            dtype: tensor.dtype.to_string(),
            bytes_in: Some(tensor.bytes_in),
            bytes_out: Some(tensor.bytes_out),
            digest: tensor.digest.as_ref().map(hex),
            figures: tensor.figures.as_ref().map(Figures::from),
            verified: Some(tensor.verified.name()),
            mismatch: None,
        });
        Self {
            adapter: Some(report.adapter),
            format: Some(report.format.name()),
            container: Some(report.container.name()),
            bytes_in: Some(report.bytes_in),
            bytes_out: Some(report.bytes_out),
            tensors: tensors.collect(),
            n_resumed: Some(report.n_resumed),
            notices: report.notices,
            ..Self::default()
        }
    }
}

impl From<PlanReport> for Report {
    fn from(report: PlanReport) -> Self {
        let tensors = report.tensors.into_iter().map(|tensor| Tensor {
            name: tensor.name,
            action: Some(if tensor.format.is_some() { Action::Quantized } else { Action::Copied }.name()),
            format: tensor.format.map(Format::name),
            shape: tensor.shape,
            dtype: tensor.dtype.to_string(),
            bytes_in: Some(tensor.bytes_in),
            bytes_out: Some(tensor.bytes_out),
            ..Tensor::default()
        });
        Self {
            bytes_in: Some(report.bytes_in),
            bytes_out: Some(report.bytes_out),
            tensors: tensors.collect(),
            n_files: Some(report.n_files),
            notices: report.notices,
            ..Self::default()
        }
    }
}

impl From<DequantizeReport> for Report {
    fn from(report: DequantizeReport) -> Self {
        let action = |was| if was == Action::Quantized { "dequantized" } else { Action::Copied.name() };
        let tensors = report.tensors.into_iter().map(|tensor| Tensor {
            name: tensor.name,
            action: Some(action(tensor.was)),
            shape: tensor.shape,
            dtype: tensor.dtype.to_string(),
            digest: tensor.digest.as_ref().map(hex),
            ..Tensor::default()
        });
        Self {
            adapter: Some(report.adapter),
            container: Some(report.container.name()),
            bytes_in: Some(report.bytes_in),
            bytes_out: Some(report.bytes_out),
            tensors: tensors.collect(),
            ..Self::default()
        }
    }
}

impl From<VerifyReport> for Report {
    fn from(report: VerifyReport) -> Self {
        let mismatch = report.first_mismatch().map(str::to_owned);
        let tensors = report.tensors.into_iter().map(|tensor| Tensor {
            name: tensor.name,
            action: Some(tensor.action.name()),
            shape: tensor.shape,
            dtype: tensor.dtype.to_string(),
            digest: tensor.digest.as_ref().map(hex),
            figures: tensor.figures.as_ref().map(Figures::from),
            verified: Some(Verify::Full.name()),
            mismatch: tensor.mismatch,
            ..Tensor::default()
        });
        Self { tensors: tensors.collect(), mismatch, ..Self::default() }
    }
}

impl From<InspectReport> for Report {
    fn from(report: InspectReport) -> Self {
        let tensors = report.tensors.into_iter().map(|tensor| Tensor {
            name: tensor.name,
            format: tensor.format.map(Format::name),
            shape: tensor.shape,
            dtype: tensor.dtype.to_string(),
            bytes_in: Some(tensor.n_bytes),
            digest: tensor.digest.as_ref().map(hex),
            ..Tensor::default()
        });
        Self {
            container: report.container.map(Container::name),
            bytes_in: Some(report.n_bytes),
            tensors: tensors.collect(),
            metadata: Some(report.metadata),
            ..Self::default()
        }
    }
}

/// What a format would give: in all, or for a tensor.
#[pyclass(frozen, get_all, module = "wgquant")]
#[derive(Clone)]
pub(crate) struct Compared {
    format: &'static str,
    tensor: Option<String>,
    bytes_out: Option<u64>,
    figures: Option<Figures>,
    /// Why it does not fit a tensor.
    unfit: Option<String>,
    bits_per_weight: Option<f64>,
    n_unfit: Option<usize>,
    on_frontier: Option<bool>,
}

#[pymethods]
impl Compared {
    fn __repr__(&self) -> String {
        format!("Compared({:?}, tensor={:?}, bytes_out={:?})", self.format, self.tensor, self.bytes_out)
    }
}

/// The formats in all, and then each for each tensor.
pub(crate) fn compared(report: CompareReport) -> (Vec<Compared>, Vec<Compared>) {
    let formats: Vec<_> = report.formats.iter().map(|format| format.format.name()).collect();
    let totals = report.formats.iter().map(|format| Compared {
        format: format.format.name(),
        tensor: None,
        bytes_out: Some(format.bytes_out),
        figures: Some(Figures::from(&format.figures)),
        unfit: None,
        bits_per_weight: Some(format.bits_per_weight),
        n_unfit: Some(format.n_unfit),
        on_frontier: Some(format.on_frontier),
    });
    let totals = totals.collect();
    let of_tensors = report.tensors.into_iter().flat_map(|tensor| {
        let name = tensor.name;
        formats.clone().into_iter().zip(tensor.outcomes).map(move |(format, outcome)| {
            let (bytes_out, figures, unfit) = match outcome {
                Outcome::Fits { bytes_out, figures } => (Some(bytes_out), Some(Figures::from(&figures)), None),
                Outcome::Unfit(reason) => (None, None, Some(reason)),
            };
            let (bits_per_weight, n_unfit, on_frontier) = (None, None, None);
            let tensor = Some(name.clone());
            Compared { format, tensor, bytes_out, figures, unfit, bits_per_weight, n_unfit, on_frontier }
        })
    });
    (totals, of_tensors.collect())
}
