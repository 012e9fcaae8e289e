//! The HTTP service of wgquant: quantization that can be left running, behind `wgquant serve`.
//!
//! [`run`] is all that the command line calls. [`Server`] is the same in a program of one's own, such as a test.
#![warn(clippy::expect_used, clippy::panic, clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod app;
mod auth;
mod client_body;
mod config;
mod direct;
mod jobs;
mod logging;
mod metrics;
mod openapi;
mod operate;
mod page;
mod problem;
mod queue;
mod server;
mod signals;
mod spool;
mod worker;

pub use self::app::{App, Connection, Shared};
pub use self::auth::Tokens;
pub use self::config::{Args, Config, LogFormat};
pub use self::metrics::Metrics;
pub use self::problem::{Kind, Problem};
pub use self::queue::{Item, Lane, Queue, Ran, Work};
pub use self::server::Server;
pub use self::spool::{Budget, Spool};
pub use self::worker::Device;

/// Runs the service until SIGINT or SIGTERM; a second one ends the process at once.
///
/// # Errors
/// One sentence, if it can't start.
pub fn run(args: Args) -> Result<(), String> {
    let config = args.resolve()?;
    logging::start(config.log_format, &config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("the service can't be started: {error}"))?;
    let served = runtime.block_on(async {
        let server = Server::open(config).await?;
        let failed = |error: std::io::Error| format!("the service can't be started: {error}");
        let address = server.address().map_err(failed)?;
        let mut signals = signals::Signals::listen().map_err(failed)?;
        let devices: Vec<_> = server.app().devices.iter().map(|device| device.description().to_owned()).collect();
        tracing::info!(%address, devices = devices.join(" + "), "listening");
        if server.app().config.is_open_to_anyone() {
            tracing::warn!("no token is asked for: whoever reaches the address can use the service");
        }
        let stop = async move {
            signals.next().await;
            // The next one ends the process as a shell tells of it.
            tokio::spawn(async move { std::process::exit(128 + signals.next().await) });
        };
        server.serve(stop).await;
        Ok(())
    });
    // What does not come to an end is not waited for.
    runtime.shutdown_background();
    served
}

/// What an error says, and why, as one sentence.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}
