//! `baton config`.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Map, Value, json};

use crate::cli::output::{print_json, say};
use crate::cli::{Global, UsageError};
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
pub fn run(command: &ConfigCommand, global: &Global) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Default if global.json => {
            let text = "the default configuration is a TOML file; `baton config check --json` shows the values";
            Err(UsageError(text.to_owned()).into())
        }
        ConfigCommand::Default => say!("{}", DEFAULT_FILE.trim_end()),
        ConfigCommand::Check { config } => {
            let loaded = Loaded::load(config.as_deref(), &[])?;
            match global.json {
                true => print_json(&in_force(&loaded)?),
                false => say!("{}", as_toml(&loaded)?),
            }
        }
    }
}

/// What is in force, as a configuration file, with where it comes from.
fn as_toml(loaded: &Loaded) -> Result<String, std::fmt::Error> {
    let (mut text, mut section) = (String::new(), "");
    for setting in &loaded.settings {
        let Some((of, key)) = setting.key.split_once('.') else {
            continue;
        };
        if of != section {
            writeln!(text, "{}[{of}]", if section.is_empty() { "" } else { "\n" })?;
            section = of;
        }
        let origin = match &setting.origin {
            Origin::Default => String::new(),
            other => format!("  # {other}"),
        };
        writeln!(text, "{key} = {}{origin}", setting.toml())?;
    }
    text.truncate(text.trim_end().len());
    Ok(text)
}

/// What is in force, and where each key's value comes from.
fn in_force(loaded: &Loaded) -> serde_json::Result<Value> {
    let origins: Map<String, Value> = loaded
        .settings
        .iter()
        .map(|setting| (setting.key.clone(), setting.origin.to_string().into()))
        .collect();
    Ok(json!({"config": serde_json::to_value(&loaded.config)?, "origins": origins}))
}
