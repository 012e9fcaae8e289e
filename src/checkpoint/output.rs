//! Output that appears under its final name only when it is complete.
//!
//! Until then its files lie in a folder of their own beside it, and the job's journal next to that.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tempfile::TempPath;

use super::data::{Data, Section, io_error};
use super::journal::{ANOTHER_RUN, Journal};
use super::layout::{FileLayout, Layout};
use super::source::{CONFIG_FILE, INDEX_FILE, MODEL_FILE, Source};
use super::storage::Storage;
use crate::error::{Error, Result};

/// What is added to an output's name for the folder that it is made in.
const UNFINISHED: &str = ".wgquant-unfinished";

/// What is added to an output's name for the job's journal.
const JOURNAL: &str = ".wgquant-journal";

/// What an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One file.
    File,
    /// A model's folder, with its weights in `model.safetensors` or in shards.
    Folder,
}

/// What to do with what is there already.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Existing {
    /// Whether an output is replaced, and an unfinished one given up.
    pub(crate) force: bool,
    /// Whether an unfinished one is gone on with.
    pub(crate) resume: bool,
    /// Whether the job can be gone on with at all; if not, what it left unfinished is no loss.
    pub(crate) resumable: bool,
}

/// A place that may be written to: looked at before any work.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    path: PathBuf,
    folder: PathBuf,
    existing: Existing,
    kind: Kind,
}

impl Target {
    /// Looks at an output's path.
    ///
    /// # Errors
    /// [`Error::Refused`] within [`Error::File`]: it is the input under whatever name or a folder around it, it exists and
    /// may not be replaced, it is something else than what is to be written, its folder is not there, or an unfinished one
    /// is beside it.
    pub(crate) fn new(path: &Path, existing: Existing, source: &Source, kind: Kind) -> Result<Self> {
        let refused = |text: &str| Err(Error::Refused(text.to_owned()).in_file(path));
        if same_file(source.path(), path) || source.file_paths().any(|file| same_file(file, path)) {
            return refused("the output is the input: give it another name");
        }
        let target = match std::fs::symlink_metadata(path) {
            Err(_) => path.to_owned(),
            Ok(_) if existing.resume && is_named(path) => path.to_owned(),
            Ok(_) if !existing.force => return refused("exists already: give another name, or --force to replace it"),
            // A link stays, and what it leads to is replaced.
            Ok(link) if link.is_symlink() => match path.canonicalize() {
                Ok(target) => target,
                Err(_) => return refused("is a link that leads nowhere: remove it, or give another name"),
            },
            Ok(_) => path.to_owned(),
        };
        if let Ok(found) = std::fs::metadata(&target) {
            match kind {
                Kind::File if !found.is_file() => {
                    return refused("is no regular file, so it can't be replaced: give another name");
                }
                Kind::Folder if !found.is_dir() => {
                    return refused("is no folder, and the output is one, so it can't be replaced: give another name");
                }
                Kind::Folder if !is_model_folder(&target) => {
                    return refused(
                        "is a folder without a model, so it is not replaced: remove it, or give another name",
                    );
                }
                Kind::Folder if source.file_paths().any(|file| contains(&target, file)) => {
                    return refused("holds the input, so it can't be replaced: give another name");
                }
                Kind::File | Kind::Folder => {}
            }
        }
        let folder = match target.parent() {
            Some(folder) if folder == Path::new("") => PathBuf::from("."),
            Some(folder) if target.file_name().is_some() => folder.to_owned(),
            _ => return refused(if kind == Kind::File { "is no name for a file" } else { "is no name for a folder" }),
        };
        if !folder.is_dir() {
            return refused("its folder does not exist: make it first");
        }
        let target = Self { path: target, folder, existing, kind };
        let unfinished = target.unfinished();
        if Journal::is_locked(&beside(&target.path, JOURNAL)) {
            return refused(ANOTHER_RUN);
        }
        if existing.resumable && !existing.force && !existing.resume && unfinished.exists() {
            return refused(&format!(
                "a run left it unfinished (what is done is in {}): go on with --resume, or start afresh with --force",
                unfinished.display()
            ));
        }
        Ok(target)
    }

    /// Where the output will be.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The folder that the output is made in.
    fn unfinished(&self) -> PathBuf {
        beside(&self.path, UNFINISHED)
    }

    /// Starts the output's files beside its final place, and writes their headers; or opens what a run of the same job,
    /// described by `job`, has left.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Refused`] within [`Error::File`]: another run is at it, or the one that is to be gone on
    /// with had another job.
    pub(crate) fn create(self, layout: &Layout, job: &serde_json::Value) -> Result<Output> {
        let opened = Journal::open(&beside(&self.path, JOURNAL), job, self.existing.resume);
        let journal = opened.map_err(|error| error.in_file(&self.path))?;
        let (place, fresh) = (self.unfinished(), journal.is_empty());
        // From here on all of it goes away, but for what an error leaves to be resumed.
        let mut output = Output {
            scratch: Some(self.folder.clone()),
            target: self,
            place: Some(place.clone()),
            journal: Some(Mutex::new(journal)),
            sections: Vec::new(),
            lasts: false,
        };
        output.open_files(&place, layout, fresh)?;
        Ok(output)
    }
}

/// A place beside an output.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Whether an output has its name already, and only its journal is left of the run that made it.
fn is_named(path: &Path) -> bool {
    let is_empty = std::fs::read_dir(beside(path, UNFINISHED)).map_or(true, |mut files| files.next().is_none());
    Journal::is_finished(&beside(path, JOURNAL)) && is_empty && path.exists()
}

/// A file or folder in the making; dropped before [`Output::finish`], nothing of it remains, unless it was kept.
#[derive(Debug)]
pub(crate) struct Output {
    target: Target,
    /// The folder that it is made in; none once that is gone, or was left.
    place: Option<PathBuf>,
    /// Several threads record what they have done.
    journal: Option<Mutex<Journal>>,
    sections: Vec<Section>,
    /// Whether it stays where it is if it does not get its name.
    lasts: bool,
    /// The folder for temporary files.
    scratch: Option<PathBuf>,
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(place) = self.place.take().filter(|_| !self.lasts) {
            self.sections.clear();
            let _ = std::fs::remove_dir_all(place);
            // Last, because it tells what the rest is; and it is unlocked only after that, when the fields are dropped.
            if self.journal.is_some() {
                let _ = std::fs::remove_file(beside(&self.target.path, JOURNAL));
            }
        }
    }
}

impl Output {
    fn open_files(&mut self, files: &Path, layout: &Layout, fresh: bool) -> Result<()> {
        let path = &self.target.path;
        let failed = |error| io_error("can't be created", error).in_file(path);
        if is_named(path) {
            return Ok(());
        }
        if fresh {
            match std::fs::remove_dir_all(files) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        std::fs::create_dir_all(files).map_err(failed)?;
        for number in 0..layout.files.len() {
            self.open_file(files, layout, number)?;
        }
        match &layout.index {
            Some(index) => self.add_file(INDEX_FILE, index.as_bytes()),
            None => Ok(()),
        }
    }

    /// Opens one of its files, and writes its header.
    fn open_file(&mut self, files: &Path, layout: &Layout, number: usize) -> Result<()> {
        let path = &self.target.path;
        let (Some(file), Some(name)) = (layout.files.get(number), layout.names().nth(number)) else { return Ok(()) };
        let mut options = std::fs::File::options();
        let opened = options.read(true).write(true).create(true).truncate(false).open(files.join(&name));
        let section = Section {
            file: Arc::new(opened.map_err(|error| io_error("can't be created", error).in_file(path))?),
            path: if self.target.kind == Kind::File { path.clone() } else { path.join(&name) },
            start: file.data_start(),
            first: layout.files[..number].iter().map(|file| file.data_bytes).sum(),
        };
        self.add_section(section, file)
    }

    /// Adds one of its files, and writes its header.
    fn add_section(&mut self, section: Section, file: &FileLayout) -> Result<()> {
        // A file may end with padding, which nothing else writes.
        let sized = section.file.set_n_bytes(file.n_bytes());
        sized.map_err(|error| io_error("can't be written", error).in_file(&section.path))?;
        section.write_file_at(0, &file.header)?;
        self.sections.push(section);
        Ok(())
    }

    /// Starts an output of one file in storage of the caller's, who sees to it what becomes of that.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`], and [`Error::Refused`] for a layout of several files.
    pub(crate) fn in_storage(storage: Arc<dyn Storage>, layout: &Layout) -> Result<Self> {
        let [file] = layout.files.as_slice() else {
            return Err(Error::Refused("what is to be written is a folder of several files".to_owned()));
        };
        let path = PathBuf::from("the output");
        let existing = Existing::default();
        let target = Target { path: path.clone(), folder: PathBuf::new(), existing, kind: Kind::File };
        let scratch = storage.scratch().map(Path::to_owned);
        let mut output = Self { target, place: None, journal: None, sections: Vec::new(), lasts: true, scratch };
        output.add_section(Section { file: storage, path, start: file.data_start(), first: 0 }, file)?;
        Ok(output)
    }

    /// Starts one file of an output, in a folder of its own, which goes away with it.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub(crate) fn of_one_file(target: Target, place: PathBuf, layout: &Layout, number: usize) -> Result<Self> {
        let scratch = Some(target.folder.clone());
        let mut output =
            Self { target, place: Some(place.clone()), journal: None, sections: Vec::new(), lasts: false, scratch };
        output.open_file(&place, layout, number)?;
        Ok(output)
    }

    /// An output whose files lie in a folder already, which stays if it does not get its name.
    pub(crate) fn of_files(target: Target, place: PathBuf) -> Self {
        Self { target, place: Some(place), journal: None, sections: Vec::new(), lasts: true, scratch: None }
    }

    /// Its tensors' data, under its final name in messages.
    pub(crate) fn data(&self) -> Data<'_> {
        Data(&self.sections)
    }

    /// What is done already, and what will be.
    pub(crate) fn journal(&self) -> Option<MutexGuard<'_, Journal>> {
        self.journal.as_ref().map(|journal| journal.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it has its name already, so that nothing is left to do.
    pub(crate) fn is_finished(&self) -> bool {
        is_named(&self.target.path)
    }

    /// The folder for temporary files, if there is one.
    pub(crate) fn scratch(&self) -> Option<&Path> {
        self.scratch.as_deref()
    }

    /// Closes its files. Windows renames no open ones.
    pub(crate) fn close(&mut self) {
        self.sections.clear();
    }

    /// Leaves what is done for another run to go on with.
    pub(crate) fn keep(mut self) -> Option<PathBuf> {
        self.place.take()
    }

    /// Where a file of the folder that the output is lies now.
    fn place_of(&self, name: &str) -> Option<PathBuf> {
        self.place.as_ref().filter(|_| self.target.kind == Kind::Folder).map(|place| place.join(name))
    }

    /// Writes another file into the folder that the output is.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub(crate) fn add_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let Some(place) = self.place_of(name) else { return Ok(()) };
        let written = std::fs::write(place, bytes);
        written.map_err(|error| io_error("can't be written", error).in_file(&self.target.path.join(name)))
    }

    /// Copies the files of the input's folder that hold no weights.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub(crate) fn carry_files(&self, source: &Source) -> Result<()> {
        let Some(from) = source.folder() else { return Ok(()) };
        let unreadable = |error| io_error("can't be read", error).in_file(from);
        for entry in std::fs::read_dir(from).map_err(unreadable)? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).map_err(unreadable)?;
            let Some(place) = self.place_of(&name.to_string_lossy()) else { return Ok(()) };
            if !path.is_file() || holds_weights(&path) {
                continue;
            }
            let copied = std::fs::File::open(&path).and_then(|mut from| {
                let mut to = std::fs::File::create(place)?;
                std::io::copy(&mut from, &mut to)
            });
            copied.map_err(|error| io_error("can't be copied", error).in_file(&path))?;
        }
        Ok(())
    }

    /// Gives it its name; `sync`: only once it is on the disk; `keep_journal`: what is in the journal stays.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`], and [`Error::Refused`] if the output has appeared meanwhile.
    pub(crate) fn finish(mut self, sync: bool, keep_journal: bool) -> Result<()> {
        let Target { path, folder, existing, kind } = &self.target;
        let failed = |what: &str, error| io_error(what, error).in_file(path);
        let files = self.place.clone().filter(|_| !is_named(path));
        if let Some(files) = files {
            if sync {
                sync_folder(&files).map_err(|error| failed("can't be flushed to the disk", error))?;
            }
            if let Some(mut journal) = self.journal() {
                journal.finish().map_err(|error| error.in_file(path))?;
            }
            // Windows renames no folder with open files in it.
            self.sections.clear();
            let renamed = match kind {
                Kind::File => rename_file(files.join(MODEL_FILE), path, existing.force),
                Kind::Folder => rename_folder(&files, path, folder, existing.force),
            };
            match renamed {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    let text = "appeared while this was running: give another name, or --force to replace it";
                    return Err(Error::Refused(text.to_owned()).in_file(path));
                }
                Err(error) => return Err(failed("can't be given its name", plain(error))),
            }
            // On Unix the new name itself is on the disk only once the folder is.
            if cfg!(unix) && sync {
                let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
                synced.map_err(|error| failed("is complete, but its folder can't be flushed to the disk", error))?;
            }
        }
        if keep_journal {
            // The rename of a file leaves the folder that it was made in.
            if let Some(place) = self.place.take() {
                let _ = std::fs::remove_dir_all(place);
            }
        }
        Ok(())
    }
}

/// Removes the journal of an output that is complete, which [`QuantizeOptions::keep_journal`] left. One that is not there,
/// that says the output is unfinished, or that another run has, is left alone.
///
/// [`QuantizeOptions::keep_journal`]: super::QuantizeOptions::keep_journal
///
/// # Errors
/// [`Error::Io`] within [`Error::File`].
pub fn remove_journal(output: &Path) -> Result<()> {
    let journal = beside(output, JOURNAL);
    if !Journal::is_finished(&journal) || Journal::is_locked(&journal) {
        return Ok(());
    }
    std::fs::remove_file(&journal).map_err(|error| io_error("its journal can't be removed", error).in_file(output))
}

/// Gives a finished file its name.
fn rename_file(from: PathBuf, path: &Path, force: bool) -> std::io::Result<()> {
    let from = TempPath::try_from_path(from)?;
    let renamed = if force { from.persist(path) } else { from.persist_noclobber(path) };
    renamed.map_err(|error| error.error)
}

/// Gives a finished folder its name. One that has it already steps aside first, and comes back if that fails.
fn rename_folder(from: &Path, path: &Path, parent: &Path, force: bool) -> std::io::Result<()> {
    if std::fs::symlink_metadata(path).is_err() {
        return std::fs::rename(from, path);
    }
    // What took the name while this was running may be anything.
    if !force || !is_model_folder(path) {
        return Err(std::io::ErrorKind::AlreadyExists.into());
    }
    let aside = tempfile::Builder::new().prefix(".wgquant-").suffix(".old").tempdir_in(parent)?;
    let old = aside.path().join("old");
    std::fs::rename(path, &old)?;
    if let Err(error) = std::fs::rename(from, path) {
        if std::fs::rename(&old, path).is_err() {
            let _ = aside.keep(); // better left under another name than lost
        }
        return Err(error);
    }
    Ok(())
}

/// Flushes the files of a folder, and the folder.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        std::fs::File::open(entry?.path())?.sync_all()?;
    }
    if cfg!(unix) { std::fs::File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Whether a folder looks like a model's, so that replacing it destroys nothing else.
fn is_model_folder(folder: &Path) -> bool {
    [MODEL_FILE, INDEX_FILE, CONFIG_FILE].iter().any(|name| folder.join(name).is_file())
}

/// Whether a file lies in a folder or below it.
fn contains(folder: &Path, file: &Path) -> bool {
    matches!((folder.canonicalize(), file.canonicalize()), (Ok(folder), Ok(file)) if file.starts_with(&folder))
}

/// Whether a file of a model's folder holds weights, or says where they are, going by its name: an output has its own, and
/// takes over the others.
#[must_use]
pub fn holds_weights(path: &Path) -> bool {
    const ENDINGS: [&str; 10] =
        [".safetensors", ".bin", ".gguf", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".index.json"];
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// The system's own error, without the temporary file's path that the tempfile crate puts before it.
fn plain(error: std::io::Error) -> std::io::Error {
    error
        .get_ref()
        .and_then(std::error::Error::source)
        .and_then(|inner| inner.downcast_ref::<std::io::Error>())
        .map_or_else(
            || std::io::Error::new(error.kind(), error.to_string()),
            |inner| inner.raw_os_error().map_or_else(|| inner.kind().into(), std::io::Error::from_raw_os_error),
        )
}

/// Whether two paths lead to one file, through links of either kind.
fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(a), Ok(b)) = (std::fs::metadata(a), std::fs::metadata(b)) {
        use std::os::unix::fs::MetadataExt;
        return (a.dev(), a.ino()) == (b.dev(), b.ino());
    }
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
