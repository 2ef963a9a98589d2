//! A planned change of leader: nothing is fenced, so the old leader itself must add nothing that
//! the new one lacks.
//!
//! It takes no appends from the moment it is asked. Once the successor holds the whole log, it
//! proposes it; the controller compares and sets. Before that the pause may simply end. After it
//! only the outcome ends it: a proposal that was not heard of may still be granted, and what the
//! old leader took meanwhile would be lost.

use baton_protocol::ids::{BrokerId, BrokerLife, Tick};

use crate::event::{Effect, HandoverProposal};
use crate::replica::{Replica, Role};
use crate::rules::Rule;

/// A handover that has begun.
#[derive(Clone, Debug)]
pub struct Handover {
    to: BrokerId,
    deadline: Tick,
    /// What was proposed, and when it was last sent.
    proposed: Option<(HandoverProposal, Tick)>,
}

impl Replica {
    pub(crate) fn on_hand_over(
        &mut self,
        now: Tick,
        to: BrokerId,
        timeout_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        if let Role::Leader(leader) = &mut self.role
            && leader.handover.is_none()
            && leader.followers.contains_key(&to)
        {
            leader.handover = Some(Handover {
                to,
                deadline: now.after_ms(timeout_ms),
                proposed: None,
            });
            self.lead_on(now, out);
        }
    }

    /// Goes on with the handover that has begun, if one has.
    pub(crate) fn hand_over(&mut self, now: Tick, out: &mut Vec<Effect>) {
        let successor = self.ready_successor();
        let paused_for_good = self.rules.hold(Rule::PausedUntilTheOutcome);
        let version = self.view.version;
        let log_end = self.log.end;
        let retry_ms = self.config.change_retry_ms;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(handover) = &mut leader.handover else {
            return;
        };
        let overdue = now >= handover.deadline;
        match (&mut handover.proposed, successor) {
            // The partition's record has moved on, and this replica leads on: it was refused.
            (Some((proposal, _)), _) if proposal.version < version => leader.handover = None,
            (Some(_), _) if overdue && !paused_for_good => leader.handover = None,
            (Some((proposal, sent_at)), _) => {
                if now.since_ms(*sent_at) >= retry_ms {
                    *sent_at = now;
                    out.push(Effect::ProposeHandover(*proposal));
                }
            }
            (None, _) if overdue => leader.handover = None,
            (None, Some(to)) => {
                let proposal = HandoverProposal {
                    epoch: leader.epoch,
                    version,
                    to,
                    log_end,
                };
                handover.proposed = Some((proposal, now));
                out.push(Effect::ProposeHandover(proposal));
            }
            (None, None) => {}
        }
    }

    /// The successor, if it may be named: a member free of suspicion that holds the whole log,
    /// while no change of the set is without outcome.
    fn ready_successor(&self) -> Option<BrokerLife> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let to = leader.handover.as_ref()?.to;
        let follower = leader.followers.get(&to)?;
        let replica = self.view.replicas.get(&to)?;
        let ready = leader.change.is_none()
            && self.view.in_sync.contains(&to)
            && !replica.suspect
            && !replica.fenced
            && follower.verified
            && follower.matched == self.log.end;
        ready.then_some(BrokerLife {
            broker: to,
            epoch: follower.life,
        })
    }
}
