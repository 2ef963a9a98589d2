//! An election at once when the leader's process has ended, without waiting for any time-out.
//!
//! Every follower keeps a connection to the leader's port, on which nothing is said. When it breaks
//! and the port then refuses connections, the process is gone: a frozen or a distant one answers
//! otherwise, or not at all. The follower asks the other voters whether they find the same, and with
//! a majority, itself counted, it stands for election. A voter that is merely cut off finds nobody
//! who agrees, and changes nothing, not even its own term.
//!
//! What an election must be is Raft's matter and stays with the library: terms, logs, votes on disk,
//! a majority. Only the lease is ended early, by which a voter that heard from a leader lately
//! refuses its vote to anybody else; and each voter ends its own, on what it has found out by
//! itself. No leader relies on that lease. Where anything of this fails, the time-outs do their part.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::Raft;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::raft::VoteRequest;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::network::ask_whether_gone;
use crate::state_machine::StateMachine;
use crate::types::{LogId, Types, Vote};

/// Pause before the port is tried for the second time; doubled each time. The port of a process that
/// ends closes a little after its connections.
const RETRY_MIN: Duration = Duration::from_millis(2);

/// Longest pause between attempts.
const RETRY_MAX: Duration = Duration::from_millis(250);

/// A connection that stood this long was no failed attempt.
const STOOD: Duration = Duration::from_secs(1);

/// How long an attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How much later each voter stands than the one before it, in the order of their ids: two that stand
/// at once may both fail.
const STAGGER: Duration = Duration::from_millis(30);

/// How long a voter that is asked looks out itself before it says no.
const LOOK_OUT: Duration = Duration::from_millis(100);

/// How long the others may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_millis(300);

/// Whose process this member has found to be gone: the leader of the reign that this vote stands
/// for. Clones share it.
#[derive(Clone)]
pub(crate) struct Loss(watch::Sender<Option<Vote>>);

impl Loss {
    pub fn none() -> Loss {
        Loss(watch::Sender::new(None))
    }

    pub fn set(&self, lost: Option<Vote>) {
        self.0.send_if_modified(|known| {
            let changed = *known != lost;
            *known = lost;
            changed
        });
    }

    pub fn is_of(&self, reign: &Vote) -> bool {
        self.0.borrow().as_ref() == Some(reign)
    }
}

/// Answers whoever asks whether the leader of `reign` is gone, and would be elected with a log that
/// ends at `last_log_id`: yes if this member still follows that leader, finds the same, now or in a
/// moment, and has no longer log.
pub(crate) async fn agrees(
    raft: &Raft<Types, StateMachine>,
    loss: &Loss,
    reign: &Vote,
    last_log_id: Option<LogId>,
) -> bool {
    let mut seen = loss.0.subscribe();
    let same = seen.wait_for(|lost| lost.as_ref() == Some(reign));
    if !matches!(timeout(LOOK_OUT, same).await, Ok(Ok(_))) {
        return false;
    }
    let own = standing(raft).await;
    own.is_some_and(|(vote, own_last)| vote == *reign && own_last <= last_log_id)
}

/// What a voter makes of a request for its vote. Whether the lease of the leader that it follows has
/// ended, it alone decides, whatever the request says.
pub(crate) async fn judge(
    raft: &Raft<Types, StateMachine>,
    loss: &Loss,
    mut request: VoteRequest<Types>,
) -> VoteRequest<Types> {
    let following = standing(raft).await;
    request.leadership_transfer = following.is_some_and(|(vote, _)| loss.is_of(&vote));
    request
}

/// The vote that this member stands by, and where its log ends.
pub(crate) async fn standing(raft: &Raft<Types, StateMachine>) -> Option<(Vote, Option<LogId>)> {
    let state = raft.with_raft_state(|state| (*state.vote_ref(), state.log_ids.last().copied()));
    state.await.ok()
}

/// A leader that this member follows, and those whose votes would elect another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Followed {
    /// The vote by which it leads.
    pub reign: Vote,
    /// Where its port is.
    pub address: String,
    /// This member's place among the voters that are left; none if it has no vote.
    rank: Option<u32>,
    /// The other voters that are left.
    others: Vec<(u64, String)>,
}

impl Followed {
    /// What a member follows, by what the library shows.
    pub fn by(metrics: &RaftServerMetrics<Types>) -> Option<Followed> {
        let leader = metrics.current_leader.filter(|id| *id != metrics.id)?;
        let membership = &metrics.membership_config;
        let mut voters: BTreeSet<u64> = membership.voter_ids().collect();
        voters.remove(&leader);
        // While the voters change, two majorities count: that is left to the time-outs.
        let settled = membership.get_joint_config().len() == 1;
        let rank = voters.iter().position(|id| *id == metrics.id);
        let others = voters.iter().filter(|id| **id != metrics.id);
        let others = others.filter_map(|id| Some((*id, membership.get_node(id)?.address.clone())));
        Some(Followed {
            reign: metrics.vote,
            address: membership.get_node(&leader)?.address.clone(),
            rank: rank.filter(|_| settled).map(|rank| rank as u32),
            others: others.collect(),
        })
    }
}

/// The task.
pub(crate) struct Follower {
    pub raft: Raft<Types, StateMachine>,
    pub loss: Loss,
}

impl Follower {
    /// Goes on until the library ends.
    pub async fn run(self) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let followed = Followed::by(&metrics.borrow_watched());
            let another = async {
                while metrics.changed().await.is_ok() {
                    if Followed::by(&metrics.borrow_watched()) != followed {
                        return true;
                    }
                }
                false
            };
            let attending = async {
                match &followed {
                    Some(followed) => self.attend(followed).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                goes_on = another => if !goes_on {
                    return;
                },
                never = attending => match never {},
            }
        }
    }

    /// Stays connected with a leader, and acts when that is gone.
    pub async fn attend(&self, followed: &Followed) -> std::convert::Infallible {
        // Who was never reached may well lead: its address can be wrong, and it calls the others.
        let mut met = false;
        self.loss.set(None);
        let mut pause = RETRY_MIN;
        loop {
            let connecting = TcpStream::connect(&followed.address);
            match timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(Ok(socket)) => {
                    met = true;
                    self.loss.set(None);
                    if stay(socket).await >= STOOD {
                        pause = RETRY_MIN;
                        continue;
                    }
                }
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused && met => {
                    self.loss.set(Some(followed.reign));
                    self.stand(followed).await;
                }
                Ok(Err(_)) | Err(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Stands for election, if a majority finds the leader gone and has no longer log.
    async fn stand(&self, followed: &Followed) {
        let Some(rank) = followed.rank else {
            return;
        };
        // Ends here if another one is elected meanwhile.
        sleep(STAGGER * rank).await;
        let Some((vote, last_log_id)) = standing(&self.raft).await else {
            return;
        };
        let reign = followed.reign;
        if vote != reign || !majority_agrees(followed, last_log_id).await {
            return;
        }
        // Whoever asked in the meantime may have this member's vote.
        let unchanged = standing(&self.raft).await == Some((reign, last_log_id));
        if unchanged && self.raft.trigger().elect(false).await.is_ok() {
            tracing::info!(
                address = followed.address,
                "Raft's leader is gone, as a majority finds; this broker stands for election"
            );
        }
    }
}

/// Waits until the connection ends; how long it stood.
async fn stay(mut socket: TcpStream) -> Duration {
    let since = Instant::now();
    let mut unasked = [0; 64];
    while matches!(socket.read(&mut unasked).await, Ok(count) if count > 0) {}
    since.elapsed()
}

async fn majority_agrees(followed: &Followed, last_log_id: Option<LogId>) -> bool {
    // With the leader, and without.
    let voters = followed.others.len() + 2;
    let mut agreeing = 1;
    let mut asked: FuturesUnordered<_> = followed
        .others
        .iter()
        .map(|(id, address)| {
            ask_whether_gone(address, *id, followed.reign, last_log_id, ASK_TIMEOUT)
        })
        .collect();
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(true) => agreeing += 1,
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(%error, "a voter does not say whether the leader is gone")
            }
        }
        if agreeing > voters / 2 {
            return true;
        }
    }
    false
}
