//! What operators ask of the controller.

use baton_protocol::admin::{
    AdminRequest, AdminResponse, ClusterStatus, PARTITIONS_MAX, PartitionTrouble, check_topic_name,
    is_internal_topic,
};
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::groups::GROUPS_TOPIC;
use baton_protocol::ids::{BrokerId, PartitionIndex, Tick, TopicId, TopicPartition};
use baton_protocol::metadata::{Flush, PartitionRecord, TopicConfig, TopicRecord};
use baton_protocol::policy::{Cleanup, PolicyChanges, TopicPolicy};

use crate::command::{Command, Outcome};
use crate::core::{ControllerCore, Effect, Purpose, SessionId};
use crate::placement::place;
use crate::session::FromController;

/// Replicas of a topic where nothing else is said and there are enough brokers.
const REPLICAS_DEFAULT: u32 = 3;

/// Most producer ids reserved at a time.
const PRODUCER_IDS_MAX: u32 = 100_000;

/// A request whose command is on its way.
#[derive(Clone, Debug)]
pub(crate) struct AdminWaiting {
    session: SessionId,
    id: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Create {
        name: String,
        topic: TopicId,
        partitions: u32,
        config: TopicConfig,
    },
    Delete {
        name: String,
    },
    SyncFollowers {
        name: String,
        sync_followers: u32,
    },
    Policy {
        name: String,
    },
    ProducerIds,
}

/// What becomes of a request.
enum Step {
    /// It is answered at once.
    Answer(AdminResponse),
    /// It is answered when this is committed.
    Propose(Box<Command>, What),
}

fn invalid(text: impl Into<String>) -> WireError {
    WireError::new(ErrorCode::InvalidRequest, text)
}

impl ControllerCore {
    pub(crate) fn on_admin(
        &mut self,
        session: SessionId,
        id: u64,
        request: AdminRequest,
        fresh_topic_id: TopicId,
        now: Tick,
        out: &mut Vec<Effect>,
    ) {
        let (command, what) = match self.take_admin(request, fresh_topic_id, now, out) {
            Ok(Step::Answer(answer)) => {
                let result = Ok(answer);
                return out.push(Effect::Send(
                    session,
                    FromController::AdminResult { id, result },
                ));
            }
            Ok(Step::Propose(command, what)) => (*command, what),
            Err(error) => {
                let result = Err(error);
                return out.push(Effect::Send(
                    session,
                    FromController::AdminResult { id, result },
                ));
            }
        };
        let waiting = AdminWaiting { session, id, what };
        self.propose(command, Purpose::Admin(waiting), out);
    }

    fn take_admin(
        &mut self,
        request: AdminRequest,
        fresh_topic_id: TopicId,
        now: Tick,
        out: &mut Vec<Effect>,
    ) -> Result<Step, WireError> {
        match request {
            AdminRequest::ClusterStatus => {
                Ok(Step::Answer(AdminResponse::ClusterStatus(self.status())))
            }
            AdminRequest::CreateTopic {
                name,
                partitions,
                replicas,
                sync_followers,
                flush,
                unclean_election,
                policy,
            } => {
                policy.check().map_err(invalid)?;
                let (replicas, sync_followers) = self.copies(replicas, sync_followers)?;
                let config = TopicConfig {
                    replicas,
                    sync_followers,
                    flush: flush.unwrap_or_default(),
                    unclean_election: unclean_election.unwrap_or(sync_followers == 0),
                    policy,
                };
                check_topic_name(&name)
                    .map_err(|why| WireError::new(ErrorCode::InvalidTopicName, why))?;
                self.prepare_topic(name, partitions, config, fresh_topic_id)
            }
            AdminRequest::MakeGroupsTopic {
                partitions,
                replicas,
            } => self.prepare_groups_topic(partitions, replicas, fresh_topic_id),
            AdminRequest::DeleteTopic { name } => self.prepare_deletion(name),
            AdminRequest::SetSyncFollowers {
                name,
                sync_followers,
            } => self.prepare_sync_followers(name, sync_followers),
            AdminRequest::SetPolicy { name, changes } => self.prepare_policy(name, &changes),
            AdminRequest::DescribeElection { topic, partition } => {
                let (id, record) = self.find(&topic, partition)?;
                let election = self.elections.get(&id).ok_or_else(|| no_election(&topic))?;
                let status = election.status(&self.state, record);
                Ok(Step::Answer(AdminResponse::Election(status)))
            }
            AdminRequest::ElectUnclean {
                topic,
                partition,
                epoch,
            } => {
                let (id, _) = self.find(&topic, partition)?;
                let election = self.elections.get_mut(&id);
                let election = election.filter(|election| election.epoch == epoch);
                election.ok_or_else(|| no_election(&topic))?.unclean = true;
                self.decide_elections(now, out);
                let index = self.state.index;
                Ok(Step::Answer(AdminResponse::Changed { index }))
            }
            AdminRequest::HandOver {
                topic,
                partition,
                to,
            } => self.begin_handover(&topic, partition, to, out),
            AdminRequest::AllocateProducerIds { count } => {
                if (1..=PRODUCER_IDS_MAX).contains(&count) {
                    let command = Command::AllocateProducerIds { count };
                    Ok(Step::Propose(Box::new(command), What::ProducerIds))
                } else {
                    Err(invalid(format!(
                        "1 to {PRODUCER_IDS_MAX} producer ids can be reserved, not {count}"
                    )))
                }
            }
        }
    }

    fn find(
        &self,
        topic: &str,
        index: PartitionIndex,
    ) -> Result<(TopicPartition, &PartitionRecord), WireError> {
        let record = self.state.topic_named(topic);
        let record = record.ok_or_else(|| unknown_topic(topic))?;
        let count = record.partitions.len();
        let partition = record.partition(index).ok_or_else(|| {
            let text =
                format!("topic {topic} has no partition {index}; it has {count}, numbered from 0");
            WireError::new(ErrorCode::UnknownPartition, text)
        })?;
        let id = TopicPartition {
            topic: record.id,
            partition: index,
        };
        Ok((id, partition))
    }

    /// Tells the leader; whether and when it comes about is then between the two replicas.
    fn begin_handover(
        &mut self,
        topic: &str,
        index: PartitionIndex,
        to: BrokerId,
        out: &mut Vec<Effect>,
    ) -> Result<Step, WireError> {
        let (id, record) = self.find(topic, index)?;
        let refused = |text: String| WireError::new(ErrorCode::InvalidState, text);
        let Some(leader) = record.leader else {
            return Err(refused(format!(
                "{topic}/{index} has no leader at the moment"
            )));
        };
        if leader.broker == to {
            return Err(refused(format!(
                "broker {to} leads {topic}/{index} already"
            )));
        }
        let able = record.in_sync.contains(&to)
            && !record.suspects.contains(&to)
            && !self.state.is_fenced(to);
        if !able {
            return Err(refused(format!(
                "broker {to} is not in the in-sync set of {topic}/{index}, or does not answer"
            )));
        }
        let Some(session) = self.session_of(leader.broker) else {
            return Err(refused(format!(
                "broker {}, which leads {topic}/{index}, does not answer",
                leader.broker
            )));
        };
        let epoch = record.epoch;
        out.push(Effect::Send(
            session,
            FromController::HandOver(id, epoch, to),
        ));
        Ok(Step::Answer(AdminResponse::HandoverBegun))
    }

    fn prepare_sync_followers(&self, name: String, sync_followers: u32) -> Result<Step, WireError> {
        let topic = self.state.topic_named(&name);
        let topic = topic.ok_or_else(|| unknown_topic(&name))?;
        let replicas = topic.config.replicas;
        if sync_followers >= replicas {
            return Err(too_many_followers(replicas, sync_followers));
        }
        let command = Command::SetSyncFollowers {
            id: topic.id,
            sync_followers,
        };
        let what = What::SyncFollowers {
            name,
            sync_followers,
        };
        Ok(Step::Propose(Box::new(command), what))
    }

    fn prepare_policy(&self, name: String, changes: &PolicyChanges) -> Result<Step, WireError> {
        if is_internal_topic(&name) {
            return Err(invalid(format!(
                "{name} is internal: all of it is needed, and nothing of it expires"
            )));
        }
        let topic = self.state.topic_named(&name);
        let topic = topic.ok_or_else(|| unknown_topic(&name))?;
        let policy = topic.config.policy.with(changes);
        policy.check().map_err(invalid)?;
        let command = Command::SetPolicy {
            id: topic.id,
            policy,
        };
        Ok(Step::Propose(Box::new(command), What::Policy { name }))
    }

    /// How many replicas a topic gets, and how many synchronous followers.
    fn copies(
        &self,
        replicas: Option<u32>,
        sync_followers: Option<u32>,
    ) -> Result<(u32, u32), WireError> {
        let alive = self.brokers_alive();
        let replicas = replicas.unwrap_or(REPLICAS_DEFAULT.min(alive));
        if replicas == 0 || replicas > alive {
            return Err(invalid(format!(
                "a topic has 1 to {alive} replicas while {alive} brokers are alive, not {replicas}"
            )));
        }
        let sync_followers = sync_followers.unwrap_or(1.min(replicas - 1));
        if sync_followers >= replicas {
            return Err(too_many_followers(replicas, sync_followers));
        }
        Ok((replicas, sync_followers))
    }

    fn brokers_alive(&self) -> u32 {
        let brokers = self.state.brokers.values();
        brokers.filter(|b| !b.fenced && !b.draining).count() as u32
    }

    fn prepare_topic(
        &self,
        name: String,
        partitions: Option<u32>,
        config: TopicConfig,
        topic: TopicId,
    ) -> Result<Step, WireError> {
        if self.state.topic_named(&name).is_some() {
            return Err(topic_exists(&name));
        }
        let partitions = partitions.unwrap_or(1);
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            return Err(invalid(format!(
                "a topic has 1 to {PARTITIONS_MAX} partitions, not {partitions}"
            )));
        }
        let command = Command::CreateTopic {
            id: topic,
            name: name.clone(),
            config: config.clone(),
            assignments: place(&self.state, partitions, config.replicas),
        };
        let what = What::Create {
            name,
            topic,
            partitions,
            config,
        };
        Ok(Step::Propose(Box::new(command), what))
    }

    /// The topic stays as it is made now, so it waits until as many brokers as it has replicas have
    /// come. Some of them may be down: consumers need not wait until all are well.
    fn prepare_groups_topic(
        &self,
        partitions: u32,
        replicas: u32,
        topic: TopicId,
    ) -> Result<Step, WireError> {
        if replicas == 0 {
            return Err(invalid("a topic has 1 replica at least, not 0"));
        }
        let sync_followers = 1.min(replicas - 1);
        let brokers = self.state.brokers.values();
        let known = brokers.filter(|broker| !broker.draining).count() as u32;
        let alive = self.brokers_alive();
        if known < replicas || alive <= sync_followers {
            let text = format!(
                "the topic of consumer groups has {replicas} replicas, one of them led and {sync_followers} in step; {known} brokers have come, {alive} are alive"
            );
            return Err(WireError::new(ErrorCode::Unavailable, text));
        }
        let config = TopicConfig {
            replicas,
            sync_followers,
            flush: Flush::default(),
            unclean_election: sync_followers == 0,
            // What is known of groups is in the newest records of keys.
            policy: TopicPolicy {
                cleanup: Some(Cleanup::Compact),
                ..TopicPolicy::default()
            },
        };
        self.prepare_topic(GROUPS_TOPIC.to_owned(), Some(partitions), config, topic)
    }

    fn prepare_deletion(&self, name: String) -> Result<Step, WireError> {
        if is_internal_topic(&name) {
            return Err(invalid(format!(
                "{name} is internal: it is not deleted (of a consumer group, delete the group)"
            )));
        }
        let topic = self
            .state
            .topic_named(&name)
            .ok_or_else(|| unknown_topic(&name))?;
        let command = Command::DeleteTopic { id: topic.id };
        Ok(Step::Propose(Box::new(command), What::Delete { name }))
    }

    pub(crate) fn on_admin_outcome(
        &mut self,
        waiting: AdminWaiting,
        outcome: Outcome,
        out: &mut Vec<Effect>,
    ) {
        let AdminWaiting { session, id, what } = waiting;
        let index = self.state.index;
        let result = match (what, outcome) {
            (
                What::Create {
                    topic,
                    partitions,
                    config,
                    ..
                },
                Outcome::Done,
            ) => Ok(AdminResponse::TopicCreated {
                topic,
                index,
                partitions,
                replicas: config.replicas,
                sync_followers: config.sync_followers,
            }),
            (What::Create { name, .. }, Outcome::TopicExists) => Err(topic_exists(&name)),
            (What::Delete { .. }, Outcome::Done) => Ok(AdminResponse::TopicDeleted { index }),
            (What::Delete { name }, Outcome::UnknownTopic) => Err(unknown_topic(&name)),
            (What::SyncFollowers { .. } | What::Policy { .. }, Outcome::Done) => {
                Ok(AdminResponse::Changed { index })
            }
            (What::SyncFollowers { name, .. } | What::Policy { name }, Outcome::UnknownTopic) => {
                Err(unknown_topic(&name))
            }
            (
                What::SyncFollowers {
                    name,
                    sync_followers,
                },
                Outcome::TooFewInSync(at),
            ) => Err(WireError::new(
                ErrorCode::InvalidState,
                format!(
                    "the in-sync set of {name}/{} is too small for {sync_followers} synchronous followers; wait until its replicas have caught up (baton cluster status)",
                    at.partition
                ),
            )),
            (What::ProducerIds, Outcome::ProducerIds { first, count }) => {
                Ok(AdminResponse::ProducerIds { first, count })
            }
            (what, outcome) => Err(WireError::new(
                ErrorCode::Internal,
                format!("the request {what:?} came to {outcome:?}"),
            )),
        };
        out.push(Effect::Send(
            session,
            FromController::AdminResult { id, result },
        ));
    }

    pub(crate) fn on_admin_failed(&mut self, waiting: AdminWaiting, out: &mut Vec<Effect>) {
        let AdminWaiting { session, id, .. } = waiting;
        let result = Err(WireError::new(
            ErrorCode::NoController,
            "the controller could not have the change committed; it may yet be, look before you retry",
        ));
        out.push(Effect::Send(
            session,
            FromController::AdminResult { id, result },
        ));
    }

    /// The cluster's health.
    fn status(&self) -> ClusterStatus {
        let mut troubles = Vec::new();
        for (id, partition) in self.state.partitions() {
            let topic = self.state.topics.get(&id.topic);
            troubles.extend(topic.and_then(|topic| self.trouble(topic, id, partition)));
        }
        ClusterStatus {
            controller: self.me,
            index: self.state.index,
            term: self.term,
            troubles,
            partitions: self.state.partitions().count() as u32,
        }
    }

    fn trouble(
        &self,
        topic: &TopicRecord,
        id: TopicPartition,
        partition: &PartitionRecord,
    ) -> Option<PartitionTrouble> {
        let leaderless = partition.leader.is_none();
        let mut reasons = Vec::new();
        if leaderless {
            reasons.push(match self.elections.get(&id) {
                Some(election) => election.reason(&self.state, partition),
                None => "its election is about to begin".to_owned(),
            });
        }
        for broker in &partition.replicas {
            // Whom an election waits for, and whose answer does not count, it says itself.
            let why = match self.trouble_told(*broker, id) {
                _ if self.state.is_fenced(*broker) => (!leaderless).then_some("does not answer"),
                Some(told) => Some(told),
                None if leaderless => None,
                None if partition.suspects.contains(broker) => {
                    Some("may have lost entries, which are copied from the leader")
                }
                None => (!partition.in_sync.contains(broker)).then_some("is catching up"),
            };
            reasons.extend(why.map(|why| format!("broker {broker} {why}")));
        }
        if reasons.is_empty() {
            return None;
        }
        Some(PartitionTrouble {
            topic: topic.name.clone(),
            partition: id.partition,
            epoch: partition.epoch,
            leaderless,
            reason: reasons.join("; "),
        })
    }
}

fn topic_exists(name: &str) -> WireError {
    WireError::new(
        ErrorCode::TopicExists,
        format!("a topic named `{name}` exists"),
    )
}

fn unknown_topic(name: &str) -> WireError {
    WireError::new(
        ErrorCode::UnknownTopic,
        format!("there is no topic named `{name}`"),
    )
}

fn no_election(topic: &str) -> WireError {
    WireError::new(
        ErrorCode::InvalidState,
        format!(
            "there is no such election in topic {topic} at the moment; look again with `baton partition election`"
        ),
    )
}

fn too_many_followers(replicas: u32, sync_followers: u32) -> WireError {
    invalid(format!(
        "with {replicas} replicas there are 0 to {} synchronous followers, not {sync_followers}",
        replicas - 1
    ))
}
