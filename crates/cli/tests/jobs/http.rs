//! A small HTTP client: one request a connection, so that nothing that a test sends hides behind a library.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// No answer takes longer, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}: {}", self.text()))
    }

    /// The sentence of a problem document, which this must be.
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text());
        let document = self.json();
        assert_eq!(document["status"], status);
        document["detail"].as_str().unwrap().to_owned()
    }
}

/// An answer whose body is read line by line.
pub(crate) struct Open {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    reader: BufReader<TcpStream>,
}

/// Sends a request and reads the answer's head.
pub(crate) fn open(address: SocketAddr, head: &str, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<Open> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text =
        format!("{head} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{text}\r\n").as_bytes())?;
    stream.write_all(body)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no status: {line:?}")))?;
    let mut found = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => found.push((name.to_ascii_lowercase(), value.to_owned())),
            None => break,
        }
    }
    Ok(Open { status, headers: found, reader })
}

impl Open {
    fn is_chunked(&self) -> bool {
        self.headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked")
    }

    /// The next chunk of a body in chunks; none at its end.
    fn chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let n = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; n + 2];
        self.reader.read_exact(&mut bytes)?;
        bytes.truncate(n);
        Ok((n > 0).then_some(bytes))
    }

    /// All of the body.
    pub(crate) fn read(mut self) -> std::io::Result<Answer> {
        let mut body = Vec::new();
        if self.is_chunked() {
            while let Some(chunk) = self.chunk()? {
                body.extend(chunk);
            }
        } else {
            self.reader.read_to_end(&mut body)?;
        }
        Ok(Answer { status: self.status, headers: self.headers, body })
    }

    /// The next server-sent event that is more than a comment; none at the end of the stream.
    pub(crate) fn event(&mut self) -> Option<SentEvent> {
        loop {
            let chunk = String::from_utf8(self.chunk().ok()??).unwrap();
            let field = |name: &str| chunk.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            if let (Some(data), Some(id), Some(name)) = (field("data: "), field("id: "), field("event: ")) {
                return Some(SentEvent { name, id, data: serde_json::from_str(&data).unwrap() });
            }
        }
    }
}

/// A server-sent event.
#[derive(Debug)]
pub(crate) struct SentEvent {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}
