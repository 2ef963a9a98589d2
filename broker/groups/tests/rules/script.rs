//! The commands of a golden script.
//!
//! Members are m1, m2 and so on, and know what they were told last. Appends are committed at once,
//! unless they are held up.

use std::collections::BTreeMap;
use std::error::Error;

use baton_groups::event::RequestId;
use baton_groups::rules::Rules;
use baton_groups::{Config, Topic, Topics};
use baton_protocol::groups::{
    Commit, CommittingMember, GroupRequest, GroupResponse, Heartbeat, OffsetCommit, OffsetReset,
    Subscription,
};
use baton_protocol::ids::{
    GroupEpoch, LeaderEpoch, MemberId, Offset, PartitionIndex, TopicId, TopicPartition,
};
use goldenscript::Context;
use uuid::Uuid;

use crate::host::Host;
use crate::trace::{self, Names};

const GROUP: &str = "g";

/// A command.
#[derive(goldenscript::Command)]
pub enum Command {
    /// The topics there are, as `name@partitions`. One that is there before keeps its id.
    Topics(#[arg(optional)] Vec<String>),
    /// A member joins, or changes its subscription (with a higher version).
    Join {
        member: String,
        topics: Vec<String>,
        #[arg(key)]
        instance: Option<String>,
        #[arg(key)]
        session: Option<u32>,
        #[arg(key)]
        rebalance: Option<u32>,
        #[arg(key)]
        version: Option<u64>,
        #[arg(key)]
        group: Option<String>,
    },
    /// A member sends a heartbeat with the epoch it was told last, or with this one.
    Beat {
        member: String,
        #[arg(key)]
        epoch: Option<u64>,
        #[arg(key)]
        instance: Option<String>,
    },
    /// A member leaves.
    Leave {
        member: String,
        #[arg(key, optional)]
        keep_seat: bool,
    },
    /// A member (or `nobody`) commits `topic/partition@offset`s.
    Commit {
        member: String,
        offsets: Vec<String>,
        #[arg(key)]
        epoch: Option<u64>,
        #[arg(key)]
        back_from: Option<u64>,
        #[arg(key)]
        group: Option<String>,
    },
    /// What is committed.
    Offsets,
    /// An operator sets `topic/partition@offset`s, expecting an offset or none.
    Reset {
        offsets: Vec<String>,
        #[arg(key)]
        from: Option<u64>,
    },
    /// An operator deletes the group.
    Delete,
    /// All groups.
    List,
    /// The group.
    Describe,
    /// Time passes, in steps of 100 ms at most.
    Tick(u64),
    /// Many hours pass at once.
    Hours(u64),
    /// Appends stay under way from here on.
    Hold,
    /// What is under way is committed, and all that comes.
    Release,
    /// What is under way is not stored.
    Fail,
    /// The lead is lost. The next leader has so many records of what is under way, or none.
    Lose(#[arg(optional)] usize),
    /// Another leader has read the partition.
    TakeOffice,
}

/// Runs the commands of one script.
pub struct Runner {
    host: Host,
    ids: u128,
    topics: BTreeMap<String, Topic>,
    gone: BTreeMap<TopicId, String>,
    told: BTreeMap<MemberId, GroupEpoch>,
    instances: BTreeMap<MemberId, String>,
    requests: BTreeMap<RequestId, Option<MemberId>>,
    held: bool,
    lines: Vec<String>,
}

impl Runner {
    /// A runner under these rules, with small limits.
    pub fn new(rules: Rules) -> Self {
        let config = Config {
            groups_max: 3,
            members_max: 4,
            partitions_max: 50,
            ..Config::default()
        };
        Runner {
            host: Host::new(config, rules, Topics::default()),
            ids: 100,
            topics: BTreeMap::new(),
            gone: BTreeMap::new(),
            told: BTreeMap::new(),
            instances: BTreeMap::new(),
            requests: BTreeMap::new(),
            held: false,
            lines: Vec::new(),
        }
    }

    fn ask(&mut self, member: Option<MemberId>, body: GroupRequest) {
        self.ids += 1;
        let request = RequestId(self.ids as u64);
        self.requests.insert(request, member);
        self.host.request(request, body);
    }

    fn set_topics(&mut self, wanted: &[String]) -> Result<(), Box<dyn Error>> {
        let mut topics = BTreeMap::new();
        for one in wanted {
            let (name, partitions) = one.split_once('@').ok_or("name@partitions")?;
            self.ids += 1;
            let new = TopicId(Uuid::from_u128(self.ids));
            let id = self.topics.get(name).map_or(new, |topic| topic.id);
            let partitions = partitions.parse()?;
            topics.insert(name.to_owned(), Topic { id, partitions });
        }
        for (name, topic) in &self.topics {
            self.gone.insert(topic.id, name.clone());
        }
        self.topics = topics;
        self.host.set_topics(Topics::new(self.topics.clone()));
        Ok(())
    }

    fn place(&self, text: &str) -> Result<(TopicPartition, Offset), Box<dyn Error>> {
        let (place, offset) = text.split_once('@').ok_or("topic/partition@offset")?;
        let (name, index) = place.split_once('/').ok_or("topic/partition@offset")?;
        let former = name.strip_prefix("former-");
        let id = match (former, self.topics.get(name)) {
            (None, topic) => topic.ok_or("no such topic")?.id,
            (Some(former), _) => {
                let mut gone = self.gone.iter();
                let now = self.topics.get(former).map(|topic| topic.id);
                let is_it = |(id, name): &(&TopicId, &String)| *name == former && Some(**id) != now;
                *gone.find(is_it).ok_or("no such topic")?.0
            }
        };
        let at = TopicPartition {
            topic: id,
            partition: PartitionIndex(index.parse()?),
        };
        Ok((at, Offset(offset.parse()?)))
    }

    fn commit(
        &mut self,
        member: Option<MemberId>,
        offsets: &[String],
        epoch: Option<u64>,
        back_from: Option<u64>,
        group: Option<&String>,
    ) -> Result<(), Box<dyn Error>> {
        let mut all = Vec::new();
        for text in offsets {
            let (at, offset) = self.place(text)?;
            all.push(OffsetCommit {
                topic: at.topic,
                partition: at.partition,
                offset,
                leader_epoch: LeaderEpoch(1),
                metadata: String::new(),
                back_from: back_from.map(Offset),
            });
        }
        let committing = member.map(|member| {
            let told = self.told.get(&member).copied().unwrap_or_default();
            let epoch = epoch.map_or(told, GroupEpoch);
            CommittingMember { member, epoch }
        });
        let group = group.map_or(GROUP, String::as_str).to_owned();
        let commit = Commit {
            group,
            member: committing,
            offsets: all,
        };
        self.ask(member, GroupRequest::Commit(commit));
        Ok(())
    }

    fn reset(&mut self, offsets: &[String], from: Option<u64>) -> Result<(), Box<dyn Error>> {
        let mut all = Vec::new();
        for text in offsets {
            let (at, to) = self.place(text)?;
            all.push(OffsetReset {
                topic: at.topic,
                partition: at.partition,
                from: from.map(Offset),
                to,
                leader_epoch: LeaderEpoch(1),
            });
        }
        let group = GROUP.to_owned();
        let body = GroupRequest::Reset {
            group,
            offsets: all,
        };
        self.ask(None, body);
        Ok(())
    }

    fn heartbeat(
        &mut self,
        id: MemberId,
        epoch: GroupEpoch,
        group: Option<&String>,
        subscription: Option<Subscription>,
    ) {
        let body = GroupRequest::Heartbeat(Heartbeat {
            group: group.map_or(GROUP, String::as_str).to_owned(),
            member: id,
            instance: self.instances.get(&id).cloned(),
            epoch,
            subscription,
        });
        self.ask(Some(id), body);
    }

    fn run(&mut self, command: &Command) -> Result<(), Box<dyn Error>> {
        let group = GROUP.to_owned();
        match command {
            Command::Topics(topics) => self.set_topics(topics)?,
            Command::Join {
                member,
                topics,
                instance,
                session,
                rebalance,
                version,
                group,
            } => {
                let id = member_id(member)?;
                if let Some(instance) = instance {
                    self.instances.insert(id, instance.clone());
                }
                let subscription = Subscription {
                    version: version.unwrap_or(1),
                    topics: topics.clone(),
                    session_timeout_ms: session.unwrap_or(10_000),
                    rebalance_timeout_ms: rebalance.unwrap_or(60_000),
                    client: String::new(),
                };
                let told = match version {
                    Some(_) => self.told.get(&id).copied().unwrap_or_default(),
                    None => GroupEpoch::NONE,
                };
                self.heartbeat(id, told, group.as_ref(), Some(subscription));
            }
            Command::Beat {
                member,
                epoch,
                instance,
            } => {
                let id = member_id(member)?;
                if let Some(instance) = instance {
                    self.instances.insert(id, instance.clone());
                }
                let told = self.told.get(&id).copied().unwrap_or_default();
                self.heartbeat(id, epoch.map_or(told, GroupEpoch), None, None);
            }
            Command::Leave { member, keep_seat } => {
                let member = member_id(member)?;
                let keep_seat = *keep_seat;
                let body = GroupRequest::Leave {
                    group,
                    member,
                    keep_seat,
                };
                self.ask(Some(member), body);
            }
            Command::Commit {
                member,
                offsets,
                epoch,
                back_from,
                group,
            } => {
                let member = (member != "nobody")
                    .then(|| member_id(member))
                    .transpose()?;
                self.commit(member, offsets, *epoch, *back_from, group.as_ref())?;
            }
            Command::Offsets => self.ask(None, GroupRequest::FetchOffsets { group }),
            Command::Reset { offsets, from } => self.reset(offsets, *from)?,
            Command::Delete => self.ask(None, GroupRequest::Delete { group }),
            Command::List => self.ask(None, GroupRequest::List),
            Command::Describe => self.ask(None, GroupRequest::Describe { group }),
            Command::Tick(ms) => self.pass(*ms),
            Command::Hours(hours) => {
                self.host.tick(hours * 60 * 60 * 1_000);
            }
            Command::Hold => self.held = true,
            Command::Release => self.held = false,
            Command::Fail => self.host.fail(),
            Command::Lose(kept) => self.host.lose(*kept),
            Command::TakeOffice => self.host.take_office(),
        }
        Ok(())
    }

    fn pass(&mut self, ms: u64) {
        let mut left = ms;
        while left > 0 {
            let step = left.min(100);
            left -= step;
            self.host.tick(step);
            self.drain();
        }
    }

    /// Commits what may be, and notes what has come out.
    fn drain(&mut self) {
        while !self.held && self.host.in_flight.is_some() {
            let records = self.host.commit().unwrap_or_default();
            let names = Names {
                topics: &self.host.topics,
                gone: &self.gone,
            };
            let told = records.iter().map(|record| trace::record(&names, record));
            self.lines.extend(told);
        }
        for (request, answer) in std::mem::take(&mut self.host.answers) {
            let member = self.requests.get(&request).copied().flatten();
            if let (Some(member), Ok(GroupResponse::Heartbeat(answer))) = (member, &answer) {
                let told = self.told.entry(member).or_default();
                *told = answer.epoch.max(*told);
            }
            let who = member.map_or("=".to_owned(), |id| format!("= {}:", trace::member(id)));
            let names = Names {
                topics: &self.host.topics,
                gone: &self.gone,
            };
            for line in trace::answer(&names, &answer) {
                self.lines.push(format!("{who} {line}"));
            }
        }
    }
}

fn member_id(name: &str) -> Result<MemberId, Box<dyn Error>> {
    let number: u128 = name.strip_prefix('m').ok_or("m1, m2, ...")?.parse()?;
    Ok(MemberId(Uuid::from_u128(number)))
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        Runner::run(self, command)?;
        self.drain();
        Ok(self.lines.drain(..).map(|line| line + "\n").collect())
    }
}
