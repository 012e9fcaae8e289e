//! Engines by the names that users give. One that was opened stays open, because opening a GPU takes longer than many arrays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use wgquant::{Engine, Error, Result};

use crate::reports::Adapter;

static OPEN: Mutex<BTreeMap<String, Arc<Engine>>> = Mutex::new(BTreeMap::new());

/// The engine of that name.
pub(crate) fn engine(device: &str) -> Result<Arc<Engine>> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(engine) = open.get(device) {
        return Ok(Arc::clone(engine));
    }
    let engine = Arc::new(pollster::block_on(Engine::open(device))?);
    open.insert(device.to_owned(), Arc::clone(&engine));
    Ok(engine)
}

/// Works with the engine of that name. One whose GPU fails is opened anew the next time.
pub(crate) fn with_engine<T>(device: &str, work: impl FnOnce(&Engine) -> Result<T>) -> Result<T> {
    let done = work(&*engine(device)?);
    if let Err(Error::DeviceLost { .. } | Error::Gpu { .. } | Error::DeviceTimeout { .. }) =
        done.as_ref().map_err(Error::root)
    {
        OPEN.lock().unwrap_or_else(PoisonError::into_inner).remove(device);
    }
    done
}

/// The engines for one job, with so much memory in flight at most.
pub(crate) fn engines_for_job(devices: &str, memory: Option<u64>) -> Result<Vec<Engine>> {
    let engines = pollster::block_on(Engine::open_all(devices))?;
    match memory {
        Some(n_bytes) => Engine::share_memory(engines, n_bytes),
        None => Ok(engines),
    }
}

/// The GPUs that are here.
#[pyfunction]
pub(crate) fn adapters(py: Python<'_>) -> Vec<Adapter> {
    py.detach(|| pollster::block_on(wgquant::gpu::adapters())).into_iter().map(Adapter::from).collect()
}
