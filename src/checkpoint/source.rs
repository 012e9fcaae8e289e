//! What a job reads: a file, or a model's folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::data::{Data, io_error};
use super::gguf::file::{GgufFile, is_gguf};
use super::gguf::metadata::Entry;
use super::safetensors::{SafetensorsFile, TensorInfo};
use crate::error::{Error, Result};

/// The weights' file in a model's folder.
pub(crate) const MODEL_FILE: &str = "model.safetensors";

/// The model's description in its folder.
pub(crate) const CONFIG_FILE: &str = "config.json";

/// What a folder has whose model is cut into shards.
const INDEX_FILE: &str = "model.safetensors.index.json";

/// No model's description is longer.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// An open checkpoint: named tensors that are read by ranges, whatever file they lie in.
#[derive(Debug)]
pub struct Source {
    file: ModelFile,
    /// Indices of the tensors by name.
    by_name: BTreeMap<String, usize>,
    folder: Option<ModelFolder>,
}

/// The file that tensors lie in.
#[derive(Debug)]
enum ModelFile {
    Safetensors(SafetensorsFile),
    Gguf(GgufFile),
}

/// The folder that a model was given as.
#[derive(Debug)]
struct ModelFolder {
    path: PathBuf,
    config: Option<Map<String, Value>>,
}

impl Source {
    /// Opens a `.safetensors` or a `.gguf` file, or a folder with one named `model.safetensors`. No tensor is read.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::BadFile`] with what is wrong, both within [`Error::File`].
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            if is_gguf(path) {
                return Ok(Self::new(ModelFile::Gguf(GgufFile::open(path)?), None));
            }
            return Ok(Self::new(ModelFile::Safetensors(SafetensorsFile::open(path)?), None));
        }
        let bad = |text: &str| Err(Error::BadFile(text.to_owned()).in_file(path));
        if path.join(INDEX_FILE).exists() {
            return bad(
                "is a folder whose model is cut into shards, which are not supported yet: merge them into one \
                        model.safetensors first",
            );
        }
        let file = path.join(MODEL_FILE);
        if !file.exists() {
            return bad("is a folder, and has no model.safetensors in it");
        }
        let config = read_config(&path.join(CONFIG_FILE))?;
        let file = ModelFile::Safetensors(SafetensorsFile::open(&file)?);
        Ok(Self::new(file, Some(ModelFolder { path: path.to_owned(), config })))
    }

    fn new(file: ModelFile, folder: Option<ModelFolder>) -> Self {
        let mut source = Self { file, by_name: BTreeMap::new(), folder };
        source.by_name = source.tensors().iter().enumerate().map(|(ix, tensor)| (tensor.name.clone(), ix)).collect();
        source
    }

    /// Where it was opened: the file, or the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder().unwrap_or(self.file_path())
    }

    /// The folder, if it was given as one.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(|folder| folder.path.as_path())
    }

    /// The file that the tensors lie in.
    #[must_use]
    pub fn file_path(&self) -> &Path {
        match &self.file {
            ModelFile::Safetensors(file) => file.path(),
            ModelFile::Gguf(file) => &file.path,
        }
    }

    /// The folder's config.json, if there is one.
    #[must_use]
    pub fn config(&self) -> Option<&Map<String, Value>> {
        self.folder.as_ref().and_then(|folder| folder.config.as_ref())
    }

    /// Bytes of the file with the tensors.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        match &self.file {
            ModelFile::Safetensors(file) => file.n_bytes(),
            ModelFile::Gguf(file) => file.n_bytes,
        }
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        match &self.file {
            ModelFile::Safetensors(file) => file.data_bytes(),
            ModelFile::Gguf(file) => file.data_bytes(),
        }
    }

    /// The entries of a safetensors file's `__metadata__`, also where a GGUF file carries them.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        match &self.file {
            ModelFile::Safetensors(file) => file.metadata(),
            ModelFile::Gguf(file) => &file.metadata,
        }
    }

    /// The key-value pairs of a GGUF file; none for other files.
    pub(crate) fn gguf(&self) -> Option<&[Entry]> {
        match &self.file {
            ModelFile::Safetensors(_) => None,
            ModelFile::Gguf(file) => Some(&file.entries),
        }
    }

    /// The tensors, by where they lie; those of a GGUF file in its own order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        match &self.file {
            ModelFile::Safetensors(file) => file.tensors(),
            ModelFile::Gguf(file) => &file.tensors,
        }
    }

    /// The tensor of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).and_then(|&ix| self.tensors().get(ix))
    }

    /// Fills `bytes` with tensor data from `offset` on, which counts as [`TensorInfo::offset`] does.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.data().read_at(offset, bytes)
    }

    /// The section of the file that positions count in.
    pub(crate) fn data(&self) -> Data<'_> {
        match &self.file {
            ModelFile::Safetensors(file) => file.data(),
            ModelFile::Gguf(file) => file.data(),
        }
    }
}

fn read_config(path: &Path) -> Result<Option<Map<String, Value>>> {
    let bad = |text: String| Err(Error::BadFile(text).in_file(path));
    let found = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(|error| io_error("can't be read", error).in_file(path))?,
    };
    if !found.is_file() || found.len() > MAX_CONFIG_BYTES {
        return bad(format!("is no file of at most {MAX_CONFIG_BYTES} bytes, as a model's description should be"));
    }
    let bytes = std::fs::read(path).map_err(|error| io_error("can't be read", error).in_file(path))?;
    match serde_json::from_slice(&bytes) {
        Ok(config) => Ok(Some(config)),
        Err(error) => bad(format!("is no JSON object: {error}")),
    }
}
