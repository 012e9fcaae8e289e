//! A server of files on this machine, for pages that must not come from a file.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, or what else came.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Bytes that were sent along.
    pub body_bytes: u64,
}

/// Serves a folder until the process ends, and keeps account of what is asked for.
#[derive(Debug, Clone)]
pub struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Serves this folder's files, and pages of the test's own: path and HTML.
    #[must_use]
    pub fn start(folder: &Path, pages: &'static [(&'static str, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { address: listener.local_addr().unwrap(), requests: Arc::default() };
        let (requests, folder) = (Arc::clone(&server.requests), folder.to_owned());
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (requests, folder) = (Arc::clone(&requests), folder.clone());
                std::thread::spawn(move || {
                    let _ = answer(connection, &folder, pages, &requests);
                });
            }
        });
        server
    }

    /// The address of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// What was asked for so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers one request and closes the connection.
fn answer(
    mut connection: TcpStream,
    folder: &Path,
    pages: &[(&str, &str)],
    requests: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut body_bytes = 0;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(length) = line.strip_prefix("content-length:") {
            body_bytes = length.trim().parse().unwrap_or(u64::MAX);
        }
    }
    let request = Request { method: method.to_owned(), path: path.to_owned(), body_bytes };
    requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    let name = path.trim_start_matches('/').split('?').next().unwrap_or_default();
    let found = match pages.iter().find(|(page, _)| *page == name) {
        Some((_, html)) => Some(("text/html", html.as_bytes().to_vec())),
        None => file_in(folder, name).and_then(|file| Some((media_type(&file), std::fs::read(file).ok()?))),
    };
    let (status, (media_type, bytes)) = match found {
        Some(found) => ("200 OK", found),
        None => ("404 Not Found", ("text/plain", Vec::new())),
    };
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        bytes.len()
    )?;
    connection.write_all(&bytes)
}

/// A file in the folder, not outside.
fn file_in(folder: &Path, name: &str) -> Option<PathBuf> {
    let name = Path::new(if name.is_empty() { "index.html" } else { name });
    name.components().all(|part| matches!(part, Component::Normal(_))).then(|| folder.join(name))
}

fn media_type(file: &Path) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html",
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("wasm") => "application/wasm",
        _ => "application/octet-stream",
    }
}
