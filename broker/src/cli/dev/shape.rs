//! What a directory of `baton dev` was formed with. The voters' addresses are in the brokers' own
//! metadata: with other ports or fewer brokers they would look for each other in vain.

use std::path::Path;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// Ports and number of the brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The first port.
    pub port: u16,
    /// How many brokers.
    pub brokers: u16,
}

impl Shape {
    /// Refuses a directory that was formed with another shape.
    pub fn check(self, data_dir: &Path) -> anyhow::Result<()> {
        let path = data_dir.join("dev.json");
        let formed: Shape = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| {
                format!(
                    "{} does not say how the cluster was formed; remove it if you know the ports and the number of brokers",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        if formed == self {
            return Ok(());
        }
        let Shape { port, brokers } = formed;
        bail!(
            "the cluster in {} was formed with --port {port} --brokers {brokers}, and keeps to that; start it with these, or another one with --data-dir or --ephemeral",
            data_dir.display()
        )
    }

    /// Keeps it with the cluster that was formed.
    pub fn keep(self, data_dir: &Path) -> anyhow::Result<()> {
        let path = data_dir.join("dev.json");
        let text = serde_json::to_string(&self)?;
        std::fs::write(&path, format!("{text}\n"))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_keeps_to_its_ports_and_brokers() {
        let dir = tempfile::tempdir().expect("dir");
        let formed = Shape {
            port: 7401,
            brokers: 3,
        };
        formed.check(dir.path()).expect("nothing is kept yet");
        formed.keep(dir.path()).expect("kept");
        formed.check(dir.path()).expect("the same");
        for other in [
            Shape {
                port: 7411,
                ..formed
            },
            Shape {
                brokers: 2,
                ..formed
            },
        ] {
            let error = other.check(dir.path()).expect_err("refused").to_string();
            assert!(error.contains("--port 7401 --brokers 3"), "{error}");
        }
    }
}
