//! Where a command finds the cluster, and what is said where it finds none.

use std::time::Duration;

use anyhow::anyhow;
use baton_client::{Client, Error, ErrorKind, TopicRecord};
use baton_protocol::admin::check_topic_name;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::cli::output::note;
use crate::cli::{Global, UsageError};

/// The variable that names brokers where no flag does.
const VARIABLE: &str = "BATON_BOOTSTRAP";

/// The brokers of a `baton dev` with its default ports. The first is every broker's default; the
/// others are asked when it is down.
const DEFAULT: [&str; 3] = ["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"];

/// How long no broker may answer before it is said.
const SILENCE_MAX: Duration = Duration::from_millis(1_500);

/// How much longer addresses are tried at which nobody listens: a broker may be about to start.
const ABSENCE_MAX: Duration = Duration::from_millis(3_500);

/// How long it may take to find out whether somebody listens.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Connects to the cluster that the command line or the environment names.
pub async fn connect(global: &Global) -> anyhow::Result<Client> {
    let name = concat!("baton/", env!("CARGO_PKG_VERSION"));
    let addresses = addresses(global)?;
    let client = Client::builder(addresses.clone()).client_name(name);
    tokio::select! {
        connected = client.connect() => match connected {
            Ok(client) => Ok(client),
            Err(error) => Err(explained(error, &addresses).await),
        },
        absent = nobody_listens(&addresses) => Err(absent),
    }
}

/// Says that nobody answers, and gives up where nobody even listens.
async fn nobody_listens(addresses: &[String]) -> anyhow::Error {
    sleep(SILENCE_MAX).await;
    note!("no broker answers yet at {}", addresses.join(", "));
    sleep(ABSENCE_MAX).await;
    let heard = probe(addresses).await;
    if heard.iter().any(|(_, heard)| *heard == Heard::Somebody) {
        return std::future::pending().await;
    }
    anyhow!("no broker answers: {}; {}", told(&heard), advice(&heard))
}

async fn explained(error: Error, addresses: &[String]) -> anyhow::Error {
    match error.kind() {
        ErrorKind::Unreachable => anyhow!("{error}; {}", advice(&probe(addresses).await)),
        _ => error.into(),
    }
}

/// What is heard at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    /// Somebody listens.
    Somebody,
    /// Why nobody does.
    Nobody(String),
}

async fn probe(addresses: &[String]) -> Vec<(String, Heard)> {
    let mut probing = JoinSet::new();
    for (i, address) in addresses.iter().cloned().enumerate() {
        probing.spawn(async move {
            let heard = match timeout(PROBE_LIMIT, TcpStream::connect(&address)).await {
                Ok(Ok(_)) => Heard::Somebody,
                Ok(Err(error)) => Heard::Nobody(error.to_string()),
                Err(_) => Heard::Nobody("no connection".to_owned()),
            };
            (i, address, heard)
        });
    }
    let mut heard = probing.join_all().await;
    heard.sort_by_key(|(i, ..)| *i);
    let heard = heard.into_iter();
    heard.map(|(_, address, heard)| (address, heard)).collect()
}

/// What is heard, addresses of which the same is to be said together.
/// A topic that records go to or come from.
pub async fn topic(client: &Client, name: &str) -> anyhow::Result<TopicRecord> {
    client
        .topic(name)
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::UnknownTopic => anyhow!(no_topic(name)),
            _ => error.into(),
        })
}

/// That there is no such topic, and how to make it, if one can have that name.
pub fn no_topic(name: &str) -> String {
    match check_topic_name(name) {
        Ok(()) => format!("there is no topic named `{name}` (make it: baton topic create {name})"),
        Err(_) => format!("there is no topic named `{}`", name.escape_debug()),
    }
}

fn told(heard: &[(String, Heard)]) -> String {
    let mut told: Vec<(&Heard, Vec<&str>)> = Vec::new();
    for (address, heard) in heard {
        match told.iter_mut().find(|(what, _)| *what == heard) {
            Some((_, addresses)) => addresses.push(address),
            None => told.push((heard, vec![address])),
        }
    }
    let texts = told.iter().map(|(heard, addresses)| match heard {
        Heard::Somebody => format!("{}: somebody listens", addresses.join(", ")),
        Heard::Nobody(why) => format!("{}: {why}", addresses.join(", ")),
    });
    texts.collect::<Vec<_>>().join("; ")
}

/// What to do about it.
fn advice(heard: &[(String, Heard)]) -> String {
    let listening = heard.iter().filter(|(_, heard)| *heard == Heard::Somebody);
    let listening: Vec<&str> = listening.map(|(address, _)| address.as_str()).collect();
    if listening.is_empty() {
        return format!(
            "is a cluster running? `baton dev` starts one on this machine; --bootstrap or {VARIABLE} names another"
        );
    }
    format!(
        "somebody listens at {}: a broker that is stuck, or not where brokers take clients (broker.listen, 7401 by default; 7501 and 7601 are for brokers among themselves, 7701 is for HTTP)",
        listening.join(", ")
    )
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
    fn where_nobody_listens_it_is_said_once_and_what_to_do() {
        let refused = || Heard::Nobody("refused".to_owned());
        let unknown = Heard::Nobody("no such host".to_owned());
        let all = [("a:1", refused()), ("b:1", unknown), ("c:1", refused())];
        let mut heard = all.map(|(address, heard)| (address.to_owned(), heard));
        assert_eq!(told(&heard), "a:1, c:1: refused; b:1: no such host");
        assert!(advice(&heard).contains("`baton dev`"));
        heard[1].1 = Heard::Somebody;
        assert!(advice(&heard).starts_with("somebody listens at b:1"));
    }

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
