//! What a scenario measures where it measures more than Baton: Baton's cluster or a peer's, and how it
//! is told which is which.

use std::path::Path;

use super::{Bench, Target, meter_of};
use crate::args::FlushArg;
use crate::peers::{Cluster, Peer, PeerArg};
use crate::report::Case;
use crate::usage::Meter;

/// A way of storing records that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Baton, with a topic of this kind.
    Baton(FlushArg),
    /// Another system.
    Peer(Peer),
}

/// A cluster that runs.
pub enum System {
    /// Of Baton's brokers.
    Baton(Target),
    /// Of another system's.
    Peer(Box<dyn Cluster>),
}

impl Way {
    /// What the heading of a column begins with, so that nothing is compared that is not alike: the
    /// system, when a record is on the disk, and who has it when it is acknowledged.
    pub fn terms(self) -> &'static str {
        match self {
            Way::Baton(FlushArg::Ack) => "Baton, fsync before ack, 2 of 3 ack",
            Way::Baton(FlushArg::Interval) => "Baton, fsync at intervals, 2 of 3 ack",
            Way::Peer(peer) => peer.terms(),
        }
    }

    /// Whether the bare pipeline that it is compared with flushes before it acknowledges. No peer does.
    pub fn flushes(self) -> bool {
        match self {
            Way::Baton(flush) => flush.waits(),
            Way::Peer(_) => false,
        }
    }
}

impl System {
    /// Starts a peer's cluster.
    pub async fn start_peer(peer: PeerArg, dir: &Path) -> anyhow::Result<System> {
        Ok(System::Peer(peer.start(dir).await?))
    }

    /// Watches its processes and this one.
    pub fn meter(&self) -> anyhow::Result<Meter> {
        match self {
            System::Baton(target) => target.meter(),
            System::Peer(cluster) => meter_of(cluster.watched()),
        }
    }
}

/// What is told of the peers in a report, if there are any.
pub fn peer_settings(bench: &Bench) -> anyhow::Result<Option<(&'static str, String)>> {
    let peers = bench.common.peer.iter().map(|peer| peer.describe());
    let told = peers.collect::<anyhow::Result<Vec<_>>>()?;
    Ok((!told.is_empty()).then(|| ("peers", told.join(", "))))
}

/// Has the cases of one load stand beside each other, whichever system they are of; `loads` says of
/// each case which load it is.
pub fn beside_each_other(cases: Vec<(usize, Case)>) -> Vec<Case> {
    let mut cases = cases;
    cases.sort_by_key(|(load, _)| *load);
    cases.into_iter().map(|(_, case)| case).collect()
}
