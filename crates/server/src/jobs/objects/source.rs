//! Reading a checkpoint from a store: by ranges, as a job goes through it, so that nothing of it lies on the disk but a
//! model's small files.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};
use wgquant::checkpoint::{Source, Storage, holds_weights};

use super::super::files::Names;
use super::{Bucket, changed, name_of, parse_key};
use crate::problem::{Kind, Problem, carried};
use crate::spool::lock;

/// Bytes that are read at a time, and kept as long as they are likely to be read again.
const BLOCK_BYTES: u64 = 4 << 20;

/// Blocks of a source that are kept.
const MAX_BLOCKS: usize = 8;

/// Bytes of all of a model's small files, such as its tokenizer.
const MAX_OTHER_BYTES: u64 = 1 << 30;

const MODEL_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// An open checkpoint in a store, and the folder with its small files.
#[derive(Debug)]
pub(crate) struct RemoteSource {
    source: Source,
    _folder: tempfile::TempDir,
}

impl RemoteSource {
    /// Opens an object, or what lies under a key as a model's folder. `scratch` takes the small files.
    ///
    /// # Errors
    /// What the store or the library says.
    pub(crate) fn open(
        bucket: &Bucket,
        key: &str,
        (called, scratch): (&str, &Path),
        names: &mut Names,
        max_header_bytes: u64,
    ) -> Result<Self, Problem> {
        let key = parse_key(key)?;
        let folder = tempfile::Builder::new().prefix("source-").tempdir_in(scratch).map_err(|error| full(&error))?;
        let blocks = Arc::new(Blocks::default());
        let open = |object: &ObjectMeta| RemoteFile::open(bucket, object, &blocks, max_header_bytes);
        let source = if let Some(object) = bucket.head(&key)? {
            let path = folder.path().join(name_of(&object));
            names.add(&path, called);
            Source::from_storage(open(&object)?, &path).map_err(|error| names.problem(error))?
        } else {
            names.add(folder.path(), called);
            let objects = bucket.list(&key)?;
            if objects.is_empty() {
                let text = format!("the source {called:?} is not there: there is no such object, nor any under it");
                return Err(Problem::new(Kind::NotFound, text));
            }
            fetch_others(bucket, &objects, folder.path())?;
            let objects: HashMap<String, ObjectMeta> =
                objects.into_iter().map(|object| (name_of(&object), object)).collect();
            let open = |path: &Path| -> wgquant::Result<Arc<dyn Storage>> {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let missing = || Problem::new(Kind::BadRequest, format!("the source {called:?} has no {name} in it"));
                let opened = objects.get(&*name).ok_or_else(missing).and_then(&open);
                opened.map_err(|problem| io_error(problem).in_file(path))
            };
            Source::open_folder_with(folder.path(), &open).map_err(|error| names.problem(error))?
        };
        Ok(Self { source, _folder: folder })
    }

    /// What the library reads.
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }
}

/// A problem on its way through the library.
fn io_error(problem: Problem) -> wgquant::Error {
    wgquant::Error::Io { what: "can't be read".to_owned(), source: problem.into() }
}

fn full(error: &std::io::Error) -> Problem {
    Problem::new(Kind::DiskFull, format!("the service's temporary files can't be written: {}", error.kind()))
}

/// Brings a model's small files into a folder; what stands for the weights' own file is empty.
fn fetch_others(bucket: &Bucket, objects: &[ObjectMeta], folder: &Path) -> Result<(), Problem> {
    let is_other = |object: &&ObjectMeta| {
        let name = name_of(object);
        name == INDEX_FILE || !holds_weights(Path::new(&name))
    };
    let others: Vec<_> = objects.iter().filter(is_other).collect();
    let n_bytes: u64 = others.iter().map(|object| object.size).sum();
    if n_bytes > MAX_OTHER_BYTES {
        let text =
            format!("the files beside the weights have {n_bytes} bytes, and at most {MAX_OTHER_BYTES} are taken");
        return Err(Problem::new(Kind::BadRequest, text));
    }
    for object in others {
        let path: PathBuf = folder.join(name_of(object));
        let mut at = 0;
        let mut file = std::fs::File::create(path).map_err(|error| full(&error))?;
        while at < object.size {
            let range = at..object.size.min(at + BLOCK_BYTES);
            let bytes = bucket.get(object, range)?;
            at += bytes.len() as u64;
            std::io::Write::write_all(&mut file, &bytes).map_err(|error| full(&error))?;
        }
    }
    if objects.iter().any(|object| name_of(object) == MODEL_FILE) {
        std::fs::File::create(folder.join(MODEL_FILE)).map_err(|error| full(&error))?;
    }
    Ok(())
}

impl Bucket {
    /// A range of an object, which must still be the one that was found.
    fn get(&self, object: &ObjectMeta, range: std::ops::Range<u64>) -> Result<Bytes, Problem> {
        let wanted = range.end - range.start;
        let options = GetOptions {
            if_match: object.e_tag.clone(),
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let key: &Key = &object.location;
        let got = self.wait(async { self.store.get_opts(key, options).await?.bytes().await });
        let bytes = got.map_err(|error| self.problem(key, &error))?;
        if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(changed(&self.called(key))) }
    }
}

/// Blocks that were read lately, of all files of a source. Each is read once, however many want it at the same time.
#[derive(Debug, Default)]
struct Blocks(Mutex<VecDeque<(usize, u64, Block)>>);

/// What was read of a block; none before that.
type Block = Arc<Mutex<Option<Bytes>>>;

impl Blocks {
    fn of(&self, file: usize, number: u64) -> Block {
        let mut blocks = lock(&self.0);
        if let Some(at) = blocks.iter().position(|block| (block.0, block.1) == (file, number))
            && let Some(block) = blocks.remove(at)
        {
            let found = Arc::clone(&block.2);
            blocks.push_back(block);
            return found;
        }
        if blocks.len() == MAX_BLOCKS {
            blocks.pop_front();
        }
        let block = Block::default();
        blocks.push_back((file, number, Arc::clone(&block)));
        block
    }
}

/// A file in a store.
#[derive(Debug)]
struct RemoteFile {
    bucket: Bucket,
    object: ObjectMeta,
    /// Tells this file from others in [`Blocks`].
    number: usize,
    blocks: Arc<Blocks>,
    /// Whether it was found to be another object by now.
    is_changed: AtomicBool,
}

impl RemoteFile {
    fn open(
        bucket: &Bucket,
        object: &ObjectMeta,
        blocks: &Arc<Blocks>,
        max_header_bytes: u64,
    ) -> Result<Arc<dyn Storage>, Problem> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = Self {
            bucket: bucket.clone(),
            object: object.clone(),
            number,
            blocks: Arc::clone(blocks),
            is_changed: AtomicBool::new(false),
        };
        let mut length = [0; 8];
        if object.size >= 8 {
            let read = file.read_range(0, &mut length);
            read.map_err(|error| problem_in(error, &bucket.called(&object.location)))?;
        }
        if !length.starts_with(b"GGUF") && u64::from_le_bytes(length) > max_header_bytes {
            let text = format!(
                "{} has a header that is longer than the {max_header_bytes} bytes that are taken, or is no safetensors file",
                bucket.called(&object.location)
            );
            return Err(Problem::new(Kind::Unprocessable, text));
        }
        Ok(Arc::new(file))
    }
}

impl RemoteFile {
    /// The block that begins there.
    fn get(&self, first: u64) -> Result<Bytes, Problem> {
        let range = first..self.object.size.min(first + BLOCK_BYTES);
        self.bucket.get(&self.object, range).inspect_err(|problem| {
            if problem.kind() == Kind::Unprocessable {
                self.is_changed.store(true, Ordering::Relaxed);
            }
        })
    }
}

/// The problem that an error of reading carries.
fn problem_in(error: std::io::Error, called: &str) -> Problem {
    let error = wgquant::Error::Io { what: format!("{called} can't be read"), source: error };
    carried(&error).cloned().unwrap_or_else(|| Problem::from(error))
}

impl Storage for RemoteFile {
    fn n_bytes(&self) -> std::io::Result<u64> {
        Ok(self.object.size)
    }

    fn read_range(&self, at: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        let end = at.checked_add(bytes.len() as u64).filter(|&end| end <= self.object.size);
        let end = end.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::UnexpectedEof))?;
        let mut rest = bytes;
        let mut at = at;
        while at < end {
            let number = at / BLOCK_BYTES;
            let first = number * BLOCK_BYTES;
            let block = self.blocks.of(self.number, number);
            let mut block = lock(&block);
            let read = match &*block {
                Some(read) => read.clone(),
                None => {
                    let read = self.get(first)?;
                    block.insert(read).clone()
                }
            };
            drop(block);
            let from = usize::try_from(at - first).unwrap_or_default();
            let n = rest.len().min(read.len() - from);
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&read[from..from + n]);
            rest = later;
            at += n as u64;
        }
        Ok(())
    }

    /// Each read is on the condition that it is the same object, so what was read is of one. Of another one, no time is
    /// told, so that the job ends as with a file that was changed.
    fn modified(&self) -> std::io::Result<Option<SystemTime>> {
        let is_changed = self.is_changed.load(Ordering::Relaxed);
        Ok((!is_changed).then(|| self.object.last_modified.into()))
    }
}
