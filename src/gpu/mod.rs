//! The GPU driver.

use crate::dtype::Dtype;
use crate::engine::PackedChunk;
use crate::error::Result;
use crate::format::Format;

/// An open GPU.
#[derive(Debug)]
pub struct Gpu {}

/// An adapter that this machine has.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// Name, as the driver gives it.
    pub name: String,
    /// `vulkan`, `metal`, `dx12`, `gl` or `webgpu`.
    pub backend: &'static str,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub device_type: &'static str,
    /// Driver and its version.
    pub driver: String,
    /// Name and value of the limits that matter here.
    pub limits: Vec<(&'static str, u64)>,
    /// Optional features that matter here.
    pub features: Vec<&'static str>,
}

/// All adapters, hardware first.
pub async fn adapters() -> Vec<Adapter> {
    Vec::new()
}

impl Gpu {
    /// Opens the best hardware adapter; `None` where there is none. Software adapters are used only by name.
    ///
    /// # Errors
    /// [`Error::OpenDevice`](crate::Error::OpenDevice) if the driver refuses.
    pub async fn open_best() -> Result<Option<Self>> {
        Ok(None)
    }

    /// Opens the adapter whose name contains `name`, in any case, with `vulkan:` or `gl:` before it where needed.
    ///
    /// # Errors
    /// [`Error::NoAdapter`](crate::Error::NoAdapter) or [`Error::AmbiguousAdapter`](crate::Error::AmbiguousAdapter), both
    /// of which list names.
    pub async fn open(name: &str) -> Result<Self> {
        Err(crate::Error::NoAdapter { wanted: name.to_owned(), available: "there are no adapters".to_owned() })
    }

    /// Adapter, backend and driver, for reports and messages.
    #[must_use]
    pub fn description(&self) -> String {
        String::new()
    }

    pub(crate) async fn quantize_stream(
        &self,
        _format: Format,
        _dtype: Dtype,
        _n_elems: u64,
        _read: &mut impl FnMut(u64, &mut [u8]) -> Result<()>,
        _write: &mut impl FnMut(PackedChunk<'_>) -> Result<()>,
    ) -> Result<()> {
        Ok(())
    }

    pub(crate) async fn dequantize_stream(
        &self,
        _format: Format,
        _dtype: Dtype,
        _n_elems: u64,
        _read: &mut impl FnMut(u64, &mut [u8], &mut [u8]) -> Result<()>,
        _write: &mut impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        Ok(())
    }
}
