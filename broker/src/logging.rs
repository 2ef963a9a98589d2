//! Log lines go to stderr, as text or JSON.

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Logging};

/// Begins to write log lines. A level that does not exist is an error of the configuration.
pub fn start(config: &Logging) -> anyhow::Result<()> {
    // The libraries' own news are for those who ask for them by name.
    let level = match config.level.contains(['=', ',']) {
        true => config.level.clone(),
        false => format!(
            "{},openraft=error,actix_server=warn,actix_http=off",
            config.level
        ),
    };
    let filter = EnvFilter::try_new(level).map_err(|error| {
        anyhow::anyhow!("configuration: logging.level = {:?}: {error}", config.level)
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // A line that cannot be written (a closed pipe, a full disk) is lost, and no more: to say
        // so on the same stderr would panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => lines.with_ansi(false).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("log lines cannot be written: {error}"))
}
