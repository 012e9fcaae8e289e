//! What a job reads: a file, or a model's folder with one or with many.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::data::{Data, Section, io_error};
use super::gguf::file::{GgufFile, is_gguf, starts_as_gguf};
use super::gguf::metadata::Entry;
use super::safetensors::{SafetensorsFile, TensorInfo};
use super::storage::Storage;
use crate::error::{Error, Result};

/// The weights' file in a model's folder.
pub(crate) const MODEL_FILE: &str = "model.safetensors";

/// The model's description in its folder.
pub(crate) const CONFIG_FILE: &str = "config.json";

/// What a folder has whose model is cut into shards: which tensor is in which file.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// No model's description is longer.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// No index is longer.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// An open checkpoint: named tensors that are read by ranges, whatever files they lie in.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    folder: Option<ModelFolder>,
    /// One a file; positions count through all of them.
    sections: Vec<Section>,
    /// One a file.
    files: Vec<FileInfo>,
    metadata: BTreeMap<String, String>,
    tensors: Vec<TensorInfo>,
    /// Indices of the tensors by name.
    by_name: BTreeMap<String, usize>,
    /// The key-value pairs of a GGUF file.
    gguf: Option<Vec<Entry>>,
}

/// What is known of a file beside its tensors.
#[derive(Debug)]
struct FileInfo {
    n_bytes: u64,
    modified: Option<SystemTime>,
    metadata: BTreeMap<String, String>,
}

/// The folder that a model was given as.
#[derive(Debug)]
struct ModelFolder {
    config: Option<Map<String, Value>>,
    is_sharded: bool,
}

impl Source {
    /// Opens a `.safetensors` or a `.gguf` file, or a folder with one named `model.safetensors` or with shards and their
    /// index. No tensor is read.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::BadFile`] with what is wrong, both within [`Error::File`].
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::open_folder(path, &|file| SafetensorsFile::open(file));
        }
        let mut source = Self::empty(path, None);
        if is_gguf(path) {
            source.add_gguf(GgufFile::open(path)?)?;
        } else {
            source.add_safetensors(SafetensorsFile::open(path)?)?;
        }
        Ok(source)
    }

    /// Reads the header of a `.safetensors` or a `.gguf` file that `storage` holds, and that messages call `name`. No
    /// tensor is read.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_storage(storage: Arc<dyn Storage>, name: &Path) -> Result<Self> {
        let mut source = Self::empty(name, None);
        if starts_as_gguf(&*storage) {
            source.add_gguf(GgufFile::from_storage(storage, name)?)?;
        } else {
            source.add_safetensors(SafetensorsFile::from_storage(storage, name)?)?;
        }
        Ok(source)
    }

    /// A checkpoint that is not there yet: tensors without data, of which an output can be planned.
    ///
    /// # Errors
    /// [`Error::Refused`] for a name that two tensors have.
    pub(crate) fn to_be(name: &Path, tensors: Vec<TensorInfo>, metadata: BTreeMap<String, String>) -> Result<Self> {
        let mut source = Self { tensors, metadata, ..Self::empty(name, None) };
        for (ix, tensor) in source.tensors.iter().enumerate() {
            if source.by_name.insert(tensor.name.clone(), ix).is_some() {
                let text = format!("two tensors are to have the name {:?}", tensor.name);
                return Err(Error::Refused(text).in_file(name));
            }
        }
        Ok(source)
    }

    /// Its tensors alone.
    pub(crate) fn into_tensors(self) -> Vec<TensorInfo> {
        self.tensors
    }

    /// [`Self::open`] of a model's folder whose weights lie elsewhere: `open` gives what stands for one of its files, by the
    /// file's path. All else is read from the folder, and where the weights are one file, something of its name must be there.
    ///
    /// # Errors
    /// As [`Self::open`], and what `open` gives.
    pub fn open_folder_with(path: &Path, open: &dyn Fn(&Path) -> Result<Arc<dyn Storage>>) -> Result<Self> {
        Self::open_folder(path, &|file| SafetensorsFile::from_storage(open(file)?, file))
    }

    fn open_folder(path: &Path, open: &dyn Fn(&Path) -> Result<SafetensorsFile>) -> Result<Self> {
        let config = read_json(&path.join(CONFIG_FILE), MAX_CONFIG_BYTES)?;
        // Readers take the one file where there are both.
        let file = path.join(MODEL_FILE);
        if file.exists() {
            let mut source = Self::empty(path, Some(ModelFolder { config, is_sharded: false }));
            source.add_safetensors(open(&file)?)?;
            return Ok(source);
        }
        let index_path = path.join(INDEX_FILE);
        let Some(index) = read_json::<Index>(&index_path, MAX_INDEX_BYTES)? else {
            let text = format!("is a folder, and has no {MODEL_FILE} in it, nor the index of a model in shards");
            return Err(Error::BadFile(text).in_file(path));
        };
        let mut source = Self::empty(path, Some(ModelFolder { config, is_sharded: true }));
        source.add_shards(path, &index, open).map_err(|error| match error {
            Error::File { .. } => error,
            error => error.in_file(&index_path),
        })?;
        Ok(source)
    }

    fn empty(path: &Path, folder: Option<ModelFolder>) -> Self {
        Self {
            path: path.to_owned(),
            folder,
            sections: Vec::new(),
            files: Vec::new(),
            metadata: BTreeMap::new(),
            tensors: Vec::new(),
            by_name: BTreeMap::new(),
            gguf: None,
        }
    }

    fn add_shards(
        &mut self,
        folder: &Path,
        index: &Index,
        open: &dyn Fn(&Path) -> Result<SafetensorsFile>,
    ) -> Result<()> {
        let bad = |text: String| Err(Error::BadFile(text));
        let names: BTreeSet<_> = index.weight_map.values().map(String::as_str).collect();
        if names.is_empty() {
            return bad("names no tensor".to_owned());
        }
        for name in names {
            // A plain name, so that no index reaches out of its folder.
            if Path::new(name).file_name() != Some(name.as_ref()) || name.contains(['/', '\\', ':']) {
                return bad(format!("names the file {name:?}, and files are read from the index's own folder alone"));
            }
            self.add_safetensors(open(&folder.join(name))?)?;
        }
        for (tensor, file) in &index.weight_map {
            let found = self.find(tensor).and_then(|found| self.file_of(found).file_name());
            if found != Some(file.as_ref()) {
                return bad(format!("says that the tensor {tensor:?} is in {file}, and it is not there"));
            }
        }
        match self.tensors.iter().find(|tensor| !index.weight_map.contains_key(&tensor.name)) {
            Some(tensor) => {
                let file = self.file_of(tensor).to_owned();
                let text =
                    format!("the file holds the tensor {:?}, which the folder's index does not name", tensor.name);
                Err(Error::BadFile(text).in_file(&file))
            }
            None => Ok(()),
        }
    }

    fn add_safetensors(&mut self, file: SafetensorsFile) -> Result<()> {
        let (section, tensors, metadata) = file.into_parts();
        self.add(section, tensors, metadata)
    }

    fn add_gguf(&mut self, file: GgufFile) -> Result<()> {
        let GgufFile { section, entries, metadata, tensors } = file;
        self.gguf = Some(entries);
        self.add(section, tensors, metadata)
    }

    /// Adds a file, whose positions count on from those of the others.
    fn add(
        &mut self,
        mut section: Section,
        tensors: Vec<TensorInfo>,
        metadata: BTreeMap<String, String>,
    ) -> Result<()> {
        let (n_bytes, modified) = stat(&section)?;
        section.first = self.data_bytes();
        for mut tensor in tensors {
            tensor.offset += section.first;
            if self.by_name.insert(tensor.name.clone(), self.tensors.len()).is_some() {
                let text = format!("the tensor {:?} is in another file of the model too", tensor.name);
                return Err(Error::BadFile(text).in_file(&section.path));
            }
            self.tensors.push(tensor);
        }
        for (key, value) in &metadata {
            self.metadata.entry(key.clone()).or_insert_with(|| value.clone());
        }
        self.files.push(FileInfo { n_bytes, modified, metadata });
        self.sections.push(section);
        Ok(())
    }

    /// Where it was opened: the file, or the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder, if it was given as one.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(|_| self.path.as_path())
    }

    /// Whether it is a folder with an index of shards.
    #[must_use]
    pub fn is_sharded(&self) -> bool {
        self.folder.as_ref().is_some_and(|folder| folder.is_sharded)
    }

    /// The files that the tensors lie in.
    pub fn file_paths(&self) -> impl Iterator<Item = &Path> {
        self.sections.iter().map(|section| section.path.as_path())
    }

    /// The file that a tensor lies in.
    #[must_use]
    pub fn file_of(&self, tensor: &TensorInfo) -> &Path {
        self.data().path_at(tensor.offset).unwrap_or(&self.path)
    }

    /// The folder's config.json, if there is one.
    #[must_use]
    pub fn config(&self) -> Option<&Map<String, Value>> {
        self.folder.as_ref().and_then(|folder| folder.config.as_ref())
    }

    /// Bytes of the files with the tensors.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.n_bytes).sum()
    }

    /// Bytes of all tensors, and what lies between them.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.files.iter().zip(&self.sections).map(|(file, section)| file.n_bytes.saturating_sub(section.start)).sum()
    }

    /// The entries of a safetensors file's `__metadata__`, also where a GGUF file carries them; of several files, those of
    /// all, and the first one's where they differ.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The entries of each file.
    pub(crate) fn metadata_of_files(&self) -> impl Iterator<Item = &BTreeMap<String, String>> {
        self.files.iter().map(|file| &file.metadata)
    }

    /// The key-value pairs of a GGUF file; none for other files.
    pub(crate) fn gguf(&self) -> Option<&[Entry]> {
        self.gguf.as_deref()
    }

    /// The tensors, file by file, and there by where they lie; those of a GGUF file in its own order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).and_then(|&ix| self.tensors.get(ix))
    }

    /// Fills `bytes` with tensor data from `offset` on, which counts as [`TensorInfo::offset`] does.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.data().read_at(offset, bytes)
    }

    /// The tensors' data.
    pub(crate) fn data(&self) -> Data<'_> {
        Data(&self.sections)
    }

    /// Refuses to go on with files that were written to since they were opened.
    ///
    /// # Errors
    /// [`Error::BadFile`] within [`Error::File`].
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        for (file, section) in self.files.iter().zip(&self.sections) {
            if stat(section)? != (file.n_bytes, file.modified) {
                let text = "was changed while it was read, so what came of it is worthless: run it again".to_owned();
                return Err(Error::BadFile(text).in_file(&section.path));
            }
        }
        Ok(())
    }

    /// What tells this input from another or an older one: names, sizes, times of change, and digests of headers.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub(crate) fn fingerprint(&self) -> Result<Vec<String>> {
        let describe = |(file, section): (&FileInfo, &Section)| {
            let mut header = vec![0; usize::try_from(section.start).unwrap_or_default()];
            section.read_file_at(0, &mut header)?;
            let modified = file.modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
            let modified = modified.unwrap_or_default().as_nanos();
            let name = section.path.file_name().unwrap_or_default().to_string_lossy();
            Ok(format!("{name}: {} bytes, changed at {modified}, header {}", file.n_bytes, blake3::hash(&header)))
        };
        self.files.iter().zip(&self.sections).map(describe).collect()
    }
}

/// A file's length, and when it was changed.
fn stat(section: &Section) -> Result<(u64, Option<SystemTime>)> {
    let found = section.file.n_bytes().and_then(|n_bytes| Ok((n_bytes, section.file.modified()?)));
    found.map_err(|error| io_error("can't be read", error).in_file(&section.path))
}

/// An index of shards; what else it says is of no use here.
#[derive(Debug, Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads a JSON file, if it is there.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path, max_bytes: u64) -> Result<Option<T>> {
    let bad = |text: String| Err(Error::BadFile(text).in_file(path));
    let found = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(|error| io_error("can't be read", error).in_file(path))?,
    };
    if !found.is_file() || found.len() > max_bytes {
        return bad(format!("is no file of at most {max_bytes} bytes, as it should be"));
    }
    let bytes = std::fs::read(path).map_err(|error| io_error("can't be read", error).in_file(path))?;
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => bad(format!("is no JSON object as there should be: {error}")),
    }
}
