//! One replica of one partition: its log's shape, what it has promised, and its role.
//!
//! [`Replica::step`] is the one door. What a leader does stands in `leader.rs`, what a follower
//! does in `follower.rs`; here is what both share: metadata, fences, flushes.

use std::sync::Arc;

use baton_protocol::ids::{BrokerId, BrokerLife, LeaderEpoch, Offset, Tick};
use baton_protocol::metadata::Flush;
use baton_protocol::peer::ReplicaMessage;

use crate::epochs::EpochHistory;
use crate::event::{Breach, Effect, FenceAnswer, Input, PartitionView, Refusal};
use crate::follower::Follower;
use crate::leader::Leader;
use crate::producers::{ProducerTable, RememberedBatch};
use crate::rules::{Rule, Rules};

/// What a host may tune.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Most bytes on their way to one follower, unacknowledged.
    pub window_bytes: u64,
    /// Most bytes of entries in one append (one entry may be larger).
    pub append_bytes_max: u64,
    /// How long too few followers may be reachable before appends are refused, in milliseconds.
    pub append_wait_ms: u64,
    /// How long an answer may be due before the follower is asked again, in milliseconds.
    pub resend_timeout_ms: u64,
    /// How far a follower may lie behind, in time, before it leaves the in-sync set, in
    /// milliseconds.
    pub in_sync_lag_ms: u64,
    /// How long a follower stays outside after this leader took it out, in milliseconds.
    pub in_sync_return_ms: u64,
    /// How long a set change may be without outcome before it is asked for again, in milliseconds.
    pub change_retry_ms: u64,
    /// How long a leader without synchronous followers goes on after the last heartbeat that the
    /// controller has answered, in milliseconds: not longer than the controller waits before it takes
    /// a silent broker for dead.
    pub lease_ms: u64,
    /// How often a log is made durable where that is not waited for, in milliseconds.
    pub flush_interval_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            window_bytes: 8 << 20,
            append_bytes_max: 1 << 20,
            append_wait_ms: 1_000,
            resend_timeout_ms: 500,
            in_sync_lag_ms: 3_000,
            in_sync_return_ms: 300,
            change_retry_ms: 500,
            lease_ms: 1_000,
            flush_interval_ms: 1_000,
        }
    }
}

/// The log as the core sees it: offsets, no bytes.
#[derive(Clone, Debug, Default)]
pub struct LogShape {
    /// First offset.
    pub start: Offset,
    /// The offset that the next entry gets.
    pub end: Offset,
    /// How far it is durable.
    pub durable_end: Offset,
    /// First offset not known to be committed.
    pub high_watermark: Offset,
    /// Which epoch wrote what.
    pub epochs: EpochHistory,
    /// What is known of its producers.
    pub producers: ProducerTable,
    /// The metadata is to say that it may lack what was acknowledged: it was found missing or damaged, or is
    /// about to be discarded.
    pub lossy: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Role {
    Follower(Follower),
    Leader(Box<Leader>),
    /// A promise was broken: it answers nothing any more.
    Broken,
}

/// One replica of one partition.
#[derive(Clone, Debug)]
pub struct Replica {
    pub(crate) me: BrokerLife,
    pub(crate) config: Arc<Config>,
    pub(crate) rules: Rules,
    pub(crate) log: LogShape,
    pub(crate) view: Arc<PartitionView>,
    pub(crate) promised: LeaderEpoch,
    /// The last epoch this replica led in: an office once laid down is not resumed.
    pub(crate) led: LeaderEpoch,
    pub(crate) flushing: bool,
    pub(crate) flushed_at: Tick,
    /// The host has said that the next flush is due, whatever the time.
    flush_due: bool,
    /// A cut was made while a flush was on: of what that flush claims, only what lies below the cut
    /// is what is in the log now.
    pub(crate) flush_ceiling: Option<Offset>,
    /// The last election that may have lost entries after which this replica began anew, because its log
    /// may lack what is needed again.
    pub(crate) anew_after: LeaderEpoch,
    /// Where what earlier lives left ends.
    pub(crate) inherited_end: Offset,
    /// When the last heartbeat was sent that the controller has answered.
    pub(crate) heard_at: Option<Tick>,
    pub(crate) links: std::collections::BTreeSet<BrokerId>,
    pub(crate) role: Role,
}

impl Replica {
    /// A replica as its process starts: with the log that was found, in a life that the controller
    /// has registered, and with metadata at or after that registration. So what earlier lives
    /// promised is known without a file: no fence before the registration can be missed.
    ///
    /// `links` are the brokers to whom a connection stands. Feed the metadata's view once more as
    /// [`Input::Metadata`] to take up the lead, should it name this life.
    pub fn new(
        me: BrokerLife,
        config: impl Into<Arc<Config>>,
        rules: Rules,
        log: LogShape,
        view: impl Into<Arc<PartitionView>>,
        links: impl IntoIterator<Item = BrokerId>,
    ) -> Self {
        let view = view.into();
        assert!(log.start <= log.end && log.durable_end <= log.end);
        Replica {
            me,
            config: config.into(),
            rules,
            promised: view.epoch,
            inherited_end: log.end,
            log,
            view,
            led: LeaderEpoch::NONE,
            flushing: false,
            flushed_at: Tick(0),
            flush_due: false,
            flush_ceiling: None,
            anew_after: LeaderEpoch::NONE,
            heard_at: None,
            links: links.into_iter().collect(),
            role: Role::Follower(Follower::default()),
        }
    }

    /// Takes one input and appends what is to be done to `out`.
    pub fn step(&mut self, now: Tick, input: Input, out: &mut Vec<Effect>) {
        if matches!(self.role, Role::Broken) {
            return self.step_broken(input, out);
        }
        match input {
            Input::Tick => self.on_tick(now, out),
            Input::Metadata(view) => self.on_metadata(now, view, out),
            Input::Fence(epoch) => self.on_fence(epoch, out),
            Input::ControllerHeard(at) => self.heard_at = self.heard_at.max(Some(at)),
            Input::Propose(proposal) => self.on_propose(now, proposal, out),
            Input::Append(append, entries) => self.on_append(now, append, &entries, out),
            Input::Reset(reset, producers) => self.on_reset(reset, producers, out),
            Input::AdvanceStart { to } => self.on_advance_start(now, to, out),
            Input::Ack(ack) => self.on_ack(now, ack, out),
            Input::Mismatch(mismatch) => self.on_mismatch(now, mismatch, out),
            Input::Refused(refused) => self.on_refused(now, refused, out),
            Input::Pushed {
                to,
                append,
                end,
                bytes,
            } => self.on_pushed(now, to, &append, end, bytes, out),
            Input::Flushed { end } => self.on_flushed(now, end, out),
            Input::FlushFailed => self.break_down(Breach::FlushFailed, out),
            Input::FlushDue => {
                self.flush_due = true;
                self.flush(now, out);
            }
            Input::LinkUp(peer) => self.on_link_up(now, peer, out),
            Input::LinkDown(peer) => self.on_link_down(peer),
            Input::SetChangeRefused { version } => self.on_change_refused(now, version, out),
            Input::HandOver { to, timeout_ms } => self.on_hand_over(now, to, timeout_ms, out),
        }
        if cfg!(debug_assertions) {
            self.verify();
        }
    }

    /// A broken replica answers producers, and nobody else: not even a fence, since its log can
    /// not be voted with.
    fn step_broken(&mut self, input: Input, out: &mut Vec<Effect>) {
        if let Input::Propose(proposal) = input {
            out.push(Effect::Reply {
                request: proposal.request,
                result: Err(Refusal::NotLeader),
            });
        }
    }

    /// Whether nothing is under way: until something else happens, a tick would do nothing, but note
    /// that all is well. A host with many replicas may leave those that rest alone for a while.
    pub fn is_at_rest(&self) -> bool {
        let flushed = !self.flushing && self.log.durable_end == self.log.end;
        flushed
            && match &self.role {
                Role::Leader(leader) => self.reign_is_at_rest(leader),
                Role::Follower(_) | Role::Broken => true,
            }
    }

    /// Gives back the room that was taken for what is over. For a host with many replicas, of those that
    /// [rest](Replica::is_at_rest).
    pub fn give_room_back(&mut self) {
        if let Role::Leader(leader) = &mut self.role {
            leader.give_room_back();
        }
    }

    fn on_tick(&mut self, now: Tick, out: &mut Vec<Effect>) {
        if let Role::Leader(leader) = &mut self.role {
            leader.tell_watermark = true;
            self.lead_on(now, out);
        } else {
            self.flush(now, out);
        }
    }

    fn on_metadata(&mut self, now: Tick, view: Arc<PartitionView>, out: &mut Vec<Effect>) {
        let known = (self.view.epoch, self.view.version);
        if (view.epoch, view.version) < known {
            return;
        }
        self.promised = self.promised.max(view.epoch);
        self.view = view;
        if self.is_flagged() || self.is_granted() {
            // From here on the metadata says so, until it says that the log is whole again. Whom it
            // names as leader although its log lacks something, is without that for good.
            self.log.lossy = false;
        }
        if let Role::Leader(leader) = &self.role
            && leader.epoch < self.view.epoch
        {
            self.step_down(out);
        }
        match self.role {
            Role::Leader(_) => self.on_view_as_leader(now, out),
            Role::Follower(_) if self.is_granted() => self.take_the_lead(now, out),
            Role::Follower(_) | Role::Broken => {}
        }
    }

    pub(crate) fn is_flagged(&self) -> bool {
        let me = self.view.replicas.get(&self.me.broker);
        me.is_some_and(|replica| replica.suspect)
    }

    /// How far this replica counts itself a holder of its log.
    pub(crate) fn held_end(&self) -> Offset {
        match self.view.flush {
            Flush::Ack if self.rules.hold(Rule::AckAfterFlush) => self.log.durable_end,
            Flush::Ack | Flush::Interval => self.log.end,
        }
    }

    /// Whether this view would make it take up the lead: its host makes room for the first entry
    /// before it shows such a view.
    pub fn would_lead(&self, view: &PartitionView) -> bool {
        let newer = (view.epoch, view.version) >= (self.view.epoch, self.view.version);
        let follows = matches!(self.role, Role::Follower(_));
        newer && follows && self.grants(view, self.promised.max(view.epoch))
    }

    /// Whether the metadata names this life as leader, in an epoch that it may still take up.
    fn is_granted(&self) -> bool {
        self.grants(&self.view, self.promised)
    }

    fn grants(&self, view: &PartitionView, promised: LeaderEpoch) -> bool {
        let named = view.leader.is_some_and(|leader| {
            leader.broker == self.me.broker
                && (leader.epoch == self.me.epoch || !self.rules.hold(Rule::GrantBoundToLife))
        });
        named && view.epoch == promised && self.led < view.epoch
    }

    fn on_fence(&mut self, epoch: LeaderEpoch, out: &mut Vec<Effect>) {
        if epoch < self.promised {
            return;
        }
        if self.rules.hold(Rule::FenceRefusesLower) {
            self.promised = epoch;
            let deposed = matches!(&self.role, Role::Leader(leader) if leader.epoch < epoch);
            if deposed {
                self.step_down(out);
            }
        }
        let held_end = match self.view.flush {
            Flush::Ack => self.log.durable_end,
            Flush::Interval => self.log.end,
        };
        out.push(Effect::AnswerFence(FenceAnswer {
            epoch,
            last_epoch: self.log.epochs.before(held_end),
            durable_end: held_end,
            log: (self.log.epochs.last(), self.log.end),
            log_start: self.log.start,
            life: self.me,
            suspect: self.is_suspect(),
        }));
    }

    /// Lays the lead down. What waits is answered as unknown: it is in the log, and the next
    /// leader may commit it.
    pub(crate) fn step_down(&mut self, out: &mut Vec<Effect>) {
        if let Role::Leader(leader) = &mut self.role {
            leader.refuse_all(Refusal::LeaderChanged, out);
            self.role = Role::Follower(Follower::default());
            out.push(Effect::RoleChanged { leading: None });
        }
    }

    /// Takes no part any more.
    pub(crate) fn break_down(&mut self, breach: Breach, out: &mut Vec<Effect>) {
        if let Role::Leader(leader) = &mut self.role {
            leader.refuse_all(Refusal::StorageFailed, out);
            out.push(Effect::RoleChanged { leading: None });
        }
        self.role = Role::Broken;
        out.push(Effect::Broken(breach));
    }

    /// Asks for a flush, unless one is on, there is nothing to flush, or it is not time yet.
    pub(crate) fn flush(&mut self, now: Tick, out: &mut Vec<Effect>) {
        let due = match self.view.flush {
            Flush::Ack => true,
            Flush::Interval => {
                self.flush_due || now.since_ms(self.flushed_at) >= self.config.flush_interval_ms
            }
        };
        if due && !self.flushing && self.log.durable_end < self.log.end {
            self.flushing = true;
            self.flushed_at = now;
            self.flush_due = false;
            out.push(Effect::Flush);
        }
    }

    fn on_flushed(&mut self, now: Tick, end: Offset, out: &mut Vec<Effect>) {
        self.flushing = false;
        let end = end.min(self.flush_ceiling.take().unwrap_or(end));
        self.log.durable_end = self.log.durable_end.max(end.min(self.log.end));
        self.flush(now, out);
        match &self.role {
            Role::Leader(_) => self.lead_on(now, out),
            Role::Follower(_) => {
                self.acknowledge(out);
                self.follow_start(out);
            }
            Role::Broken => {}
        }
    }

    fn on_link_up(&mut self, now: Tick, peer: BrokerId, out: &mut Vec<Effect>) {
        self.links.insert(peer);
        match &self.role {
            Role::Leader(_) => self.on_link_up_as_leader(now, peer, out),
            // The acknowledgement that was lost with the old connection is not sent again by
            // itself.
            Role::Follower(follower) if follower.leader_is(peer) => self.acknowledge(out),
            Role::Follower(_) | Role::Broken => {}
        }
    }

    fn on_link_down(&mut self, peer: BrokerId) {
        self.links.remove(&peer);
        self.on_link_down_as_leader(peer);
    }

    /// Moves the watermark up.
    pub(crate) fn raise_high_watermark(&mut self, to: Offset, out: &mut Vec<Effect>) {
        if to > self.log.high_watermark {
            self.log.high_watermark = to;
            out.push(Effect::PublishHighWatermark(to));
        }
    }

    /// Moves the log's start forward: never above what is committed, nor above what is durable here.
    pub(crate) fn advance_start(&mut self, wanted: Offset, out: &mut Vec<Effect>) {
        let mut to = wanted.min(self.log.durable_end);
        if self.rules.hold(Rule::StartBelowTheWatermark) {
            to = to.min(self.log.high_watermark);
        }
        if to > self.log.start {
            self.log.start = to;
            self.log.epochs.advance_start(to);
            out.push(Effect::AdvanceStart { to });
        }
    }

    /// Accounts for an entry that is being stored.
    pub(crate) fn record_entry(&mut self, entry: &crate::event::EntryShape) {
        self.log.epochs.append(entry.epoch, self.log.end);
        self.log.end = entry.end;
        if let Some(stamp) = entry.producer {
            self.log.producers.append(
                RememberedBatch {
                    stamp,
                    base: entry.base,
                    end: entry.end,
                    leader_epoch: entry.epoch,
                },
                self.log.high_watermark,
            );
        }
    }

    pub(crate) fn send(&self, to: BrokerId, message: ReplicaMessage, out: &mut Vec<Effect>) {
        out.push(Effect::Send { to, message });
    }

    /// The log's shape.
    pub fn log(&self) -> &LogShape {
        &self.log
    }

    /// The metadata this replica goes by.
    pub fn view(&self) -> &PartitionView {
        &self.view
    }

    /// This replica's broker, in this life.
    pub fn me(&self) -> BrokerLife {
        self.me
    }

    /// The highest epoch promised: lower ones are refused.
    pub fn promised(&self) -> LeaderEpoch {
        self.promised
    }

    /// The epoch it leads in, if it does.
    pub fn leading(&self) -> Option<LeaderEpoch> {
        match &self.role {
            Role::Leader(leader) => Some(leader.epoch),
            Role::Follower(_) | Role::Broken => None,
        }
    }

    /// Whether it may lack what it acknowledged, as it found out itself or as the metadata says.
    pub fn is_suspect(&self) -> bool {
        self.log.lossy || self.is_flagged()
    }

    /// Whether a promise was broken.
    pub fn is_broken(&self) -> bool {
        matches!(self.role, Role::Broken)
    }

    /// How far a host may compact this log: what supersedes an entry below is committed, and durable here.
    /// A leader waits for the whole in-sync set: so no member of it is ever sent a log that lacks an entry,
    /// before what supersedes it.
    pub fn compactable_end(&self) -> Offset {
        let end = self.log.high_watermark.min(self.log.durable_end);
        let Role::Leader(leader) = &self.role else {
            return end;
        };
        if !self.rules.hold(Rule::CompactionAwaitsTheSet) {
            return end;
        }
        let others = self.view.in_sync.iter().filter(|id| **id != self.me.broker);
        let held = others.map(|id| {
            let follower = leader.followers.get(id);
            follower.map_or(Offset::ZERO, |follower| follower.matched)
        });
        held.fold(end, Offset::min)
    }

    /// Whether it leads and its watermark has passed the start of its epoch, so that the watermark
    /// covers all that was ever acknowledged.
    pub fn is_ready(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if self.log.high_watermark > leader.epoch_start)
    }

    /// If this replica leads, the offset from which on some member of the set may still have to be sent
    /// entries: they had better stay in memory. Members that lag are out of the set before long.
    pub fn lacked_from(&self) -> Option<Offset> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let members = leader.followers.iter();
        let members = members.filter(|(id, _)| self.view.in_sync.contains(id));
        let from = members.map(|(_, follower)| match follower.verified {
            true => follower.matched,
            false => follower.cursor,
        });
        from.min()
    }

    /// How far each follower has acknowledged, if this replica leads.
    pub fn acknowledged(&self) -> Vec<(BrokerId, Offset)> {
        match &self.role {
            Role::Leader(leader) => leader
                .followers
                .iter()
                .map(|(id, follower)| (*id, follower.matched))
                .chain([(self.me.broker, self.held_end())])
                .collect(),
            Role::Follower(_) | Role::Broken => Vec::new(),
        }
    }

    /// Checks what must always hold. Panics where it does not: it would be our own mistake.
    pub fn verify(&self) {
        let log = &self.log;
        assert!(
            log.start <= log.durable_end,
            "log start beyond what is durable"
        );
        assert!(
            log.start <= log.high_watermark || !self.rules.hold(Rule::StartBelowTheWatermark),
            "log start beyond the watermark"
        );
        assert!(log.durable_end <= log.end, "durable beyond the end");
        assert!(log.high_watermark <= log.end, "watermark beyond the end");
        assert!(
            log.epochs.last() <= self.promised || !self.rules.hold(Rule::FenceRefusesLower),
            "an entry of an epoch that was never promised"
        );
        if let Role::Leader(leader) = &self.role {
            assert_eq!(
                log.epochs.last(),
                leader.epoch,
                "a leader's last entry is its own"
            );
            assert!(leader.epoch_start < log.end);
            for (id, follower) in leader.followers.iter() {
                assert!(
                    follower.matched <= log.end,
                    "{id} holds what was never written"
                );
                assert!(
                    follower.cursor <= log.end,
                    "{id} was sent what was never written"
                );
            }
        }
    }
}
