//! The service's interface: schemathesis makes requests from its OpenAPI document, right ones and wrong ones, and holds the
//! answers to it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::python::ensure_venv;
use crate::steps::{run, target};

/// What tests it, each with its version.
const REQUIREMENTS: &str = "crates/server/tests/requirements.txt";
/// Where the virtual environment is, in an ignored folder. It stays there between runs.
const VENV: &str = ".fixtures/serve/venv";
/// Requests of each route, so that it takes less than a minute.
const EXAMPLES: &str = "150";
const TOKEN: &str = "a-token-for-the-checks";

/// Makes the virtual environment where it is missing or was made for other requirements.
pub(crate) fn ensure(root: &Path) -> Result<()> {
    ensure_venv(root, VENV, REQUIREMENTS)
}

/// Ends the service.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs every check that schemathesis has against a service on the CPU that asks for a token. The command line's program is
/// there already.
pub(crate) fn test(root: &Path) -> Result<()> {
    let state = tempfile::tempdir()?;
    let mut command = Command::new(target(root).join("checked/wgquant"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--log-format", "json", "--state"]);
    command.arg(state.path()).env("WGQUANT_TOKEN", TOKEN).stderr(Stdio::piped());
    let mut service = Service(command.spawn().context("the service could not be started")?);
    let mut log = BufReader::new(service.0.stderr.take().context("no log")?);
    let mut line = String::new();
    log.read_line(&mut line)?;
    let address = line.split("\"address\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let address = address.with_context(|| format!("the service did not start: {line}"))?.to_owned();
    let log = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = log.read_to_string(&mut text);
        text
    });
    let mut checks = Command::new(root.join(VENV).join("bin/schemathesis"));
    checks.current_dir(state.path()).args(["run", &format!("http://{address}/openapi.json")]);
    checks.args(["--header", &format!("Authorization: Bearer {TOKEN}"), "--seed", "1", "--max-examples", EXAMPLES]);
    // What the bytes of a body must be, no schema says.
    checks.args(["--checks", "all", "--exclude-checks", "positive_data_acceptance"]);
    let checked = run(checks.args(["--phases", "examples,coverage,fuzzing", "--warnings", "off", "--no-color"]));
    let is_alive = service.0.try_wait()?.is_none();
    drop(service);
    let log = log.join().unwrap_or_default();
    let faults: Vec<_> = log.lines().filter(|line| line.contains("\"ERROR\"") || line.contains("panicked")).collect();
    checked?;
    if !is_alive || !faults.is_empty() {
        bail!("the service had a fault of its own: {}", faults.join("\n"));
    }
    Ok(())
}
