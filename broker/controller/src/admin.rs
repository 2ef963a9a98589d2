//! What operators ask of the controller.

use baton_protocol::admin::{
    AdminRequest, AdminResponse, ClusterStatus, PARTITIONS_MAX, PartitionTrouble, check_topic_name,
};
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::ids::{TopicId, TopicPartition};
use baton_protocol::metadata::{PartitionRecord, TopicConfig, TopicRecord};

use crate::core::{ControllerCore, Effect, Purpose, SessionId};
use crate::placement::place;
use crate::session::FromController;
use crate::state::{Command, Outcome};

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
    ProducerIds,
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
        out: &mut Vec<Effect>,
    ) {
        let prepared = match request {
            AdminRequest::ClusterStatus => {
                let result = Ok(AdminResponse::ClusterStatus(self.status()));
                return out.push(Effect::Send(
                    session,
                    FromController::AdminResult { id, result },
                ));
            }
            AdminRequest::CreateTopic {
                name,
                partitions,
                replicas,
                sync_followers,
            } => self.prepare_topic(name, partitions, replicas, sync_followers, fresh_topic_id),
            AdminRequest::DeleteTopic { name } => self.prepare_deletion(name),
            AdminRequest::AllocateProducerIds { count } => {
                if (1..=PRODUCER_IDS_MAX).contains(&count) {
                    Ok((Command::AllocateProducerIds { count }, What::ProducerIds))
                } else {
                    Err(invalid(format!(
                        "1 to {PRODUCER_IDS_MAX} producer ids can be reserved, not {count}"
                    )))
                }
            }
        };
        match prepared {
            Ok((command, what)) => {
                let waiting = AdminWaiting { session, id, what };
                self.propose(command, Purpose::Admin(waiting), out);
            }
            Err(error) => {
                let result = Err(error);
                out.push(Effect::Send(
                    session,
                    FromController::AdminResult { id, result },
                ));
            }
        }
    }

    fn prepare_topic(
        &self,
        name: String,
        partitions: Option<u32>,
        replicas: Option<u32>,
        sync_followers: Option<u32>,
        topic: TopicId,
    ) -> Result<(Command, What), WireError> {
        check_topic_name(&name).map_err(|why| WireError::new(ErrorCode::InvalidTopicName, why))?;
        if self.state.topic_named(&name).is_some() {
            return Err(topic_exists(&name));
        }
        let alive = self
            .state
            .brokers
            .values()
            .filter(|broker| !broker.fenced && !broker.draining);
        let alive = alive.count() as u32;
        let partitions = partitions.unwrap_or(1);
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            return Err(invalid(format!(
                "a topic has 1 to {PARTITIONS_MAX} partitions, not {partitions}"
            )));
        }
        let replicas = replicas.unwrap_or(REPLICAS_DEFAULT.min(alive));
        if replicas == 0 || replicas > alive {
            return Err(invalid(format!(
                "a topic has 1 to {alive} replicas while {alive} brokers are alive, not {replicas}"
            )));
        }
        let sync_followers = sync_followers.unwrap_or(1.min(replicas - 1));
        if sync_followers >= replicas {
            return Err(invalid(format!(
                "with {replicas} replicas there are 0 to {} synchronous followers, not {sync_followers}",
                replicas - 1
            )));
        }
        let config = TopicConfig {
            replicas,
            sync_followers,
        };
        let command = Command::CreateTopic {
            id: topic,
            name: name.clone(),
            config: config.clone(),
            assignments: place(&self.state, partitions, replicas),
        };
        let what = What::Create {
            name,
            topic,
            partitions,
            config,
        };
        Ok((command, what))
    }

    fn prepare_deletion(&self, name: String) -> Result<(Command, What), WireError> {
        let topic = self
            .state
            .topic_named(&name)
            .ok_or_else(|| unknown_topic(&name))?;
        Ok((Command::DeleteTopic { id: topic.id }, What::Delete { name }))
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
        for topic in self.state.topics.values() {
            for (id, partition) in self
                .state
                .partitions()
                .filter(|(id, _)| id.topic == topic.id)
            {
                troubles.extend(self.trouble(topic, id, partition));
            }
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
        let absent: Vec<String> = partition
            .replicas
            .iter()
            .filter(|id| !partition.in_sync.contains(id) || self.state.is_fenced(**id))
            .map(|id| {
                let why = if self.state.is_fenced(*id) {
                    "does not answer"
                } else {
                    "is catching up"
                };
                format!("broker {id} {why}")
            })
            .collect();
        if !leaderless && absent.is_empty() && partition.suspects.is_empty() {
            return None;
        }
        let reason = if leaderless {
            match self.elections.get(&id) {
                Some(election) => election.reason(&self.state, partition),
                None => "its election is about to begin".to_owned(),
            }
        } else {
            absent.join(", ")
        };
        Some(PartitionTrouble {
            topic: topic.name.clone(),
            partition: id.partition,
            epoch: partition.epoch,
            leaderless,
            reason,
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
