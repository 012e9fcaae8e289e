//! Bringing an output into a store. It is made on the disk, whole, where a job can go on with it, and then uploaded file by
//! file. A file in several parts is there only once all of them are; what tells readers where the weights are comes last.

use std::io::Read;
use std::path::{Path, PathBuf};

use futures_util::stream::{FuturesUnordered, StreamExt};
use object_store::multipart::MultipartStore;
use object_store::path::Path as Key;
use object_store::{MultipartId, ObjectMeta, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};

use super::{Bucket, name_of, parse_key};
use crate::problem::{Kind, Problem};

/// Bytes of a part, unless a file would have too many of them.
const PART_BYTES: u64 = 8 << 20;
/// Parts that a file has at most.
const MAX_PARTS: u64 = 10_000;
/// Parts that are on their way at a time.
const PARTS_IN_FLIGHT: usize = 3;

/// Where a model's folder says what it is: there when all the rest is.
const CONFIG_FILE: &str = "config.json";
const INDEX_FILE: &str = "model.safetensors.index.json";
const MODEL_FILE: &str = "model.safetensors";

/// A destination in a store, and the folder that its output is made in.
#[derive(Debug)]
pub(crate) struct Destination {
    bucket: Bucket,
    key: Key,
    called: String,
    folder: PathBuf,
}

/// What has been uploaded, for a process that goes on.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Uploaded {
    /// Names of files that are there; of an output of one file, an empty one.
    done: Vec<String>,
    /// The key and the name of an upload in parts that is under way.
    under_way: Option<(String, String)>,
}

/// Why an upload ends early.
pub(crate) enum Ended {
    Problem(Problem),
    /// The caller asked for that.
    Asked,
}

impl From<Problem> for Ended {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl Destination {
    /// Looks at the place, and makes the folder for the output. `force`: what is there is replaced.
    ///
    /// # Errors
    /// There is something already, or what the store says.
    pub(crate) fn open(bucket: Bucket, key: &str, called: &str, folder: PathBuf, force: bool) -> Result<Self, Problem> {
        let destination = Self { bucket, key: parse_key(key)?, called: called.to_owned(), folder };
        std::fs::create_dir_all(&destination.folder).map_err(|error| destination.cant(&error))?;
        let is_begun = destination.record().is_file();
        if is_begun {
            return Ok(destination);
        }
        let found = destination.found()?;
        if !found.is_empty() && !force {
            let text = format!("the destination {called:?} exists already: give another name, or force to replace it");
            return Err(Problem::new(Kind::Conflict, text));
        }
        let names: Vec<_> = found.iter().map(name_of).collect();
        let is_model = [MODEL_FILE, INDEX_FILE, CONFIG_FILE].iter().any(|name| names.iter().any(|found| found == name));
        if !found.is_empty() && !is_model && found.iter().all(|object| object.location != destination.key) {
            let text = format!(
                "the destination {called:?} has objects under it and no model, so it is not replaced: give another name"
            );
            return Err(Problem::new(Kind::Conflict, text));
        }
        Ok(destination)
    }

    /// Where the output is made.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(self.key.filename().unwrap_or("output"))
    }

    fn record(&self) -> PathBuf {
        self.folder.join("uploaded.json")
    }

    fn cant(&self, error: &std::io::Error) -> Problem {
        let kind = if crate::problem::is_full(error) { Kind::DiskFull } else { Kind::Internal };
        Problem::new(kind, format!("what goes to {} can't be kept on the disk: {}", self.called, error.kind()))
    }

    /// The object there, and those under it.
    fn found(&self) -> Result<Vec<ObjectMeta>, Problem> {
        let mut found = self.bucket.list(&self.key)?;
        found.extend(self.bucket.head(&self.key)?);
        Ok(found)
    }

    /// Uploads the output. `tell` hears of each part, and says whether to go on.
    ///
    /// # Errors
    /// What the store says, or that it was asked to end.
    pub(crate) fn upload(&self, tell: &mut dyn FnMut(&str, (u64, u64)) -> bool) -> Result<(), Ended> {
        let mut uploaded = self.read_record();
        let files = self.files().map_err(|error| self.cant(&error))?;
        let total = files.iter().map(|file| file.n_bytes).sum();
        let keys: Vec<_> = files.iter().map(|file| file.key.clone()).collect();
        // One file replaces one, and no folder of its name.
        let is_folder = !keys.contains(&self.key);
        if let Some((key, id)) = uploaded.under_way.take() {
            // What was uploaded of it would lie there for ever.
            let _ = self.bucket.wait(self.bucket.store.abort_multipart(&parse_key(&key)?, &id));
        }
        if is_folder && uploaded.done.is_empty() {
            self.write_record(&uploaded)?;
            // What is replaced is no model any more from here on.
            let last = |object: &ObjectMeta| [CONFIG_FILE, INDEX_FILE].contains(&name_of(object).as_str());
            self.delete(self.found()?.into_iter().filter(last).map(|object| object.location))?;
        }
        let mut done = 0;
        for file in files {
            if !uploaded.done.contains(&file.name) {
                self.put(&file, &mut uploaded, &mut |n| tell(&file.name, (done + n, total)))?;
                uploaded.done.push(file.name.clone());
                self.write_record(&uploaded)?;
            }
            done += file.n_bytes;
        }
        if is_folder {
            let old = self.found()?.into_iter().map(|object| object.location).filter(|key| !keys.contains(key));
            self.delete(old)?;
        }
        Ok(())
    }

    /// Takes away what was uploaded of an output that is not wanted any more.
    pub(crate) fn take_back(&self) {
        let uploaded = self.read_record();
        if let Some((key, id)) = &uploaded.under_way
            && let Ok(key) = parse_key(key)
        {
            let _ = self.bucket.wait(self.bucket.store.abort_multipart(&key, id));
        }
        if let Ok(keys) = uploaded.done.iter().map(|name| self.key_of(name)).collect::<Result<Vec<_>, _>>() {
            let _ = self.delete(keys.into_iter());
        }
    }

    fn delete(&self, keys: impl Iterator<Item = Key>) -> Result<(), Problem> {
        for key in keys {
            match self.bucket.wait(self.bucket.store.delete(&key)) {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.bucket.problem(&key, &error)),
            }
        }
        Ok(())
    }

    fn key_of(&self, name: &str) -> Result<Key, Problem> {
        if name.is_empty() { Ok(self.key.clone()) } else { parse_key(&format!("{}/{name}", self.key)) }
    }

    /// The output's files in the order in which they are uploaded.
    fn files(&self) -> std::io::Result<Vec<OutputFile>> {
        let output = self.path();
        let file = |name: String, path: PathBuf| {
            let n_bytes = path.metadata()?.len();
            let key = self.key_of(&name).map_err(std::io::Error::from)?;
            Ok(OutputFile { name, path, key, n_bytes })
        };
        if output.is_file() {
            return Ok(vec![file(String::new(), output)?]);
        }
        let entries = std::fs::read_dir(&output)?.collect::<std::io::Result<Vec<_>>>()?;
        let named =
            entries.into_iter().map(|entry| file(entry.file_name().to_string_lossy().into_owned(), entry.path()));
        let mut files = named.collect::<std::io::Result<Vec<_>>>()?;
        files.sort_by_key(|file| {
            let rank = match file.name.as_str() {
                INDEX_FILE => 3,
                CONFIG_FILE => 2,
                name if name.ends_with(".safetensors") => 0,
                _ => 1,
            };
            (rank, file.name.clone())
        });
        Ok(files)
    }

    /// Uploads a file: in one piece, or in parts.
    fn put(&self, file: &OutputFile, uploaded: &mut Uploaded, tell: &mut dyn FnMut(u64) -> bool) -> Result<(), Ended> {
        let failed = |error: object_store::Error| self.bucket.problem(&file.key, &error);
        let part_bytes = PART_BYTES.max(file.n_bytes.div_ceil(MAX_PARTS));
        let mut opened = std::fs::File::open(&file.path).map_err(|error| self.cant(&error))?;
        if file.n_bytes <= part_bytes {
            let payload = self.read(&mut opened, file.n_bytes)?;
            if !tell(0) {
                return Err(Ended::Asked);
            }
            self.bucket.wait(self.bucket.store.put(&file.key, payload)).map_err(failed)?;
            tell(file.n_bytes);
            return Ok(());
        }
        let id = self.bucket.wait(self.bucket.store.create_multipart(&file.key)).map_err(failed)?;
        uploaded.under_way = Some((file.key.to_string(), id.clone()));
        self.write_record(uploaded)?;
        match self.put_parts(file, &mut opened, &id, part_bytes, tell) {
            Ok(()) => {
                uploaded.under_way = None;
                Ok(())
            }
            Err(ended) => {
                let _ = self.bucket.wait(self.bucket.store.abort_multipart(&file.key, &id));
                uploaded.under_way = None;
                self.write_record(uploaded)?;
                Err(ended)
            }
        }
    }

    fn put_parts(
        &self,
        file: &OutputFile,
        opened: &mut std::fs::File,
        id: &MultipartId,
        part_bytes: u64,
        tell: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), Ended> {
        let failed = |error: object_store::Error| Ended::from(self.bucket.problem(&file.key, &error));
        let store = &self.bucket.store;
        self.bucket.wait(async {
            let n_parts = file.n_bytes.div_ceil(part_bytes);
            let mut parts = vec![None; usize::try_from(n_parts).unwrap_or_default()];
            let mut under_way = FuturesUnordered::new();
            let (mut next, mut done) = (0, 0);
            while next < parts.len() || !under_way.is_empty() {
                if !tell(done) {
                    return Err(Ended::Asked);
                }
                if next < parts.len() && under_way.len() < PARTS_IN_FLIGHT {
                    let n_bytes = part_bytes.min(file.n_bytes - next as u64 * part_bytes);
                    let payload = self.read(opened, n_bytes)?;
                    let number = next;
                    under_way.push(async move {
                        store.put_part(&file.key, id, number, payload).await.map(|part| (number, n_bytes, part))
                    });
                    next += 1;
                    continue;
                }
                if let Some(part) = under_way.next().await {
                    let (number, n_bytes, part) = part.map_err(failed)?;
                    parts[number] = Some(part);
                    done += n_bytes;
                }
            }
            drop(under_way);
            store.complete_multipart(&file.key, id, parts.into_iter().flatten().collect()).await.map_err(failed)?;
            tell(done);
            Ok(())
        })
    }

    fn read(&self, file: &mut std::fs::File, n_bytes: u64) -> Result<PutPayload, Problem> {
        let mut bytes = vec![0; usize::try_from(n_bytes).unwrap_or_default()];
        file.read_exact(&mut bytes).map_err(|error| self.cant(&error))?;
        Ok(bytes.into())
    }

    fn read_record(&self) -> Uploaded {
        let text = std::fs::read(self.record()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Whole or not at all.
    fn write_record(&self, uploaded: &Uploaded) -> Result<(), Problem> {
        let written = serde_json::to_vec(uploaded).map_err(std::io::Error::from).and_then(|text| {
            let file = tempfile::NamedTempFile::new_in(&self.folder)?;
            std::fs::write(file.path(), text)?;
            file.persist(self.record()).map_err(|error| error.error)
        });
        written.map(|_| ()).map_err(|error| self.cant(&error))
    }
}

/// A file of the output.
struct OutputFile {
    name: String,
    path: PathBuf,
    key: Key,
    n_bytes: u64,
}

/// Removes the folder that an output was made in.
pub(crate) fn remove_stage(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "what a job has left can't be removed");
    }
}
