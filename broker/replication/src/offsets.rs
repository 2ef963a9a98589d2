//! Room for offsets: a leader assigns them below a limit only, which the controller grants.
//!
//! Whoever is elected at the risk of losing entries starts at that limit, so no offset that a
//! leader before it may have told is given out again, without anybody knowing how far that one
//! came. The limit is raised long before it is reached, and in larger steps the faster it is used
//! up, so that a leader outlives a controller that is away for a while.

use baton_protocol::ids::{Offset, Tick};

use crate::event::Effect;
use crate::replica::{Replica, Role};

/// How many offsets are asked for at least.
pub const QUANTUM_MIN: u64 = 1 << 20;

/// And at most.
const QUANTUM_MAX: u64 = 1 << 32;

/// A quantum that is half used up within this time is doubled, in milliseconds.
const QUANTUM_LASTS_MS: u64 = 30_000;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct OffsetRoom {
    quantum: u64,
    /// The limit that was asked for and is not granted yet, and when it was last asked for.
    asked: Option<(Offset, Tick)>,
    granted_at: Option<Tick>,
}

impl OffsetRoom {
    /// Nothing was asked for yet; `quantum` offsets will be.
    pub fn new(quantum: u64) -> Self {
        OffsetRoom {
            quantum,
            asked: None,
            granted_at: None,
        }
    }
}

impl OffsetRoom {
    /// Whether all that was asked for is there.
    pub fn is_granted(&self) -> bool {
        self.asked.is_none()
    }
}

impl Replica {
    /// Asks for more room once half of a quantum is used up.
    pub(crate) fn keep_room(&mut self, now: Tick, out: &mut Vec<Effect>) {
        let (end, limit) = (self.log.end, self.view.offset_limit);
        let retry_ms = self.config.change_retry_ms;
        let quantum_min = self.rules.offset_quantum();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let epoch = leader.epoch;
        let room = &mut leader.offsets;
        if let Some((asked, at)) = &mut room.asked {
            if limit < *asked {
                if now.since_ms(*at) >= retry_ms {
                    *at = now;
                    out.push(Effect::AskOffsets {
                        epoch,
                        limit: *asked,
                    });
                }
                return;
            }
            room.asked = None;
            room.granted_at = Some(now);
        }
        if limit.since(end) >= room.quantum / 2 || limit >= Offset::MAX {
            return;
        }
        let soon = room
            .granted_at
            .is_some_and(|at| now.since_ms(at) < QUANTUM_LASTS_MS);
        room.quantum = if soon {
            (room.quantum * 2).min(QUANTUM_MAX)
        } else {
            quantum_min
        };
        let wanted = Offset(end.0.saturating_add(room.quantum).min(Offset::MAX.0));
        room.asked = Some((wanted, now));
        out.push(Effect::AskOffsets {
            epoch,
            limit: wanted,
        });
    }
}
