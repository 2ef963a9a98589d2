//! Lays the sources of settings over each other: flags over environment over file over defaults.
//!
//! Keeps for every key where its value comes from, for errors and for `baton config check`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use baton_protocol::inspect::{self, SettingSource};
use config::{FileFormat, Source, Value, ValueKind};

use super::rules::{self, KEYS};
use super::{Config, DEFAULT_FILE};

/// What the names of the variables that set keys begin with.
const VARIABLE_PREFIX: &str = "BATON__";

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A key that a flag sets, and the flag's value. A list is separated by commas.
pub type Override = (&'static str, String);

/// A key with a value.
#[derive(Clone, Debug)]
pub struct Setting {
    /// `section.key`.
    pub key: String,
    /// Its value, as it was written.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
}

impl Setting {
    /// The flag is named after the key: `--data-dir` sets `broker.data_dir`.
    fn flag((key, text): &Override) -> Setting {
        let name = key.rsplit('.').next().unwrap_or(key).replace('_', "-");
        Setting::text(Origin::Flag(format!("--{name}")), (*key).to_owned(), text)
    }

    fn text(origin: Origin, key: String, text: &str) -> Setting {
        let is_list = rules::rule(&key).is_some_and(rules::Rule::is_list);
        let value = if is_list {
            let parts = text.split(',').map(|part| Value::from(part.trim()));
            Value::from(parts.collect::<Vec<_>>())
        } else {
            Value::from(text)
        };
        Setting { key, value, origin }
    }

    /// As operators are shown it.
    fn shown(&self) -> inspect::Setting {
        inspect::Setting {
            key: self.key.clone(),
            value: self.toml(),
            source: match &self.origin {
                Origin::Default => SettingSource::Default,
                Origin::File(path) => SettingSource::File(path.display().to_string()),
                Origin::Variable(name) => SettingSource::Environment(name.clone()),
                Origin::Flag(name) => SettingSource::Flag(name.clone()),
            },
        }
    }

    /// The value as it stands in a TOML file.
    pub fn toml(&self) -> String {
        toml(&self.value)
    }
}

fn toml(value: &Value) -> String {
    match &value.kind {
        ValueKind::Array(values) => {
            let parts: Vec<String> = values.iter().map(toml).collect();
            format!("[{}]", parts.join(", "))
        }
        ValueKind::String(text) if text.parse::<u64>().is_err() => format!("{text:?}"),
        _ => value.to_string(),
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}", path = .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{path} is not valid TOML: {source}", path = .path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: config::ConfigError,
    },
    /// There is no such key.
    #[error("{origin}: there is no key `{key}`; {known}")]
    UnknownKey {
        /// Who sets it.
        origin: Origin,
        /// The key.
        key: String,
        /// The keys there are.
        known: String,
    },
    /// A key does not take the value.
    #[error("{origin}: {key} = {value} is not allowed; it must be {allowed}")]
    Value {
        /// Who sets it.
        origin: Origin,
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// A key's value does not go with what another key is by default.
    #[error(
        "{origin}: {setting} does not go with {default}, the default; set that too: it must be {allowed}"
    )]
    Conflict {
        /// Who sets it.
        origin: Origin,
        /// The key and its value.
        setting: String,
        /// The other key and its default.
        default: String,
        /// What the other may be.
        allowed: String,
    },
    /// A variable that looks as if it set a key.
    #[error("environment variable {name} sets nothing; {meant} sets {key}")]
    Misnamed {
        /// Its name.
        name: String,
        /// The name that sets a key.
        meant: String,
        /// That key.
        key: String,
    },
    /// A variable's value is not text.
    #[error("environment variable {name}: the value is not valid UTF-8")]
    NotText {
        /// Which.
        name: String,
    },
    /// The settings make no configuration.
    #[error("the configuration cannot be used: {0}")]
    Shape(#[from] config::ConfigError),
}

/// A configuration and where each of its values comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration, valid.
    pub config: Config,
    /// Every key, in the order of `config.toml`.
    pub settings: Vec<Setting>,
}

impl Loaded {
    /// Reads the file, if one is given, and this process's environment, and lays `flags` over them.
    pub fn load(file: Option<&Path>, flags: &[Override]) -> Result<Loaded, ConfigError> {
        Loaded::of(file, std::env::vars_os(), flags)
    }

    /// The same with another environment.
    pub fn of(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &[Override],
    ) -> Result<Loaded, ConfigError> {
        let mut settings = parse(DEFAULT_FILE, &Origin::Default)?;
        if let Some(path) = file {
            settings.extend(read(path)?);
        }
        settings.extend(variables(environment)?);
        settings.extend(flags.iter().map(Setting::flag));
        let mut layers = BTreeMap::new();
        for setting in settings {
            check(&setting)?;
            layers.insert(setting.key.clone(), setting);
        }
        let builder = config::Config::builder().add_source(Layers(layers.clone()));
        let mut config: Config = builder.build()?.try_deserialize()?;
        if let Some(conflict) = rules::conflict(&config) {
            return Err(conflict_error(conflict, &layers));
        }
        let settings = KEYS.iter().filter_map(|(key, _)| layers.remove(*key));
        let settings: Vec<Setting> = settings.collect();
        config.settings = settings.iter().map(Setting::shown).collect();
        Ok(Loaded { config, settings })
    }
}

/// Blames the key that somebody set.
fn conflict_error(conflict: rules::Conflict, layers: &BTreeMap<String, Setting>) -> ConfigError {
    let rules::Conflict { key, with, allowed } = conflict;
    let value = |key: &str| layers.get(key).map(Setting::toml).unwrap_or_default();
    let origin = |key: &str| layers.get(key).map(|setting| setting.origin.clone());
    let origin = |key: &str| origin(key).unwrap_or(Origin::Default);
    match origin(key) {
        Origin::Default if origin(with) != Origin::Default => ConfigError::Conflict {
            origin: origin(with),
            setting: format!("{with} = {}", value(with)),
            default: format!("{key} = {}", value(key)),
            allowed,
        },
        origin => ConfigError::Value {
            origin,
            key: key.to_owned(),
            value: value(key),
            allowed,
        },
    }
}

/// The settings as the `config` crate takes them.
#[derive(Clone, Debug)]
struct Layers(BTreeMap<String, Setting>);

impl Source for Layers {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, Value>, config::ConfigError> {
        let settings = self.0.values();
        Ok(settings
            .map(|setting| {
                let origin = setting.origin.to_string();
                let value = Value::new(Some(&origin), setting.value.kind.clone());
                (setting.key.clone(), value)
            })
            .collect())
    }
}

fn check(setting: &Setting) -> Result<(), ConfigError> {
    let Some(rule) = rules::rule(&setting.key) else {
        return Err(ConfigError::UnknownKey {
            origin: setting.origin.clone(),
            key: setting.key.clone(),
            known: known_keys(&setting.key),
        });
    };
    if rule.takes(&setting.value) {
        return Ok(());
    }
    Err(ConfigError::Value {
        origin: setting.origin.clone(),
        key: setting.key.clone(),
        value: setting.toml(),
        allowed: rule.allowed(),
    })
}

/// The keys of the section that `key` is in; the sections, if there is none.
fn known_keys(key: &str) -> String {
    let section_of = |key: &str| key.split('.').next().map(str::to_owned).unwrap_or_default();
    let section = section_of(key);
    let keys = KEYS.iter().map(|(key, _)| *key);
    let near: Vec<&str> = keys
        .clone()
        .filter(|known| section_of(known) == section)
        .filter_map(|known| known.split_once('.').map(|(_, name)| name))
        .collect();
    if !near.is_empty() {
        return format!("[{section}] has {}", near.join(", "));
    }
    let mut sections: Vec<String> = keys.map(section_of).collect();
    sections.dedup();
    format!("the sections are {}", sections.join(", "))
}

fn read(path: &Path) -> Result<Vec<Setting>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, &Origin::File(path.to_owned())).map_err(|source| ConfigError::Syntax {
        path: path.to_owned(),
        source,
    })
}

/// The keys of a TOML text.
fn parse(text: &str, origin: &Origin) -> Result<Vec<Setting>, config::ConfigError> {
    let table = config::File::from_str(text, FileFormat::Toml).collect()?;
    let mut settings = Vec::new();
    flatten("", table, origin, &mut settings);
    // A hash map gave them out; errors are to come in a fixed order.
    settings.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(settings)
}

fn flatten(
    prefix: &str,
    table: config::Map<String, Value>,
    origin: &Origin,
    settings: &mut Vec<Setting>,
) {
    for (name, value) in table {
        let key = match prefix {
            "" => name,
            prefix => format!("{prefix}.{name}"),
        };
        match value.kind {
            ValueKind::Table(table) => flatten(&key, table, origin, settings),
            _ => settings.push(Setting {
                key,
                value,
                origin: origin.clone(),
            }),
        }
    }
}

/// The keys that the environment sets, ordered by their names.
fn variables(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Setting>, ConfigError> {
    let mut settings = Vec::new();
    for (name, value) in environment {
        let name = name.to_str();
        if let Some(key) = name.and_then(misnamed) {
            return Err(ConfigError::Misnamed {
                name: name.unwrap_or_default().to_owned(),
                meant: format!("{VARIABLE_PREFIX}{}", key.replace('.', "__").to_uppercase()),
                key: key.to_owned(),
            });
        }
        let Some(name) = name.filter(|name| name.starts_with(VARIABLE_PREFIX)) else {
            continue;
        };
        let name = name.to_owned();
        let key = name[VARIABLE_PREFIX.len()..]
            .to_lowercase()
            .replace("__", ".");
        let Some(text) = value.to_str() else {
            return Err(ConfigError::NotText { name });
        };
        settings.push(Setting::text(Origin::Variable(name), key, text));
    }
    settings.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(settings)
}

/// The key that a variable was meant to set whose name has single underscores where double ones belong.
fn misnamed(name: &str) -> Option<&'static str> {
    let rest = name.strip_prefix("BATON_")?;
    if rest.starts_with('_') {
        return None;
    }
    let plain = rest.to_lowercase().replace("__", "_");
    let mut keys = KEYS.iter().map(|(key, _)| *key);
    keys.find(|key| key.replace('.', "_") == plain)
}
