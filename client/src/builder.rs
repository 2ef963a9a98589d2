//! How to reach a cluster.

use std::time::Duration;

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::Metadata;

/// What a client is made with.
#[derive(Clone, Debug)]
pub(crate) struct ClientConfig {
    pub client_name: String,
    pub connect_timeout: Duration,
    pub request_timeout: Duration,
}

/// A client's settings; see [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `connect`"]
pub struct ClientBuilder {
    addresses: Vec<String>,
    config: ClientConfig,
}

impl ClientBuilder {
    pub(crate) fn new(addresses: Vec<String>) -> Self {
        ClientBuilder {
            addresses,
            config: ClientConfig {
                client_name: concat!("baton-client/", env!("CARGO_PKG_VERSION")).to_owned(),
                connect_timeout: Duration::from_secs(1),
                request_timeout: Duration::from_secs(15),
            },
        }
    }

    /// What the client is called in the brokers' logs; `baton-client/<version>` by default.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.config.client_name = name.into();
        self
    }

    /// How long a connection to a broker may take, greeting included; 1 s by default. What fails is
    /// tried again, or elsewhere, as long as the request may take.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.config.connect_timeout = limit;
        self
    }

    /// How long a request may take, retries included, unless it says otherwise; 15 s by default.
    /// Records have a limit of their own ([`ProducerBuilder::delivery_timeout`]).
    ///
    /// [`ProducerBuilder::delivery_timeout`]: crate::ProducerBuilder::delivery_timeout
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.config.request_timeout = limit;
        self
    }

    /// Finds the cluster: ready when a broker has told who belongs to it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] without an address, or with one that is not `host:port`,
    /// [`ErrorKind::NotABroker`] at once where none
    /// of the addresses is a broker's that this client can talk to, [`ErrorKind::Unreachable`] after
    /// the request timeout.
    pub async fn connect(self) -> Result<Client> {
        if self.addresses.is_empty() {
            let text = "no broker was named to begin with (host:port)";
            return Err(Error::new(ErrorKind::InvalidConfig, text));
        }
        if let Some(bad) = self.addresses.iter().find(|address| !is_address(address)) {
            let text = format!(
                "`{}` is no broker's address; one is host:port, as 127.0.0.1:7401",
                bad.escape_debug()
            );
            return Err(Error::new(ErrorKind::InvalidConfig, text));
        }
        let metadata = Metadata::follow(self.addresses, self.config.client_name.clone());
        let limit = self.config.request_timeout;
        tokio::select! {
            biased;
            found = metadata.wait_for(limit, |view| (!view.brokers.is_empty()).then_some(())) => found?,
            error = metadata.hopeless() => return Err(error),
        }
        Ok(Client::new(self.config, metadata))
    }
}

/// Whether it has the form of a broker's address. An IPv6 address stands in brackets.
fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        let is_plain = !host.contains([':', '/', '@', ',', '[', ']']);
        let is_host = !host.is_empty() && !host.contains(char::is_whitespace);
        is_host && (is_bracketed || is_plain) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_can_be_no_address_is_refused_at_once() {
        for good in ["127.0.0.1:7401", "broker.example:1", "[::1]:65535"] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "",
            "localhost",
            ":7401",
            "a:",
            "a:0",
            "a:99999",
            "::1",
            "a:1,b:1",
            "http://a:1",
        ] {
            let found = Client::builder(["127.0.0.1:1", bad]).connect().await;
            let error = found.err().expect("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{bad}: {error}");
            assert!(!error.is_retriable());
        }
    }
}
