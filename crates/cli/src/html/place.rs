//! Where a page goes: looked at before the job, written after it, and there only when it is complete.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use wgquant::{Error, Result};

/// How every page starts.
const DOCTYPE: &[u8] = b"<!doctype html";

/// A place that may be written to.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    target: PathBuf,
    force: bool,
}

impl Place {
    /// Looks at a page's path; `output` is what else the job writes.
    ///
    /// # Errors
    /// [`Error::Refused`]: it is the output, it exists and may not be replaced, or its folder is not there. What is no page
    /// is never replaced, and so no input either.
    pub(crate) fn new(path: &Path, force: bool, output: Option<&Path>) -> Result<Self> {
        let refused = |text: &str| Err(Error::Refused(text.to_owned()).in_file(path));
        if output.is_some_and(|output| same_place(output, path)) {
            return refused("the report is the output: give it another name");
        }
        let target = match std::fs::symlink_metadata(path) {
            Err(_) => path.to_owned(),
            Ok(_) if !force => return refused("exists already: give another name, or --force to replace it"),
            // A link stays, and what it leads to is replaced.
            Ok(_) => match path.canonicalize() {
                Ok(target) if is_page(&target) => target,
                _ => return refused("is no HTML page, so a report does not replace it: give another name"),
            },
        };
        if target.file_name().is_none() {
            return refused("is no name for a file");
        }
        if !folder(&target).is_dir() {
            return refused("its folder does not exist: make it first");
        }
        Ok(Self { path: path.to_owned(), target, force })
    }

    /// Writes the page.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Refused`] if something else has taken the name meanwhile.
    pub(crate) fn write(self, page: &str) -> Result<()> {
        let failed = |what: &str, source| Err(Error::Io { what: what.to_owned(), source }.in_file(&self.path));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".wgquant-").suffix(".tmp");
        // What any program's files have (the umask still applies), instead of 0600.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut temp = match builder.tempfile_in(folder(&self.target)) {
            Ok(temp) => temp,
            // Without the temporary file's name.
            Err(error) => return failed("can't be created", error.kind().into()),
        };
        if let Err(error) = temp.as_file_mut().write_all(page.as_bytes()) {
            return failed("can't be written", error);
        }
        let renamed = if self.force { temp.persist(&self.target) } else { temp.persist_noclobber(&self.target) };
        match renamed {
            Ok(_) => Ok(()),
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
                let text = "appeared while this was running: give another name, or --force to replace it";
                Err(Error::Refused(text.to_owned()).in_file(&self.path))
            }
            Err(error) => failed("can't be given its name", error.error),
        }
    }
}

/// The folder of a file.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Whether a file is an HTML page, or empty.
fn is_page(path: &Path) -> bool {
    if !path.is_file() {
        return false;
    }
    let mut start = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(DOCTYPE.len() as u64).read_to_end(&mut start));
    read.is_ok() && (start.is_empty() || start.eq_ignore_ascii_case(DOCTYPE))
}

/// Whether two paths, of which neither need exist, are one place.
fn same_place(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| Some((folder(path).canonicalize().ok()?, path.file_name()?.to_owned()));
    a == b || matches!((place(a), place(b)), (Some(a), Some(b)) if a == b)
}
