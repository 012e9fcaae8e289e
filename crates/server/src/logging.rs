//! The log on standard error.

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts the log, once a process.
///
/// # Errors
/// One sentence, if `directives` make no sense.
pub(crate) fn start(format: LogFormat, directives: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(directives).map_err(|error| format!("--log {directives:?}: {error}"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second service in one process logs as the first does.
    let _ = match format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    Ok(())
}
