//! How much the service carries: requests a second beside what its parts would allow, memory, and refusals.
//!
//!     cargo build --release && cargo run --release -p wgquant-server --example serve-load -- target/release/wgquant \
//!         [--device cpu]… [--seconds 6] [--rounds 3]
//!
//! For each device it starts the service, and drives it with 1, 8 and 64 clients whose bodies have 16 MiB, over kept
//! connections; a client that is refused comes again after the time it was told. Beside that stand, from the same run,
//! E: the same server reading such bodies and answering as many bytes as a result has, without quantizing, and L: the
//! library called directly, one call after the other. It fails if, at 8 clients, throughput is below
//! 0.8 / (1/E + 1/L), if memory exceeds what was allowed, if a client got neither its result nor a 429, or if a result
//! differs by a byte from the one that the library gave and verified.
#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "it reports figures")]

use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wgquant::checkpoint::{PackedFile, Progress, QuantizeOptions, Source, Storage, quantize_into, verify_packed};
use wgquant::{Engine, Format};
use wgquant_server::{Budget, Spool};

const FORMAT: Format = Format::Sym4;
const MEMORY: &str = "1GiB";
const MEMORY_BYTES: u64 = 1 << 30;
/// Four tensors of 4 MiB.
const N_TENSORS: usize = 4;
const TENSOR_BYTES: usize = 4 << 20;
/// The least throughput, of what reading and writing and the library after each other would give.
const LEAST_SHARE: f64 = 0.8;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(binary) = arguments.next().map(PathBuf::from) else {
        println!("usage: serve-load WGQUANT [--device NAME]… [--seconds N] [--rounds N]");
        return ExitCode::from(2);
    };
    let (mut devices, mut seconds, mut rounds) = (Vec::new(), 6, 3);
    while let (Some(option), Some(value)) = (arguments.next(), arguments.next()) {
        match option.as_str() {
            "--device" => devices.push(value),
            "--seconds" => seconds = value.parse().unwrap_or(seconds),
            _ => rounds = value.parse().unwrap_or(rounds),
        }
    }
    if devices.is_empty() {
        devices.push("cpu".to_owned());
    }
    let mut failed = false;
    for device in &devices {
        match measure(&binary, device, Duration::from_secs(seconds), rounds) {
            Ok(is_well) => failed |= !is_well,
            Err(error) => {
                println!("{device}: {error}");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Whether a device's service keeps what is asked of it.
fn measure(binary: &Path, device: &str, time: Duration, rounds: usize) -> Result<bool> {
    let body = body();
    let library = Library::open(device, &body)?;
    let service = Service::start(binary, device)?;
    let quantize = format!("/v1/quantize?format={FORMAT}");
    let echo = format!("/v1/echo?bytes={}", library.wanted.len());
    let run = |path: &str, n: usize, wanted: &[u8]| drive(&service.address, path, &body, wanted, n, time);
    // Once each, so that nothing is done for the first time.
    run(&quantize, 2, &library.wanted)?;
    library.rate(Duration::from_millis(500))?;
    let (mut e, mut l, mut s, mut shares) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (echoed, called) = (run(&echo, 8, &body[..library.wanted.len()])?, library.rate(time)?);
        let served = run(&quantize, 8, &library.wanted)?;
        shares.push(served.rate * (1.0 / echoed.rate + 1.0 / called));
        e.push(echoed.rate);
        l.push(called);
        s.push(served.rate);
    }
    let (one, many) = (run(&quantize, 1, &library.wanted)?, run(&quantize, 64, &library.wanted)?);
    let (peak, share) = (service.peak_memory()?, median(&mut shares));
    println!(
        "{device} ({}): E {:.1}/s, L {:.1}/s; 1 client {:.1}/s, 8 clients {:.1}/s, which is {share:.2} of 1/(1/E + 1/L) \
         ({:.2} to {:.2}); 64 clients {:.1}/s with {} refused and 0 broken; peak {} MiB of {} MiB; load {}",
        library.engine.description(),
        median(&mut e),
        median(&mut l),
        one.rate,
        median(&mut s),
        shares.first().copied().unwrap_or_default(),
        shares.last().copied().unwrap_or_default(),
        many.rate,
        many.refused,
        peak >> 20,
        MEMORY_BYTES >> 20,
        std::fs::read_to_string("/proc/loadavg")?.split(' ').next().unwrap_or_default(),
    );
    Ok(share >= LEAST_SHARE && peak < MEMORY_BYTES)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// A safetensors file of 16 MiB and a header.
fn body() -> Vec<u8> {
    let entry = |n: usize| {
        let (start, end) = (n * TENSOR_BYTES, (n + 1) * TENSOR_BYTES);
        format!(r#""t{n}":{{"dtype":"F32","shape":[1024,1024],"data_offsets":[{start},{end}]}}"#)
    };
    let header = format!("{{{}}}", (0..N_TENSORS).map(entry).collect::<Vec<_>>().join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    let mut state = 1_u64;
    for _ in 0..N_TENSORS * TENSOR_BYTES / 4 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = f32::from(i16::from_le_bytes([state.to_le_bytes()[6], state.to_le_bytes()[7]])) / 32768.0;
        bytes.extend(value.to_le_bytes());
    }
    bytes
}

/// The library, called directly.
struct Library {
    engine: Engine,
    input: Arc<Vec<u8>>,
    wanted: Vec<u8>,
}

impl Library {
    fn open(device: &str, body: &[u8]) -> Result<Self> {
        let engine = pollster::block_on(Engine::open(device)).map_err(Error::other)?;
        let mut library = Self { engine, input: Arc::new(body.to_vec()), wanted: Vec::new() };
        let output = library.quantize()?;
        library.wanted = vec![0; usize::try_from(output.len()).unwrap_or_default()];
        output.read_range(0, &mut library.wanted)?;
        let packed = Source::from_storage(Arc::new(library.wanted.clone()), Path::new("output"));
        let packed = packed.and_then(PackedFile::from_source).map_err(Error::other)?;
        let report = verify_packed(&library.source()?, &packed, &mut |_| {}).map_err(Error::other)?;
        match report.first_mismatch() {
            None => Ok(library),
            Some(text) => Err(Error::other(text.to_owned())),
        }
    }

    fn source(&self) -> Result<Source> {
        Source::from_storage(Arc::clone(&self.input) as _, Path::new("body")).map_err(Error::other)
    }

    fn quantize(&self) -> Result<Arc<Spool>> {
        let budget = Arc::new(Budget::new(1 << 30, 0, std::env::temp_dir()));
        let output = Arc::new(Spool::new(budget));
        let options = QuantizeOptions::new(FORMAT);
        let (source, mut progress) = (self.source()?, |_: Progress<'_>| {});
        let done = quantize_into(&self.engine, &source, Arc::clone(&output) as _, &options, &mut progress);
        pollster::block_on(done).map_err(Error::other)?;
        Ok(output)
    }

    /// Calls a second.
    fn rate(&self, time: Duration) -> Result<f64> {
        let (started, mut n) = (Instant::now(), 0.0);
        while started.elapsed() < time {
            self.quantize()?;
            n += 1.0;
        }
        Ok(n / started.elapsed().as_secs_f64())
    }
}

/// The program, as a system runs it.
struct Service {
    child: Child,
    address: String,
    _state: tempfile::TempDir,
}

impl Service {
    fn start(binary: &Path, device: &str) -> Result<Self> {
        let state = tempfile::tempdir()?;
        let mut command = Command::new(binary);
        command.args(["serve", "--listen", "127.0.0.1:0", "--device", device, "--memory", MEMORY, "--bench-echo"]);
        command.args(["--log-format", "json", "--log", "warn,wgquant_server=info,wgquant_server::app=warn"]);
        let mut child = command.arg("--state").arg(state.path()).stderr(Stdio::piped()).spawn()?;
        let mut log = BufReader::new(child.stderr.take().ok_or_else(|| Error::other("no log"))?);
        let mut line = String::new();
        log.read_line(&mut line)?;
        let value: serde_json::Value = serde_json::from_str(&line).map_err(|_| Error::other(line.clone()))?;
        let address = value["address"].as_str().ok_or_else(|| Error::other(line))?.to_owned();
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::stderr()));
        Ok(Self { child, address, _state: state })
    }

    /// The most that it had resident at a time.
    fn peak_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")).map(|line| line.trim().trim_end_matches(" kB"));
        line.and_then(|kib| kib.parse::<u64>().ok()).map(|kib| kib << 10).ok_or_else(|| Error::other("no VmHWM"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What clients met.
struct Driven {
    /// Results a second.
    rate: f64,
    refused: u64,
}

/// Drives the service with `n` clients for some time, and until the last of them has its answer.
fn drive(address: &str, path: &str, body: &[u8], wanted: &[u8], n: usize, time: Duration) -> Result<Driven> {
    let (accepted, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let started = Instant::now();
    let client = || -> Result<()> {
        let mut connection = connect(address)?;
        while started.elapsed() < time {
            match request(&mut connection, path, body, wanted)? {
                None => drop(accepted.fetch_add(1, Ordering::Relaxed)),
                Some(seconds) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_secs(seconds).min(time.saturating_sub(started.elapsed())));
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..n).map(|_| scope.spawn(client)).collect();
        clients.into_iter().try_for_each(|client| client.join().unwrap_or_else(|_| Err(Error::other("a panic"))))
    })?;
    let rate = accepted.into_inner() as f64 / started.elapsed().as_secs_f64();
    Ok(Driven { rate, refused: refused.into_inner() })
}

fn connect(address: &str) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    Ok(BufReader::with_capacity(64 << 10, stream))
}

/// One request; `None` for a result that is as wanted, or after how many seconds to come again.
fn request(connection: &mut BufReader<TcpStream>, path: &str, body: &[u8], wanted: &[u8]) -> Result<Option<u64>> {
    let stream = connection.get_mut();
    write!(stream, "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)?;
    let (mut line, mut status, mut length, mut retry_after) = (String::new(), 0, 0, None);
    loop {
        line.clear();
        connection.read_line(&mut line)?;
        let line = line.trim_end();
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            status = rest.split(' ').next().and_then(|status| status.parse().ok()).unwrap_or_default();
        }
        match line.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap_or_default(),
            Some(("retry-after", value)) => retry_after = value.parse().ok(),
            Some(_) => {}
            None if line.is_empty() => break,
            None => {}
        }
    }
    let mut answer = vec![0; length];
    connection.read_exact(&mut answer)?;
    match (status, retry_after) {
        (200, _) if answer == wanted => Ok(None),
        (200, _) => Err(Error::other("a result differs from the library's")),
        (429, Some(seconds)) => Ok(Some(seconds)),
        _ => Err(Error::other(format!("an answer with status {status}: {}", String::from_utf8_lossy(&answer)))),
    }
}
