//! `baton broker start`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use crate::cli::quantity;
use crate::config::{Config, Override};
use crate::{freed_memory, logging, node};

/// Flags of `baton broker start`; each stands above the environment and the file.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Configuration file (see `baton config default`).
    #[arg(long)]
    config: Option<PathBuf>,
    /// This broker's number.
    #[arg(long, value_parser = quantity::index, allow_hyphen_values = true)]
    id: Option<u32>,
    /// Where everything is kept.
    #[arg(long)]
    data_dir: Option<String>,
    /// Where clients connect.
    #[arg(long)]
    listen: Option<String>,
    /// Where other brokers connect.
    #[arg(long)]
    peer_listen: Option<String>,
    /// Where voters talk Raft.
    #[arg(long)]
    raft_listen: Option<String>,
    /// Where the HTTP API listens.
    #[arg(long)]
    http_listen: Option<String>,
    /// Voters, as id@address, separated by commas.
    #[arg(long)]
    voters: Option<String>,
    /// Peer ports of the voters, separated by commas.
    #[arg(long)]
    controllers: Option<String>,
    /// End with this parent process.
    #[arg(long, hide = true)]
    exit_with_parent: Option<u32>,
}

impl StartArgs {
    fn overrides(&self) -> Vec<Override> {
        let id = self.id.map(|id| id.to_string());
        [
            ("broker.id", &id),
            ("broker.data_dir", &self.data_dir),
            ("broker.listen", &self.listen),
            ("broker.peer_listen", &self.peer_listen),
            ("broker.raft_listen", &self.raft_listen),
            ("broker.http_listen", &self.http_listen),
            ("cluster.voters", &self.voters),
            ("cluster.controllers", &self.controllers),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.clone()?)))
        .collect()
    }
}

/// Runs a broker.
pub fn run(args: &StartArgs) -> anyhow::Result<()> {
    if let Some(parent) = args.exit_with_parent {
        exit_with_parent(parent)?;
    }
    let config = Config::load(args.config.as_deref(), &args.overrides())?;
    logging::start(&config.logging)?;
    end_on_panic();
    freed_memory::keep_for_batches();
    node::run(config)
}

/// A thread that panics takes the process with it: a broker of which a part is dead would keep its
/// place in the cluster, and nobody could take over from it.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
}

/// Has the system end this process when its parent ends, however that ends.
fn exit_with_parent(parent: u32) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // It may have ended before that call.
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get() as u32);
    if now != Some(parent) {
        bail!("the parent process {parent} is gone");
    }
    Ok(())
}
