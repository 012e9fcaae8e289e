//! What can be configured: by flags, by the environment and by a TOML file, in this order of precedence.

use std::env::VarError;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use wgquant::MIN_MEMORY_BYTES;

use crate::auth::Tokens;

/// No configuration and no file of tokens is longer.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Holds the tokens where no file is named, one or several with commas between them.
const TOKEN_VARIABLE: &str = "WGQUANT_TOKEN";

/// The most connections, requests and jobs.
const MAX_COUNT: u64 = 1_000_000;

/// The longest limit of time: a year.
const MAX_SECONDS: u64 = 31_536_000;

/// What the process takes whatever it does: code, drivers, threads, buffers of connections.
const BASE_BYTES: u64 = 96 << 20;

const DEFAULT_MEMORY_BYTES: u64 = 1 << 30;
const DEFAULT_DISK_BYTES: u64 = 64 << 30;
const DEFAULT_BODY_BYTES: u64 = 8 << 30;
const DEFAULT_HEADER_BYTES: u64 = 16 << 20;
const DEFAULT_TENSORS: usize = 100_000;

/// The options of `wgquant serve`. All of them can stand in the environment and in a TOML file too; a flag wins over a
/// variable, and a variable over the file. Fields are `None` or empty where nothing was said.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Args {
    /// Take options from a TOML file, by the names they have here (`listen = "127.0.0.1:8787"`, `root = ["/models"]`)
    #[arg(long, value_name = "FILE.toml", env = "WGQUANT_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// The address to listen on; port 0 takes a free one [default: 127.0.0.1:8787]
    #[arg(long, value_name = "ADDRESS:PORT", env = "WGQUANT_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// `auto` for the best GPU or else the CPU, `cpu`, or part of an adapter's name, as for `wgquant quantize`; several
    /// with commas between them work beside each other [default: auto]
    #[arg(long, value_name = "auto|cpu|NAME,…", env = "WGQUANT_DEVICE")]
    pub device: Option<String>,
    /// What the service may take of memory, all in all, on host and device; what does not fit goes to temporary files
    /// [default: 1GiB]
    #[arg(long, value_name = "SIZE", env = "WGQUANT_MEMORY")]
    pub memory: Option<ByteSize>,
    /// What temporary files may take of the disk [default: 64GiB]
    #[arg(long, value_name = "SIZE", env = "WGQUANT_DISK")]
    pub disk: Option<ByteSize>,
    /// The folder for jobs and temporary files [default: the user's state folder]
    #[arg(long, value_name = "FOLDER", env = "WGQUANT_STATE")]
    pub state: Option<PathBuf>,
    /// A folder that jobs may read and write, or s3://BUCKET/PREFIX in an S3-compatible store; can be given several times
    #[arg(long, value_name = "FOLDER", env = "WGQUANT_ROOT", value_delimiter = ',')]
    pub root: Vec<PathBuf>,
    /// A folder with the page for browsers (`cargo xtask web` makes it in target/web/site), to be served at /browser/: it
    /// compresses on the visitor's own GPU, and uploads nothing
    #[arg(long, value_name = "FOLDER", env = "WGQUANT_SITE")]
    pub site: Option<PathBuf>,
    /// A file with the tokens that are let in, one a line (or the tokens themselves in the variable WGQUANT_TOKEN, with
    /// commas between them); then every request needs one, as `Authorization: Bearer TOKEN`
    #[arg(long, value_name = "FILE", env = "WGQUANT_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Listen beyond this machine without a token: whoever reaches the address can use the service, read what jobs may
    /// read and write what they may write
    #[arg(long, env = "WGQUANT_OPEN_TO_ANYONE", num_args = 0..=1, default_missing_value = "true")]
    pub open_to_anyone: Option<bool>,
    /// A name by which the service is reached, beside localhost and the address itself, as behind a proxy; can be given
    /// several times
    #[arg(long, value_name = "NAME", env = "WGQUANT_HOST", value_delimiter = ',')]
    pub host: Vec<String>,
    /// The largest body that is taken [default: 8GiB]
    #[arg(long, value_name = "SIZE", env = "WGQUANT_MAX_BODY")]
    pub max_body: Option<ByteSize>,
    /// The longest header that a checkpoint may have [default: 16MiB]
    #[arg(long, value_name = "SIZE", env = "WGQUANT_MAX_HEADER")]
    pub max_header: Option<ByteSize>,
    /// The most tensors that a checkpoint may have [default: 100000]
    #[arg(long, value_name = "N", env = "WGQUANT_MAX_TENSORS")]
    pub max_tensors: Option<usize>,
    /// The most connections at a time; more wait [default: 256]
    #[arg(long, value_name = "N", env = "WGQUANT_MAX_CONNECTIONS")]
    pub max_connections: Option<usize>,
    /// Direct requests that may wait for a device [default: 16]
    #[arg(long, value_name = "N", env = "WGQUANT_QUEUE")]
    pub queue: Option<usize>,
    /// Jobs that may wait for a device [default: 1000]
    #[arg(long, value_name = "N", env = "WGQUANT_JOB_QUEUE")]
    pub job_queue: Option<usize>,
    /// The most seconds that a direct request may take, waiting included [default: 3600]
    #[arg(long, value_name = "SECONDS", env = "WGQUANT_TIME_LIMIT")]
    pub time_limit: Option<u64>,
    /// The most seconds that a client may neither send nor take a byte [default: 30]
    #[arg(long, value_name = "SECONDS", env = "WGQUANT_IDLE_LIMIT")]
    pub idle_limit: Option<u64>,
    /// How the log on standard error is written [default: text]
    #[arg(long, value_name = "text|json", env = "WGQUANT_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged: a level (error, warn, info, debug), or directives as tracing has them [default: info]
    #[arg(long, value_name = "LEVEL", env = "WGQUANT_LOG")]
    pub log: Option<String>,
    /// Answer `/v1/echo` with a part of the body, without quantizing: what benches/serve.rs compares with
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub bench_echo: bool,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What goes for a service that runs.
#[derive(Debug)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The devices, as [`wgquant::Engine::open_all`] takes them.
    pub device: String,
    /// Bytes of memory, all in all.
    pub memory_bytes: u64,
    /// Bytes of temporary files, all in all.
    pub disk_bytes: u64,
    /// The folder for jobs and temporary files.
    pub state: PathBuf,
    /// The folders that jobs may touch.
    pub roots: Vec<PathBuf>,
    /// The folder with the page for browsers.
    pub site: Option<PathBuf>,
    /// Who is let in; none: anyone.
    pub tokens: Option<Tokens>,
    /// Further names of the service, in lower case.
    pub hosts: Vec<String>,
    /// Bytes of the largest body.
    pub max_body_bytes: u64,
    /// Bytes of the longest header of a checkpoint.
    pub max_header_bytes: u64,
    /// The most tensors of a checkpoint.
    pub max_tensors: usize,
    /// The most connections.
    pub max_connections: usize,
    /// Direct requests that may wait.
    pub queue: usize,
    /// Jobs that may wait.
    pub job_queue: usize,
    /// How long a direct request may take.
    pub time_limit: Duration,
    /// How long a client may be silent.
    pub idle_limit: Duration,
    /// How the log is written.
    pub log_format: LogFormat,
    /// What is logged.
    pub log: String,
    /// Whether there is `/v1/echo`.
    pub bench_echo: bool,
}

impl Args {
    /// Puts flags, variables and the file together, reads the tokens, and refuses what must not be.
    ///
    /// # Errors
    /// One sentence: a file can't be read or says something unknown, a value makes no sense, or the address is not this
    /// machine's own and no token is asked for.
    pub fn resolve(self) -> Result<Config, String> {
        let file = self.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        self.or(file).check()
    }

    /// What this says, and where it is silent, `other`.
    fn or(self, other: Self) -> Self {
        let both = |first: Vec<String>, second| if first.is_empty() { second } else { first };
        Self {
            config: None,
            listen: self.listen.or(other.listen),
            device: self.device.or(other.device),
            memory: self.memory.or(other.memory),
            disk: self.disk.or(other.disk),
            state: self.state.or(other.state),
            root: if self.root.is_empty() { other.root } else { self.root },
            site: self.site.or(other.site),
            token_file: self.token_file.or(other.token_file),
            open_to_anyone: self.open_to_anyone.or(other.open_to_anyone),
            host: both(self.host, other.host),
            max_body: self.max_body.or(other.max_body),
            max_header: self.max_header.or(other.max_header),
            max_tensors: self.max_tensors.or(other.max_tensors),
            max_connections: self.max_connections.or(other.max_connections),
            queue: self.queue.or(other.queue),
            job_queue: self.job_queue.or(other.job_queue),
            time_limit: self.time_limit.or(other.time_limit),
            idle_limit: self.idle_limit.or(other.idle_limit),
            log_format: self.log_format.or(other.log_format),
            log: self.log.or(other.log),
            bench_echo: self.bench_echo,
        }
    }

    fn check(self) -> Result<Config, String> {
        let listen = self.listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 8787).into());
        let tokens = match &self.token_file {
            Some(path) => Some(Tokens::parse(&read_text(path)?).map_err(|text| format!("{}: {text}", path.display()))?),
            None => match std::env::var(TOKEN_VARIABLE) {
                Ok(text) if !text.is_empty() => {
                    let tokens = Tokens::parse(&text.replace(',', "\n"));
                    Some(tokens.map_err(|text| format!("the variable {TOKEN_VARIABLE}: {text}"))?)
                }
                Ok(_) | Err(VarError::NotPresent) => None,
                Err(VarError::NotUnicode(_)) => return Err(format!("the variable {TOKEN_VARIABLE} is no text")),
            },
        };
        if !listen.ip().is_loopback() && tokens.is_none() && self.open_to_anyone != Some(true) {
            return Err(format!(
                "{listen} can be reached from other machines, and no token is asked for: name a file of tokens with \
                 --token-file, or say --open-to-anyone"
            ));
        }
        if let Some(site) = self.site.as_ref().filter(|site| !site.join("index.html").is_file()) {
            let text = "has no index.html, so it is no page for browsers: cargo xtask web makes one in target/web/site";
            return Err(format!("{}: {text}", site.display()));
        }
        let size = |size: Option<ByteSize>, default| size.map_or(default, |size| size.as_u64());
        let config = Config {
            listen,
            device: self.device.unwrap_or_else(|| "auto".to_owned()),
            memory_bytes: size(self.memory, DEFAULT_MEMORY_BYTES),
            disk_bytes: size(self.disk, DEFAULT_DISK_BYTES),
            state: self.state.or_else(state_folder).ok_or("no home folder is known: name a folder with --state")?,
            roots: self.root,
            site: self.site,
            tokens,
            hosts: self.host.iter().map(|host| host.to_ascii_lowercase()).collect(),
            max_body_bytes: size(self.max_body, DEFAULT_BODY_BYTES),
            max_header_bytes: size(self.max_header, DEFAULT_HEADER_BYTES),
            max_tensors: self.max_tensors.unwrap_or(DEFAULT_TENSORS),
            max_connections: self.max_connections.unwrap_or(256),
            queue: self.queue.unwrap_or(16),
            job_queue: self.job_queue.unwrap_or(1000),
            time_limit: Duration::from_secs(self.time_limit.unwrap_or(3600)),
            idle_limit: Duration::from_secs(self.idle_limit.unwrap_or(30)),
            log_format: self.log_format.unwrap_or_default(),
            log: self.log.unwrap_or_else(|| "info".to_owned()),
            bench_echo: self.bench_echo,
        };
        for (n, max, name) in [
            (config.max_connections as u64, MAX_COUNT, "--max-connections"),
            (config.queue as u64, MAX_COUNT, "--queue"),
            (config.job_queue as u64, MAX_COUNT, "--job-queue"),
            (config.time_limit.as_secs(), MAX_SECONDS, "--time-limit"),
            (config.idle_limit.as_secs(), MAX_SECONDS, "--idle-limit"),
        ] {
            if !(1..=max).contains(&n) {
                return Err(format!("{name} is {n}, and from 1 to {max} it may be"));
            }
        }
        Ok(config)
    }
}

impl Config {
    /// How the memory is shared: bytes for each of `n` devices' work, and for bodies and answers.
    ///
    /// # Errors
    /// One sentence, if it is too little.
    pub fn share_memory(&self, n: usize) -> Result<(u64, u64), String> {
        let n = n.max(1) as u64;
        let rest = self.memory_bytes.saturating_sub(BASE_BYTES);
        // Half for the devices' work; of the other half a quarter stays free for what parsing headers and sending takes.
        let engine = (rest / 2 / n).max(MIN_MEMORY_BYTES);
        let bodies = rest.saturating_sub(engine * n) / 4 * 3;
        if bodies < 16 << 20 {
            let least = ByteSize::b(BASE_BYTES + MIN_MEMORY_BYTES * n + (32 << 20));
            return Err(format!(
                "{} of memory are too little for {n} device{}: give at least {least} with --memory",
                ByteSize::b(self.memory_bytes),
                if n == 1 { "" } else { "s" },
            ));
        }
        Ok((engine, bodies))
    }

    /// Whether other machines reach it without a token.
    #[must_use]
    pub fn is_open_to_anyone(&self) -> bool {
        !self.listen.ip().is_loopback() && self.tokens.is_none()
    }

    /// The folder for temporary files.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.state.join("tmp")
    }
}

/// `$XDG_STATE_HOME/wgquant`, or its default.
fn state_folder() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || absolute("HOME").map(|home| home.join(".local/state"));
    absolute("STATE_DIRECTORY")
        .or_else(|| absolute("XDG_STATE_HOME").or_else(home).map(|folder| folder.join("wgquant")))
}

fn read_file(path: &Path) -> Result<Args, String> {
    let text = read_text(path)?;
    toml::from_str(&text).map_err(|error| {
        // One line of what is otherwise a drawing.
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        format!("{}: line {line}: {}", path.display(), error.message())
    })
}

fn read_text(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{}: can't be read: {error}", path.display());
    let found = std::fs::metadata(path).map_err(failed)?;
    if !found.is_file() || found.len() > MAX_FILE_BYTES {
        return Err(format!("{}: is no file of at most {MAX_FILE_BYTES} bytes, as it should be", path.display()));
    }
    std::fs::read_to_string(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Args)) -> Result<Config, String> {
        let mut args = Args { state: Some("/tmp".into()), ..Args::default() };
        change(&mut args);
        args.resolve()
    }

    #[test]
    fn beyond_this_machine_a_token_is_needed() {
        let open = |args: &mut Args| args.listen = Some("0.0.0.0:1".parse().expect("an address"));
        assert!(with(open).expect_err("no token").contains("no token is asked for"));
        assert!(with(|args| args.listen = Some("[::1]:1".parse().expect("an address"))).is_ok());
        assert!(with(|args| (open(args), args.open_to_anyone = Some(true)).1).is_ok());
        assert!(with(|args| (open(args), args.open_to_anyone = Some(false)).1).is_err());
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "# of the team\n0123456789abcdef\n").expect("a temporary file");
        let config = with(|args| (open(args), args.token_file = Some(file.path().to_owned())).1).expect("a token");
        assert!(config.tokens.expect("tokens").let_in("0123456789abcdef"));
        std::fs::write(file.path(), "").expect("a temporary file");
        assert!(with(|args| args.token_file = Some(file.path().to_owned())).expect_err("empty").contains("no token"));
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let text =
            "listen = \"127.0.0.1:1\"\nqueue = 3\nmemory = \"2GiB\"\nroot = [\"/a\", \"/b\"]\nlog-format = \"json\"";
        std::fs::write(file.path(), text).expect("a temporary file");
        let set = |args: &mut Args| (args.config, args.queue) = (Some(file.path().to_owned()), Some(7));
        let config = with(set).expect("a configuration");
        assert_eq!((config.queue, config.listen.port(), config.memory_bytes), (7, 1, 2 << 30));
        assert_eq!((config.roots.len(), config.log_format), (2, LogFormat::Json));
        std::fs::write(file.path(), "queue = 3\nqueu = 4").expect("a temporary file");
        let refused = with(set).expect_err("unknown");
        assert!(refused.contains("line 2: unknown field `queu`"), "{refused}");
    }

    #[test]
    fn numbers_have_bounds() {
        for n in [0, u64::MAX] {
            let count = usize::try_from(n).expect("64 bits");
            let all: [fn(&mut Args, u64, usize); 5] = [
                |args, _, n| args.max_connections = Some(n),
                |args, _, n| args.queue = Some(n),
                |args, _, n| args.job_queue = Some(n),
                |args, n, _| args.time_limit = Some(n),
                |args, n, _| args.idle_limit = Some(n),
            ];
            for set in all {
                let refused = with(|args| set(args, n, count)).expect_err("out of bounds");
                assert!(refused.contains("from 1 to"), "{refused}");
            }
        }
    }

    #[test]
    fn memory_is_shared() {
        let config = |size| with(|args| args.memory = Some(ByteSize::b(size))).expect("a configuration");
        let (engine, bodies) = config(1 << 30).share_memory(1).expect("enough");
        assert!(engine + bodies + BASE_BYTES < 1 << 30 && engine > 256 << 20 && bodies > 256 << 20);
        assert!(config(192 << 20).share_memory(1).is_ok());
        let refused = config(192 << 20).share_memory(2).expect_err("too little");
        assert!(refused.contains("too little for 2 devices: give at least 256.0 MiB"), "{refused}");
    }
}
