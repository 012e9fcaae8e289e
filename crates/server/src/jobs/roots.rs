//! Where jobs may read and write: folders, and prefixes of S3-compatible stores.
//!
//! A path of a job is opened first, and then the system is asked where it led: what lies outside of the roots is refused,
//! whichever links or `..` led there. From then on the job works through what is open and not by the path, so that nothing
//! that is changed meanwhile can lead it elsewhere.

use std::path::{Component, Path, PathBuf};

/// A folder or a prefix that jobs may touch.
#[derive(Debug)]
enum Root {
    /// As it was given, and without links.
    Folder { given: PathBuf, real: PathBuf },
    /// Of a bucket, what keys start with: empty, or with a slash at its end.
    Bucket { bucket: String, prefix: String },
}

/// Everything that jobs may touch.
#[derive(Debug)]
pub(crate) struct Roots(Vec<Root>);

/// What a job names, and may touch as far as its name goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// On this machine; an absolute path.
    Path(PathBuf),
    /// In an S3-compatible store. The key has no slash at its ends.
    Object { bucket: String, key: String },
}

impl Roots {
    /// Looks at the folders that the configuration names.
    ///
    /// # Errors
    /// One sentence: one is no folder, or no prefix as it should be.
    pub(crate) fn new(roots: &[PathBuf]) -> Result<Self, String> {
        let root = |given: &PathBuf| {
            let text = given.to_string_lossy();
            if let Some(rest) = text.strip_prefix("s3://") {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let prefix = prefix.trim_matches('/');
                check_key(bucket, prefix).map_err(|why| format!("the root {text} {why}"))?;
                let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
                return Ok(Root::Bucket { bucket: bucket.to_owned(), prefix });
            }
            let real = given.canonicalize().map_err(|error| format!("the root {text} can't be opened: {error}"))?;
            if !real.is_dir() {
                return Err(format!("the root {text} is no folder"));
            }
            let given =
                std::path::absolute(given).map_err(|error| format!("the root {text} can't be opened: {error}"))?;
            Ok(Root::Folder { given, real })
        };
        roots.iter().map(root).collect::<Result<_, _>>().map(Self)
    }

    /// Reads what a job names.
    ///
    /// # Errors
    /// A sentence without the text itself, if it lies outside of the roots as far as can be said without looking.
    pub(crate) fn place(&self, text: &str) -> Result<Place, String> {
        if let Some(rest) = text.strip_prefix("s3://") {
            return self.object(rest);
        }
        if text.contains("://") {
            return Err("is no place that jobs can use: give a path, or s3://BUCKET/KEY".to_owned());
        }
        let path = Path::new(text);
        if text.is_empty() || text.contains('\0') {
            return Err("is no path".to_owned());
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err("has .. in it, which paths of jobs may not".to_owned());
        }
        let folders = self.0.iter().filter_map(|root| match root {
            Root::Folder { given, real } => Some((given, real)),
            Root::Bucket { .. } => None,
        });
        let folders: Vec<_> = folders.collect();
        let path = match (path.is_absolute(), folders.as_slice()) {
            (_, []) => {
                return Err("is a path, and the service has no folder that jobs may touch (see --root)".to_owned());
            }
            (true, _) => path.to_owned(),
            (false, [(given, _)]) => given.join(path),
            (false, _) => return Err("is no absolute path, and the service has several folders: say which".to_owned()),
        };
        let path: PathBuf = path.components().collect();
        match folders.iter().any(|(given, real)| path.starts_with(given) || path.starts_with(real)) {
            true => Ok(Place::Path(path)),
            false => Err(OUTSIDE.to_owned()),
        }
    }

    fn object(&self, rest: &str) -> Result<Place, String> {
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let key = key.trim_end_matches('/');
        check_key(bucket, key)?;
        if key.is_empty() {
            return Err("names a bucket, and no key in it".to_owned());
        }
        let allowed = self.0.iter().any(|root| match root {
            Root::Bucket { bucket: of, prefix } => of == bucket && format!("{key}/").starts_with(prefix.as_str()),
            Root::Folder { .. } => false,
        });
        match allowed {
            true => Ok(Place::Object { bucket: bucket.to_owned(), key: key.to_owned() }),
            false => Err("lies outside of what the service's jobs may touch (see --root)".to_owned()),
        }
    }

    /// Whether a path without links lies in a root.
    fn holds(&self, path: &Path) -> bool {
        self.0.iter().any(|root| matches!(root, Root::Folder { real, .. } if path.starts_with(real)))
    }

    /// Opens what a path leads to, if that lies in a root. Nothing of it is read.
    ///
    /// # Errors
    /// A sentence without the path.
    pub(super) fn open(&self, path: &Path) -> Result<Opened, String> {
        let opened = Opened::new(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => "is not there".to_owned(),
            _ => format!("can't be opened: {}", reason(&error)),
        })?;
        match opened.real().is_ok_and(|real| self.holds(&real)) {
            true => Ok(opened),
            false => Err(OUTSIDE.to_owned()),
        }
    }
}

const OUTSIDE: &str = "lies outside of the folders that jobs may touch (see --root)";

/// What the system says, without paths.
pub(super) fn reason(error: &std::io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.kind().to_string(), |code| std::io::Error::from_raw_os_error(code).to_string())
}

/// Refuses names of buckets and keys that could be understood in two ways.
fn check_key(bucket: &str, key: &str) -> Result<(), String> {
    let named = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if bucket.is_empty() || !bucket.chars().all(named) {
        return Err("names no bucket: give s3://BUCKET/KEY".to_owned());
    }
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    if key.chars().any(char::is_control) || (!key.is_empty() && key.split('/').any(odd)) {
        return Err("is no key: it has an empty part, . or .. in it, or a control character".to_owned());
    }
    Ok(())
}

/// Something that is open, whatever its path leads to by now.
#[derive(Debug)]
pub(super) struct Opened {
    #[cfg(target_os = "linux")]
    file: std::fs::File,
    #[cfg(not(target_os = "linux"))]
    real: PathBuf,
}

#[cfg(target_os = "linux")]
impl Opened {
    fn new(path: &Path) -> std::io::Result<Self> {
        use rustix::fs::{Mode, OFlags};
        // Only a place: a pipe does not wait, and a device is not touched.
        let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { file: opened.into() })
    }

    /// A path that leads to it as long as it is open.
    pub(super) fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// Where it is.
    fn real(&self) -> std::io::Result<PathBuf> {
        std::fs::read_link(self.path())
    }
}

/// Elsewhere, paths without links stand for what is open.
#[cfg(not(target_os = "linux"))]
impl Opened {
    fn new(path: &Path) -> std::io::Result<Self> {
        Ok(Self { real: path.canonicalize()? })
    }

    /// A path that leads to it.
    pub(super) fn path(&self) -> PathBuf {
        self.real.clone()
    }

    /// Where it is.
    fn real(&self) -> std::io::Result<PathBuf> {
        Ok(self.real.clone())
    }
}

impl Opened {
    /// What it is.
    pub(super) fn metadata(&self) -> std::io::Result<std::fs::Metadata> {
        std::fs::metadata(self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_are_refused() {
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let roots = Roots::new(&[root.path().to_owned(), "s3://models/team/".into()]).unwrap();
        let place = |text: &str| roots.place(text);
        let inside = root.path().join("a/b");
        assert_eq!(place(inside.to_str().unwrap()), Ok(Place::Path(inside.clone())));
        assert_eq!(place("a//./b"), Ok(Place::Path(inside)));
        let object = |key: &str| Ok(Place::Object { bucket: "models".to_owned(), key: key.to_owned() });
        assert_eq!(place("s3://models/team/x/"), object("team/x"));
        assert_eq!(place("s3://models/team"), object("team"));
        for (text, wanted) in [
            ("", "is no path"),
            ("a\0b", "is no path"),
            ("a/../b", "has .. in it"),
            ("/etc/passwd", "outside"),
            (other.path().to_str().unwrap(), "outside"),
            (&format!("{}x", root.path().display()), "outside"),
            ("http://127.0.0.1/x", "is no place"),
            ("file:///etc/passwd", "is no place"),
            ("s3://models/teams/x", "outside"),
            ("s3://models/", "no key"),
            ("s3://others/team/x", "outside"),
            ("s3://models/team/../x", "is no key"),
            ("s3://models/team//x", "is no key"),
            ("s3:///team/x", "names no bucket"),
            ("s3://mod els/team/x", "names no bucket"),
        ] {
            let refused = place(text).expect_err(text);
            assert!(refused.contains(wanted), "{text:?}: {refused}");
        }
        let none = Roots::new(&[]).unwrap();
        assert!(none.place("/etc/passwd").unwrap_err().contains("no folder that jobs may touch"));
        assert!(Roots::new(&[root.path().join("missing")]).unwrap_err().contains("can't be opened"));
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_out_are_refused() {
        use std::os::unix::fs::symlink;
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(root.path().join("file"), b"in").unwrap();
        std::fs::write(other.path().join("file"), b"out").unwrap();
        symlink(root.path().join("file"), root.path().join("link")).unwrap();
        symlink(other.path().join("file"), root.path().join("leak")).unwrap();
        symlink(other.path(), root.path().join("folder")).unwrap();
        let roots = Roots::new(&[root.path().to_owned()]).unwrap();
        let read = |name: &str| roots.open(&root.path().join(name)).map(|opened| std::fs::read(opened.path()).unwrap());
        assert_eq!(read("file"), Ok(b"in".to_vec()));
        assert_eq!(read("link"), Ok(b"in".to_vec()));
        for name in ["leak", "folder", "folder/file"] {
            assert!(read(name).unwrap_err().contains("outside"), "{name}");
        }
        assert_eq!(read("missing"), Err("is not there".to_owned()));
    }

    /// What is open stays what it was, whatever its path leads to afterwards.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_path_that_is_changed_afterwards_leads_nowhere_else() {
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = root.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("file"), b"in").unwrap();
        std::fs::write(other.path().join("file"), b"out").unwrap();
        let roots = Roots::new(&[root.path().to_owned()]).unwrap();
        let opened = roots.open(&folder).unwrap();
        std::fs::rename(&folder, root.path().join("aside")).unwrap();
        std::os::unix::fs::symlink(other.path(), &folder).unwrap();
        assert_eq!(std::fs::read(folder.join("file")).unwrap(), b"out", "the path leads out now");
        assert_eq!(std::fs::read(opened.path().join("file")).unwrap(), b"in");
        assert!(roots.open(&folder).is_err());
    }
}
