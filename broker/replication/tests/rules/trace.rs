//! How a history reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use baton_protocol::ids::{BrokerId, LeaderEpoch, Offset};
use baton_protocol::peer::{Append, ReplicaMessage};
use baton_replication::Replica;
use baton_replication::event::{
    Acknowledged, Breach, Effect, Input, Refusal, RequestId, SetProposal,
};

use crate::cluster::Cluster;
use crate::node::{Content, Entry};

fn join<T: Display>(items: impl IntoIterator<Item = T>, by: &str) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(by)
}

/// A set of brokers.
pub fn set(members: &BTreeSet<BrokerId>) -> String {
    format!("{{{}}}", join(members, ","))
}

/// An append that leaves: what it continues, what it carries, the watermark.
pub fn append(from: u32, to: BrokerId, append: &Append, entries: &[Entry]) -> String {
    let Append {
        epoch,
        prev_epoch,
        prev_end,
        high_watermark,
        log_start,
        ..
    } = append;
    let start = match log_start.0 {
        0 => String::new(),
        start => format!(", start {start}"),
    };
    let what = match entries.is_empty() {
        true => "nothing".to_owned(),
        false => format!("[{}]", join(entries, " ")),
    };
    format!(
        "{from} -> {to}: e{epoch} {what} after {prev_epoch}:{prev_end}, hw {high_watermark}{start}"
    )
}

fn message(message: &ReplicaMessage) -> String {
    match message {
        ReplicaMessage::Append(append) => format!("append e{}", append.epoch),
        ReplicaMessage::Reset(reset) => format!(
            "begin anew e{} after {}:{}",
            reset.epoch, reset.prev_epoch, reset.start
        ),
        ReplicaMessage::Ack(ack) => {
            let more = match ack.log_end > ack.durable_end {
                true => format!(", received {}", ack.log_end),
                false => String::new(),
            };
            format!(
                "ack e{} holds {}:{}{more}",
                ack.epoch, ack.last_epoch, ack.durable_end
            )
        }
        ReplicaMessage::Mismatch(mismatch) => {
            let run = |(epoch, base): &(LeaderEpoch, Offset)| format!("{epoch}:{base}");
            let runs = &mismatch.history;
            let history = match runs.as_slice() {
                [first, .., last] if runs.len() > 8 => {
                    format!("{} .. {} ({} epochs)", run(first), run(last), runs.len())
                }
                _ => join(runs.iter().map(run), " "),
            };
            format!(
                "mismatch e{} at {}, end {}, epochs [{history}]",
                mismatch.epoch, mismatch.prev_end, mismatch.log_end
            )
        }
        ReplicaMessage::Refused(refused) => {
            format!("refuses e{}, promised e{}", refused.epoch, refused.promised)
        }
    }
}

fn refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NotLeader => "not the leader".to_owned(),
        Refusal::NotEnoughReplicas { reachable, needed } => {
            format!("not stored: {reachable} of {needed} replicas in reach")
        }
        Refusal::CommitTimeout => "not committed in time".to_owned(),
        Refusal::LeaderChanged => "unknown: the leader changed".to_owned(),
        Refusal::OutOfOrder { expected } => format!("out of order: sequence {expected} is due"),
        Refusal::ProducerFenced { current } => format!("producer fenced by epoch {current}"),
        Refusal::NoLease => "not stored: the controller is not heard".to_owned(),
        Refusal::OutOfOffsets => "not stored: no offsets are left".to_owned(),
        Refusal::StorageFailed => "unknown: storage failed".to_owned(),
    }
}

fn proposal(proposal: &SetProposal) -> String {
    let verified = match proposal.verified.is_empty() {
        true => String::new(),
        false => format!(", verified {}", join(&proposal.verified, " ")),
    };
    let proven = proposal
        .sync_followers_elect
        .map_or(String::new(), |failures| format!(", {failures} may fail"));
    format!(
        "v{} -> {}{verified}{proven}",
        proposal.version,
        set(&proposal.new_set)
    )
}

fn breach(breach: &Breach) -> String {
    match breach {
        Breach::TruncateBelowWatermark { to, high_watermark } => {
            format!("cut to {to} is below the watermark {high_watermark}")
        }
        Breach::FlushFailed => "a flush failed".to_owned(),
    }
}

/// An input that no effect shows.
pub fn input(id: u32, input: &Input) -> Option<String> {
    match input {
        Input::Metadata(view) => Some(format!("{id}: learns e{} v{}", view.epoch, view.version)),
        Input::Flushed { end } => Some(format!("{id}: durable {end}")),
        _ => None,
    }
}

/// An effect, unless it is told elsewhere or means nothing to a reader.
pub fn effect(id: u32, effect: &Effect, requests: &BTreeMap<RequestId, Content>) -> Option<String> {
    let line = match effect {
        Effect::AppendBatch {
            request,
            base,
            epoch,
        } => format!("{id}: appends {epoch}:{base} {}", requests[request]),
        Effect::AppendEpochStart { .. } | Effect::Push { .. } | Effect::Flush => return None,
        Effect::AppendEntries { skip: 0 } => format!("{id}: stores all"),
        Effect::AppendEntries { skip } => format!("{id}: stores all but {skip}"),
        Effect::AdvanceStart { to } => format!("{id}: starts at {to}"),
        Effect::Reset {
            start,
            epoch_before,
            keep_from,
            epoch,
        } => format!(
            "{id}: begins anew after {epoch_before}:{start} for e{epoch}, keeps from {keep_from}"
        ),
        Effect::Truncate { to, epoch } => format!("{id}: cuts to {to} for e{epoch}"),
        Effect::Send { to, message: m } => format!("{id} -> {to}: {}", message(m)),
        Effect::Reply { request, result } => {
            let name = requests[request];
            match result {
                Ok(Acknowledged {
                    base: Some(base),
                    epoch,
                }) => format!("{id}: {name} is committed at {epoch}:{base}"),
                Ok(Acknowledged { base: None, epoch }) => {
                    format!("{id}: {name} is stored in e{epoch}")
                }
                Err(why) => format!("{id}: {name} {}", refusal(why)),
            }
        }
        Effect::PublishHighWatermark(to) => format!("{id}: hw {to}"),
        Effect::AnswerFence(answer) => format!(
            "{id}: fenced e{}, holds {}:{}",
            answer.epoch, answer.last_epoch, answer.durable_end
        ),
        Effect::ProposeInSync(wanted) => format!("{id}: proposes {}", proposal(wanted)),
        Effect::AskOffsets { limit, .. } => format!("{id}: asks for offsets to {limit}"),
        Effect::ProposeHandover(wanted) => {
            format!("{id}: proposes v{} -> leader {}", wanted.version, wanted.to)
        }
        Effect::RoleChanged {
            leading: Some(epoch),
        } => format!("{id}: leads e{epoch}"),
        Effect::RoleChanged { leading: None } => format!("{id}: leads no more"),
        Effect::Ignored { from, why } => format!("{id}: ignores {from}: {why}"),
        Effect::Broken(why) => format!("{id}: broken: {}", breach(why)),
    };
    Some(line)
}

/// The controller's view, in a line.
pub fn metadata(cluster: &Cluster) -> String {
    let view = &cluster.controller.view;
    let leader = view
        .leader
        .map_or("no leader".to_owned(), |leader| format!("leader {leader}"));
    let some = |wanted: &dyn Fn(u32) -> bool, name: &str| {
        let ids: Vec<u32> = cluster.ids().into_iter().filter(|id| wanted(*id)).collect();
        match ids.is_empty() {
            true => String::new(),
            false => format!(" {name} {}", join(ids, ",")),
        }
    };
    let suspect = some(&|id| cluster.controller.is_suspect(id), "suspect");
    let replica = |id| view.replicas.get(&BrokerId(id)).expect("a replica");
    let fenced = some(&|id| replica(id).fenced, "fenced");
    format!(
        "controller: e{} {leader}, v{} {}{suspect}{fenced}",
        view.epoch,
        view.version,
        set(&view.in_sync)
    )
}

/// Who holds what, a line for each broker.
pub fn status(cluster: &Cluster, id: u32) -> String {
    let node = &cluster.nodes[&id];
    let held = node.log.iter().filter(|entry| entry.shape.end > node.start);
    let held = match node.start.0 {
        0 => join(held, " "),
        start => join(
            [format!("{start}..")]
                .into_iter()
                .chain(held.map(Entry::to_string)),
            " ",
        ),
    };
    let Some(replica) = &node.replica else {
        return format!("{id}: [{held}] down");
    };
    let log = replica.log();
    let durable = match log.durable_end < log.end {
        true => format!(" durable {}", log.durable_end),
        false => String::new(),
    };
    let role = match replica.leading() {
        Some(epoch) => format!("leads e{epoch}, {}", acknowledged(id, replica)),
        None if replica.is_broken() => "broken".to_owned(),
        None => format!("promised e{}", replica.promised()),
    };
    let held = match node.log.len() > 12 {
        true => format!("{} .. {}", node.log[0], node.log[node.log.len() - 1]),
        false => held,
    };
    format!("{id}: [{held}]{durable} hw {} {role}", log.high_watermark)
}

fn acknowledged(id: u32, replica: &Replica) -> String {
    let others = replica
        .acknowledged()
        .into_iter()
        .filter(|(peer, _)| peer.0 != id);
    join(
        others.map(|(peer, end)| format!("{peer} holds {end}")),
        ", ",
    )
}
