//! What a job on this machine reads and writes, by what is open and not by paths.

use std::path::{Path, PathBuf};

use super::roots::{Opened, Roots, reason};

/// Files of a source's folder that are looked at.
const MAX_FILES: usize = 10_000;

/// Paths that a job works with, and what a person calls them. Sentences of the library go through this.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<(String, String)>);

impl Names {
    pub(super) fn add(&mut self, path: &Path, called: &str) {
        self.0.push((path.display().to_string(), called.to_owned()));
    }

    /// A sentence as the service says it: with the names that the job came with, and options as requests have them.
    pub(super) fn tell(&self, sentence: &str) -> String {
        let told = self.0.iter().fold(sentence.to_owned(), |text, (path, called)| text.replace(path, called));
        OPTIONS.iter().fold(told, |text, (flag, name)| text.replace(flag, name))
    }
}

/// What the command line calls options, and requests.
const OPTIONS: [(&str, &str); 13] = [
    (" (wgquant inspect lists their names)", ""),
    ("run wgquant dequantize on it first", "dequantize it first"),
    ("--copy-unfit", "copy_unfit"),
    ("--shard-size", "shard_size"),
    ("--min-elements", "min_elements"),
    ("--container ", "container "),
    ("--include", "include"),
    ("--exclude", "exclude"),
    ("--override", "overrides"),
    ("--resume", "resume"),
    ("--force", "force"),
    (": run it again or use --device cpu", ": submit it again"),
    ("--memory", "memory"),
];

/// A source on this machine that is open. Where the system allows that, it stands as a folder of links to what is open.
#[derive(Debug)]
pub(super) struct LocalSource {
    path: PathBuf,
    _view: Option<tempfile::TempDir>,
    _opened: Vec<Opened>,
}

impl LocalSource {
    /// Opens a file or a model's folder, if all that would be read lies in the roots. `scratch` takes the links.
    ///
    /// # Errors
    /// A sentence that begins after the source's name.
    pub(super) fn open(
        roots: &Roots,
        path: &Path,
        called: &str,
        scratch: &Path,
        names: &mut Names,
    ) -> Result<Self, String> {
        let source = roots.open(path)?;
        let found = source.metadata().map_err(|error| format!("can't be read: {}", reason(&error)))?;
        if !found.is_file() && !found.is_dir() {
            return Err("is neither a file nor a folder".to_owned());
        }
        let files = if found.is_dir() {
            files_of(roots, &source)?
        } else {
            vec![(path.file_name().unwrap_or_default().to_owned(), source)]
        };
        if cfg!(not(target_os = "linux")) {
            let path = path.to_owned();
            return Ok(Self { path, _view: None, _opened: files.into_iter().map(|(_, file)| file).collect() });
        }
        let failed = |error: std::io::Error| format!("can't be opened for the job: {}", reason(&error));
        let view = tempfile::Builder::new().prefix("source-").tempdir_in(scratch).map_err(failed)?;
        let mut opened = Vec::with_capacity(files.len());
        for (name, file) in files {
            link(&file.path(), &view.path().join(name)).map_err(failed)?;
            opened.push(file);
        }
        let given = if found.is_dir() {
            view.path().to_owned()
        } else {
            view.path().join(path.file_name().unwrap_or_default())
        };
        names.add(&given, called);
        Ok(Self { path: given, _view: Some(view), _opened: opened })
    }

    /// What the library reads.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses safetensors files whose headers are longer than the service reads, before anything is read of them.
    ///
    /// # Errors
    /// A sentence that begins after the source's name.
    pub(super) fn check_headers(&self, max_bytes: u64) -> Result<(), String> {
        let is_weights = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "safetensors");
        let files: Vec<_> = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_weights).collect(),
            Err(_) => vec![self.path.clone()],
        };
        let too_long = |path: &PathBuf| {
            let mut length = [0; 8];
            let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut length));
            // A GGUF file begins with a number of its own, and its reader has limits of its own.
            read.is_ok() && !length.starts_with(b"GGUF") && u64::from_le_bytes(length) > max_bytes
        };
        match files.into_iter().find(too_long) {
            Some(path) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Err(format!(
                    "has a header in {name} that is longer than the {max_bytes} bytes that are taken, or is no safetensors file"
                ))
            }
            None => Ok(()),
        }
    }
}

/// The regular files of a folder, each open.
fn files_of(roots: &Roots, folder: &Opened) -> Result<Vec<(std::ffi::OsString, Opened)>, String> {
    let failed = |error: std::io::Error| format!("can't be read: {}", reason(&error));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder.path()).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let path = folder.path().join(&name);
        if !path.is_file() {
            continue;
        }
        if files.len() == MAX_FILES {
            return Err(format!("has more than {MAX_FILES} files in it"));
        }
        let file =
            roots.open(&path).map_err(|why| format!("has a file {:?} in it that {why}", name.to_string_lossy()))?;
        files.push((name, file));
    }
    Ok(files)
}

#[cfg(unix)]
fn link(to: &Path, at: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// A destination on this machine, whose folder is open.
#[derive(Debug)]
pub(super) struct LocalDestination {
    path: PathBuf,
    _folder: Opened,
}

impl LocalDestination {
    /// Opens the folder that the output will be in, if that lies in the roots.
    ///
    /// # Errors
    /// A sentence that begins after the destination's name.
    pub(super) fn open(roots: &Roots, path: &Path, called: &str, names: &mut Names) -> Result<Self, String> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err("is no name for an output".to_owned());
        };
        let folder = roots.open(parent).map_err(|why| match why.as_str() {
            "is not there" => "is in a folder that is not there: make it first".to_owned(),
            _ => why,
        })?;
        let path = folder.path().join(name);
        if std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
            return Err("is a link: name what it leads to".to_owned());
        }
        names.add(&path, called);
        Ok(Self { path, _folder: folder })
    }

    /// What the library writes.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
