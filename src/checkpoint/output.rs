//! Output that appears under its final name only when it is complete.

use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::data::{Data, io_error};
use super::layout::Layout;
use crate::error::{Error, Result};

/// A place that may be written to: looked at before any work.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    folder: PathBuf,
    force: bool,
}

impl Target {
    /// Looks at an output's path.
    ///
    /// # Errors
    /// [`Error::Refused`] within [`Error::File`]: it is the input under whatever name, it exists and may not be replaced,
    /// it is no regular file, or its folder is not there.
    pub(crate) fn new(path: &Path, force: bool, input: &Path) -> Result<Self> {
        let refused = |text: &str| Err(Error::Refused(text.to_owned()).in_file(path));
        if same_file(input, path) {
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
        if std::fs::metadata(&target).is_ok_and(|found| !found.is_file()) {
            return refused("is no regular file, so it can't be replaced: give another name");
        }
        let folder = match target.parent() {
            Some(folder) if folder == Path::new("") => PathBuf::from("."),
            Some(folder) if target.file_name().is_some() => folder.to_owned(),
            _ => return refused("is no name for a file"),
        };
        if !folder.is_dir() {
            return refused("its folder does not exist: make it first");
        }
        Ok(Self { path: target, folder, force })
    }

    /// Starts a file in the output's folder and writes the header.
    ///
    /// # Errors
    /// [`Error::Io`] within [`Error::File`].
    pub(crate) fn create(self, layout: &Layout) -> Result<Output> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".wgquant-").suffix(".tmp");
        // What any program's files have (the umask still applies), instead of a temporary file's 0600.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temp = builder
            .tempfile_in(&self.folder)
            .map_err(|error| io_error("can't be created", plain(error)).in_file(&self.path))?;
        let output = Output { temp, target: self, data_start: layout.data_start() };
        Data { start: 0, ..output.data() }.write_at(0, &layout.header)?;
        Ok(output)
    }
}

/// A file in the making; dropped before [`Output::finish`], nothing of it remains.
#[derive(Debug)]
pub(crate) struct Output {
    temp: NamedTempFile,
    target: Target,
    data_start: u64,
}

impl Output {
    /// Its data section, under its final name in messages.
    pub(crate) fn data(&self) -> Data<'_> {
        Data { file: self.temp.as_file(), path: &self.target.path, start: self.data_start }
    }

    /// Gives the file its name; `sync`: only once it is on the disk.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Refused`] if another file has taken the name meanwhile.
    pub(crate) fn finish(self, sync: bool) -> Result<()> {
        let Self { temp, target: Target { path, folder, force }, .. } = self;
        let failed = |what: &str, error| Err(io_error(what, error).in_file(&path));
        if sync && let Err(error) = temp.as_file().sync_all() {
            return failed("can't be flushed to the disk", error);
        }
        let renamed = if force { temp.persist(&path) } else { temp.persist_noclobber(&path) };
        match renamed.map_err(|error| error.error) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let text = "appeared while this was running: give another name, or --force to replace it";
                return Err(Error::Refused(text.to_owned()).in_file(&path));
            }
            Err(error) => return failed("can't be given its name", plain(error)),
        }
        // On Unix the new name itself is on the disk only once the folder is.
        if cfg!(unix)
            && sync
            && let Err(error) = std::fs::File::open(&folder).and_then(|folder| folder.sync_all())
        {
            return failed("is complete, but its folder can't be flushed to the disk", error);
        }
        Ok(())
    }
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
