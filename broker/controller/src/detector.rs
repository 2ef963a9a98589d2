//! Who is dead.
//!
//! A broker is held for dead when it has not been heard of for the session time-out, when its disk
//! has made no progress for as long, or at once when its session broke and two other brokers found
//! its port closed. Nobody is declared dead for the controller's own slowness.

use std::collections::BTreeMap;

use baton_protocol::ids::{BrokerEpoch, BrokerId, Tick};

use crate::core::Config;

/// How old the report of a refused connection may be, in milliseconds.
const EVIDENCE_MS: u64 = 1_000;

/// Reporters needed. One could be cut off itself.
const REPORTERS: usize = 2;

/// How long a fenced broker must be heard of regularly before it is taken for alive again.
const RECOVERY_MS: u64 = 300;

/// An input that comes this much later than the one before shows that the controller itself stood still:
/// ticks alone come more often.
const LATE_MS: u64 = 200;

#[derive(Clone, Debug)]
struct Watched {
    life: BrokerEpoch,
    connected: bool,
    heard_at: Tick,
    /// Since when it has been heard of regularly.
    regular_since: Option<Tick>,
    disk_progress: u64,
    disk_moved_at: Tick,
    refused_by: BTreeMap<BrokerId, Tick>,
}

/// Watches the brokers.
#[derive(Clone, Debug, Default)]
pub struct Detector {
    brokers: BTreeMap<BrokerId, Watched>,
    ticked_at: Option<Tick>,
}

impl Detector {
    /// Begins to watch a life of a broker, with a full session ahead of it.
    pub fn watch(&mut self, id: BrokerId, life: BrokerEpoch, now: Tick) {
        if self
            .brokers
            .get(&id)
            .is_some_and(|watched| watched.life == life)
        {
            return;
        }
        let connected = false;
        self.brokers.insert(
            id,
            Watched {
                life,
                connected,
                heard_at: now,
                regular_since: None,
                disk_progress: 0,
                disk_moved_at: now,
                refused_by: BTreeMap::new(),
            },
        );
    }

    /// Its session stands, or broke.
    pub fn connected(&mut self, id: BrokerId, connected: bool, now: Tick) {
        if let Some(watched) = self.brokers.get_mut(&id) {
            watched.connected = connected;
            if connected {
                watched.heard_at = now;
                watched.refused_by.clear();
            }
        }
    }

    /// It sent a heartbeat.
    pub fn heard(&mut self, id: BrokerId, disk_progress: u64, config: &Config, now: Tick) {
        let Some(watched) = self.brokers.get_mut(&id) else {
            return;
        };
        let gap = now.since_ms(watched.heard_at);
        if gap > config.session_timeout_ms / 2 || watched.regular_since.is_none() {
            watched.regular_since = Some(now);
        }
        watched.heard_at = now;
        if disk_progress != watched.disk_progress {
            watched.disk_progress = disk_progress;
            watched.disk_moved_at = now;
        }
    }

    /// `reporter` found its port closed.
    pub fn refused(&mut self, id: BrokerId, life: BrokerEpoch, reporter: BrokerId, now: Tick) {
        if let Some(watched) = self.brokers.get_mut(&id)
            && watched.life == life
            && reporter != id
        {
            watched.refused_by.insert(reporter, now);
        }
    }

    /// Something came, be it a tick. If the controller itself stood still, everybody's clock did.
    pub fn tick(&mut self, now: Tick) {
        let gap = self.ticked_at.map_or(0, |before| now.since_ms(before));
        self.ticked_at = Some(now);
        if gap > LATE_MS {
            for watched in self.brokers.values_mut() {
                watched.heard_at = watched.heard_at.after_ms(gap).min(now);
                watched.disk_moved_at = watched.disk_moved_at.after_ms(gap).min(now);
            }
        }
    }

    /// Whether the broker is to be held for dead.
    pub fn is_dead(&self, id: BrokerId, config: &Config, now: Tick) -> bool {
        let Some(watched) = self.brokers.get(&id) else {
            return false;
        };
        let silent = now.since_ms(watched.heard_at) > config.session_timeout_ms;
        let stuck = now.since_ms(watched.disk_moved_at) > config.session_timeout_ms;
        let reports = watched
            .refused_by
            .values()
            .filter(|at| now.since_ms(**at) <= EVIDENCE_MS);
        silent || stuck || (!watched.connected && reports.count() >= REPORTERS)
    }

    /// Whether a broker that was held for dead is alive after all.
    pub fn has_recovered(&self, id: BrokerId, config: &Config, now: Tick) -> bool {
        !self.is_dead(id, config, now)
            && self.brokers.get(&id).is_some_and(|watched| {
                watched.connected
                    && watched
                        .regular_since
                        .is_some_and(|since| now.since_ms(since) >= RECOVERY_MS)
            })
    }
}
