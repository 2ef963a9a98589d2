//! `baton config`.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;

use crate::config::{DEFAULT_FILE, Loaded, Origin};

/// Subcommands of `baton config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration and print what is in force.
    Check {
        /// Configuration file.
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Print the configuration file with every key, its default and its meaning.
    Default,
}

/// Runs a subcommand.
pub fn run(command: &ConfigCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        ConfigCommand::Default => out.write_all(DEFAULT_FILE.as_bytes())?,
        ConfigCommand::Check { config } => {
            let loaded = Loaded::load(config.as_deref(), &[])?;
            let mut section = "";
            for setting in &loaded.settings {
                let Some((of, key)) = setting.key.split_once('.') else {
                    continue;
                };
                if of != section {
                    writeln!(out, "{}[{of}]", if section.is_empty() { "" } else { "\n" })?;
                    section = of;
                }
                let origin = match &setting.origin {
                    Origin::Default => String::new(),
                    other => format!("  # {other}"),
                };
                writeln!(out, "{key} = {}{origin}", setting.toml())?;
            }
        }
    }
    Ok(())
}
