//! Committed offsets: taken, reset, and forgotten.

use std::collections::BTreeMap;

use baton_protocol::groups::{
    Commit, CommitRefused, CommittingMember, GroupResponse, OffsetCommit, OffsetReset,
};
use baton_protocol::ids::{Offset, Tick, TopicPartition};

use crate::coordinator::Coordinator;
use crate::members::at_most;
use crate::record::{MemberState, OffsetState, Record};
use crate::refusal::Refusal;
use crate::rules::Rule;
use crate::state::Group;
use crate::topics::Topics;

/// Who commits.
enum By<'a> {
    /// A reader, while the group has no members.
    Reader,
    /// A member.
    Member(&'a MemberState, CommittingMember),
}

impl Coordinator {
    pub(crate) fn commit(&mut self, now: Tick, commit: Commit) -> Result<GroupResponse, Refusal> {
        at_most("partitions", commit.offsets.len(), self.config.offsets_max)?;
        let longest = commit.offsets.iter().map(|one| one.metadata.len()).max();
        let bytes_max = self.config.metadata_bytes_max;
        at_most("bytes of metadata", longest.unwrap_or(0), bytes_max)?;
        self.room_for_group(&commit.group)?;
        let by = self.by(&commit)?;
        // One partition may stand there twice: the second is judged by the first.
        let mut taken: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
        let mut judged = Vec::with_capacity(commit.offsets.len());
        for one in &commit.offsets {
            let at = place(one);
            let before = taken.get(&at).copied();
            let committed = before.or_else(|| self.committed(&commit.group, at));
            let judgement = self.judge(&by, one, committed);
            if judgement.is_ok() {
                taken.insert(at, one.offset);
            }
            judged.push(judgement);
        }
        let mut refused = Vec::new();
        for (one, judgement) in commit.offsets.into_iter().zip(judged) {
            match judgement {
                Ok(()) => self.keep_offset(now, &commit.group, one),
                Err(refusal) => refused.push(self.refuse(&commit.group, &one, refusal)),
            }
        }
        // A group that a reader makes has no record of its own yet; nothing else is new.
        if self
            .state
            .group(&commit.group)
            .is_some_and(|g| g.meta.is_none())
        {
            self.settle(now, &commit.group);
        }
        Ok(GroupResponse::Committed { refused })
    }

    fn by(&self, commit: &Commit) -> Result<By<'_>, Refusal> {
        let Some(committing) = commit.member else {
            self.no_members(&commit.group)?;
            return Ok(By::Reader);
        };
        let id = committing.member;
        let member = self.state.member(&commit.group, id);
        let member = member.ok_or(Refusal::UnknownMember(id))?;
        if member.away {
            return Err(Refusal::Replaced(id));
        }
        if committing.epoch > member.epoch {
            return Err(Refusal::FencedEpoch {
                member: id,
                shown: committing.epoch,
                given: member.epoch,
            });
        }
        Ok(By::Member(member, committing))
    }

    fn judge(
        &self,
        by: &By<'_>,
        one: &OffsetCommit,
        committed: Option<Offset>,
    ) -> Result<(), Refusal> {
        let at = place(one);
        if !self.topics.has(at) {
            return Err(Refusal::UnknownPartition(at));
        }
        if one.offset > Offset::MAX {
            return Err(Refusal::Offset(one.offset));
        }
        if let By::Member(member, committing) = by
            && self.rules.hold(Rule::CommitBoundToGrant)
        {
            // What was taken back is the member's until it has given it up: it commits before.
            let holding = member.held.get(&at).ok_or(Refusal::NotAssigned)?;
            if committing.epoch < holding.since {
                return Err(Refusal::NotAssigned);
            }
        }
        match committed {
            Some(committed)
                if one.offset < committed
                    && one.back_from != Some(committed)
                    && self.rules.hold(Rule::CommitsDoNotGoBack) =>
            {
                Err(Refusal::MovedBack {
                    offset: one.offset,
                    committed,
                })
            }
            _ => Ok(()),
        }
    }

    fn keep_offset(&mut self, now: Tick, group: &str, one: OffsetCommit) {
        let at = place(&one);
        let value = OffsetState {
            offset: one.offset,
            leader_epoch: one.leader_epoch,
            metadata: one.metadata,
            committed_at_ms: self.unix_ms(now),
        };
        self.change(Record::Offset {
            group: group.to_owned(),
            at,
            value: Some(value),
        });
    }

    fn refuse(&self, group: &str, one: &OffsetCommit, refusal: Refusal) -> CommitRefused {
        CommitRefused {
            topic: one.topic,
            partition: one.partition,
            error: refusal.into(),
            committed: self.committed(group, place(one)),
        }
    }

    fn committed(&self, group: &str, at: TopicPartition) -> Option<Offset> {
        let state = self.state.group(group)?.offsets.get(&at)?;
        Some(state.offset)
    }

    fn no_members(&self, group: &str) -> Result<(), Refusal> {
        match self.state.group(group).map_or(0, |g| g.members.len()) {
            0 => Ok(()),
            members => Err(Refusal::GroupActive(members)),
        }
    }

    pub(crate) fn reset(
        &mut self,
        now: Tick,
        group: &str,
        offsets: &[OffsetReset],
    ) -> Result<GroupResponse, Refusal> {
        at_most("partitions", offsets.len(), self.config.offsets_max)?;
        self.room_for_group(group)?;
        self.no_members(group)?;
        for one in offsets {
            let at = TopicPartition {
                topic: one.topic,
                partition: one.partition,
            };
            if !self.topics.has(at) {
                return Err(Refusal::UnknownPartition(at));
            }
            if one.to > Offset::MAX {
                return Err(Refusal::Offset(one.to));
            }
            // What stands there already may be a repetition of this very request.
            let committed = self.committed(group, at);
            if committed != one.from && committed != Some(one.to) {
                return Err(Refusal::OffsetChanged { at });
            }
        }
        for one in offsets {
            let commit = OffsetCommit {
                topic: one.topic,
                partition: one.partition,
                offset: one.to,
                leader_epoch: one.leader_epoch,
                metadata: String::new(),
                back_from: None,
            };
            self.keep_offset(now, group, commit);
        }
        self.settle(now, group);
        Ok(GroupResponse::Done)
    }

    pub(crate) fn delete(&mut self, group: &str) -> Result<GroupResponse, Refusal> {
        if self.state.group(group).is_none() {
            return Err(Refusal::UnknownGroup(group.to_owned()));
        }
        self.no_members(group)?;
        self.forget(group);
        Ok(GroupResponse::Done)
    }

    /// Drops a group that has no members.
    fn forget(&mut self, name: &str) {
        self.drop_offsets(name, |_, _| true);
        self.change(Record::Group {
            group: name.to_owned(),
            value: None,
        });
    }

    /// Drops the committed offsets of partitions that do not exist any more.
    pub(crate) fn drop_offsets_of_gone_topics(&mut self, group: &str) {
        self.drop_offsets(group, |topics, at| !topics.has(at));
    }

    fn drop_offsets(&mut self, group: &str, gone: impl Fn(&Topics, TopicPartition) -> bool) {
        let offsets = self.state.group(group).map(|g| &g.offsets);
        let offsets = offsets.into_iter().flat_map(|offsets| offsets.keys());
        let gone: Vec<TopicPartition> = offsets
            .copied()
            .filter(|at| gone(&self.topics, *at))
            .collect();
        for at in gone {
            self.change(Record::Offset {
                group: group.to_owned(),
                at,
                value: None,
            });
        }
    }

    /// Forgets groups that have had no members, and no commits, for the time of retention.
    pub(crate) fn expire_offsets(&mut self, now: Tick) {
        if now.since_ms(self.retention_checked) < self.config.retention_check_ms {
            return;
        }
        self.retention_checked = now;
        let unix_ms = self.unix_ms(now);
        let groups = self.state.groups().iter();
        let past: Vec<String> = groups
            .filter(|(_, group)| self.is_past(unix_ms, group))
            .map(|(name, _)| name.clone())
            .collect();
        for name in past {
            self.forget(&name);
        }
    }

    fn is_past(&self, unix_ms: u64, group: &Group) -> bool {
        let idle = group.meta.as_ref().and_then(|meta| meta.idle_since_ms);
        let commits = group.offsets.values().map(|one| one.committed_at_ms);
        // Without offsets there is only the epoch to remember, until no message of a former member
        // can be on its way any more.
        let kept_ms = if group.offsets.is_empty() {
            u64::from(self.config.timeout_max_ms)
        } else {
            self.config.offsets_retention_ms
        };
        let last = commits.max().max(idle);
        idle.is_some() && last.is_some_and(|last| unix_ms.saturating_sub(last) >= kept_ms)
    }
}

fn place(one: &OffsetCommit) -> TopicPartition {
    TopicPartition {
        topic: one.topic,
        partition: one.partition,
    }
}
