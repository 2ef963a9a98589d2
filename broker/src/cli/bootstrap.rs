//! Where a command finds the cluster.

use baton_client::Client;

use crate::cli::{Global, UsageError};

/// The variable that names brokers where no flag does.
const VARIABLE: &str = "BATON_BOOTSTRAP";

/// The brokers of a `baton dev` with its default ports. The first is every broker's default; the
/// others are asked when it is down.
const DEFAULT: [&str; 3] = ["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"];

/// Connects to the cluster that the command line or the environment names.
pub async fn connect(global: &Global) -> anyhow::Result<Client> {
    let name = concat!("baton/", env!("CARGO_PKG_VERSION"));
    let client = Client::builder(addresses(global)?).client_name(name);
    Ok(client.connect().await?)
}

fn addresses(global: &Global) -> Result<Vec<String>, UsageError> {
    if !global.bootstrap.is_empty() {
        return Ok(global.bootstrap.clone());
    }
    let Some(value) = std::env::var_os(VARIABLE) else {
        return Ok(DEFAULT.map(str::to_owned).to_vec());
    };
    let parts: Result<Vec<String>, String> =
        value.to_string_lossy().split(',').map(parse).collect();
    parts.map_err(|why| UsageError(format!("environment variable {VARIABLE}: {why}")))
}

/// A broker's address: `host:port`.
pub fn parse(text: &str) -> Result<String, String> {
    let text = text.trim();
    let is_address = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let plain = !host.contains([':', '/', '@', ' ', '[', ']']);
        !host.is_empty() && (bracketed || plain) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if is_address {
        return Ok(text.to_owned());
    }
    Err(format!(
        "`{text}` is no broker's address; one is host:port, as 127.0.0.1:7401, and several are separated by commas"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["127.0.0.1:7401", "broker.example:1", "[::1]:65535"] {
            assert_eq!(parse(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "foo",
            ":7401",
            "a:",
            "a:0",
            "a:99999",
            "::1:7401",
            "http://a:1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
