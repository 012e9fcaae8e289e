//! Output that appears under its final name only when it is complete.

use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

use super::data::{Data, io_error};
use super::layout::Layout;
use super::source::{CONFIG_FILE, MODEL_FILE, Source};
use crate::error::{Error, Result};

/// What an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One file.
    File,
    /// A model's folder, with its weights in `model.safetensors`.
    Folder,
}

/// A place that may be written to: looked at before any work.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    folder: PathBuf,
    force: bool,
    kind: Kind,
}

impl Target {
    /// Looks at an output's path.
    ///
    /// # Errors
    /// [`Error::Refused`] within [`Error::File`]: it is the input under whatever name or a folder around it, it exists and
    /// may not be replaced, it is something else than what is to be written, or its folder is not there.
    pub(crate) fn new(path: &Path, force: bool, source: &Source, kind: Kind) -> Result<Self> {
        let refused = |text: &str| Err(Error::Refused(text.to_owned()).in_file(path));
        if same_file(source.path(), path) || same_file(source.file_path(), path) {
            return refused("the output is the input: give it another name");
        }
        let target = match std::fs::symlink_metadata(path) {
            Err(_) => path.to_owned(),
            Ok(_) if !force => return refused("exists already: give another name, or --force to replace it"),
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
                Kind::Folder if contains(&target, source.file_path()) => {
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
        Ok(Self { path: target, folder, force, kind })
    }

    /// Starts a file, or a folder with one, beside the output's final place, and writes the header.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub(crate) fn create(self, layout: &Layout) -> Result<Output> {
        let failed = |error| io_error("can't be created", plain(error)).in_file(&self.path);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".wgquant-").suffix(".tmp");
        // What any program's files have (the umask still applies), instead of 0600 and 0700.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(match self.kind {
            Kind::File => 0o666,
            Kind::Folder => 0o777,
        }));
        let temp = match self.kind {
            Kind::File => Temp::File(builder.tempfile_in(&self.folder).map_err(failed)?),
            Kind::Folder => {
                let folder = builder.tempdir_in(&self.folder).map_err(failed)?;
                let mut options = std::fs::File::options();
                let options = options.read(true).write(true).create_new(true);
                let file = options.open(folder.path().join(MODEL_FILE)).map_err(failed)?;
                Temp::Folder { folder, file }
            }
        };
        let output = Output { temp, target: self, data_start: layout.data_start() };
        // A file may end with padding, which nothing else writes.
        let Data { file, path, .. } = output.data();
        file.set_len(layout.n_bytes()).map_err(|error| io_error("can't be written", error).in_file(path))?;
        Data { start: 0, ..output.data() }.write_at(0, &layout.header)?;
        Ok(output)
    }
}

/// A file or folder in the making; dropped before [`Output::finish`], nothing of it remains.
#[derive(Debug)]
pub(crate) struct Output {
    temp: Temp,
    target: Target,
    data_start: u64,
}

#[derive(Debug)]
enum Temp {
    File(NamedTempFile),
    Folder { folder: TempDir, file: std::fs::File },
}

impl Output {
    /// Its data section, under its final name in messages.
    pub(crate) fn data(&self) -> Data<'_> {
        let file = match &self.temp {
            Temp::File(temp) => temp.as_file(),
            Temp::Folder { file, .. } => file,
        };
        Data { file, path: &self.target.path, start: self.data_start }
    }

    /// The folder that it is made in, for temporary files beside it.
    pub(crate) fn parent(&self) -> &Path {
        &self.target.folder
    }

    /// Writes another file into the folder that the output is.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub(crate) fn add_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let Temp::Folder { folder, .. } = &self.temp else { return Ok(()) };
        let written = std::fs::write(folder.path().join(name), bytes);
        written.map_err(|error| io_error("can't be written", error).in_file(&self.target.path.join(name)))
    }

    /// Copies the files of the input's folder that hold no weights.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub(crate) fn carry_files(&self, source: &Source) -> Result<()> {
        let (Temp::Folder { folder, .. }, Some(from)) = (&self.temp, source.folder()) else { return Ok(()) };
        let unreadable = |error| io_error("can't be read", error).in_file(from);
        for entry in std::fs::read_dir(from).map_err(unreadable)? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).map_err(unreadable)?;
            if !path.is_file() || holds_weights(&path) {
                continue;
            }
            let copied = std::fs::File::open(&path).and_then(|mut from| {
                let mut to = std::fs::File::create(folder.path().join(&name))?;
                std::io::copy(&mut from, &mut to)
            });
            copied.map_err(|error| io_error("can't be copied", error).in_file(&path))?;
        }
        Ok(())
    }

    /// Gives it its name; `sync`: only once it is on the disk.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Refused`] if something else has taken the name meanwhile.
    pub(crate) fn finish(self, sync: bool) -> Result<()> {
        let Self { temp, target: Target { path, folder, force, .. }, .. } = self;
        let failed = |what: &str, error| io_error(what, error).in_file(&path);
        if sync {
            let synced = match &temp {
                Temp::File(temp) => temp.as_file().sync_all(),
                Temp::Folder { folder, .. } => sync_folder(folder.path()),
            };
            synced.map_err(|error| failed("can't be flushed to the disk", error))?;
        }
        let renamed = match temp {
            Temp::File(temp) if force => temp.persist(&path).map(|_| ()).map_err(|error| error.error),
            Temp::File(temp) => temp.persist_noclobber(&path).map(|_| ()).map_err(|error| error.error),
            Temp::Folder { folder: temp, file } => {
                drop(file);
                rename_folder(temp, &path, &folder, force)
            }
        };
        match renamed {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let text = "appeared while this was running: give another name, or --force to replace it";
                return Err(Error::Refused(text.to_owned()).in_file(&path));
            }
            Err(error) => return Err(failed("can't be given its name", plain(error))),
        }
        // On Unix the new name itself is on the disk only once the folder is.
        if cfg!(unix) && sync {
            let synced = std::fs::File::open(&folder).and_then(|folder| folder.sync_all());
            synced.map_err(|error| failed("is complete, but its folder can't be flushed to the disk", error))?;
        }
        Ok(())
    }
}

/// Gives a finished folder its name. One that has it already steps aside first, and comes back if that fails.
fn rename_folder(temp: TempDir, path: &Path, parent: &Path, force: bool) -> std::io::Result<()> {
    if std::fs::symlink_metadata(path).is_err() {
        std::fs::rename(temp.path(), path)?;
        let _ = temp.keep(); // its place is empty now
        return Ok(());
    }
    // What took the name while this was running may be anything.
    if !force || !is_model_folder(path) {
        return Err(std::io::ErrorKind::AlreadyExists.into());
    }
    let aside = tempfile::Builder::new().prefix(".wgquant-").suffix(".old").tempdir_in(parent)?;
    let old = aside.path().join("old");
    std::fs::rename(path, &old)?;
    if let Err(error) = std::fs::rename(temp.path(), path) {
        if std::fs::rename(&old, path).is_err() {
            let _ = aside.keep(); // better left under another name than lost
        }
        return Err(error);
    }
    let _ = temp.keep();
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
    [MODEL_FILE, CONFIG_FILE].iter().any(|name| folder.join(name).is_file())
}

/// Whether a file lies in a folder or below it.
fn contains(folder: &Path, file: &Path) -> bool {
    matches!((folder.canonicalize(), file.canonicalize()), (Ok(folder), Ok(file)) if file.starts_with(&folder))
}

/// Whether a file of a model's folder holds weights, or says where they are: the output has its own.
fn holds_weights(path: &Path) -> bool {
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
