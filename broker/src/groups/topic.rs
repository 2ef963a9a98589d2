//! Has the internal topic of groups made, when the first request about a group comes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_protocol::admin::AdminRequest;
use baton_protocol::error::{ErrorCode, WireError};

use crate::shared::Shared;

/// Pause after a refusal.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Replicas of the topic, where there are as many brokers.
const REPLICAS: usize = 3;

/// Asks for the topic, once at a time.
#[derive(Debug, Default)]
pub struct GroupsTopic {
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    under_way: bool,
    /// Why it could not be made when it was asked for last.
    refused: Option<WireError>,
}

impl GroupsTopic {
    /// Asks the controller to make it, unless that is under way. What whoever waits for it is to be
    /// told: to come again.
    pub fn ask_for(&self, shared: &Arc<Shared>) -> WireError {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut asked.under_way, true) {
            tokio::spawn(make(shared.clone()));
        }
        let text = match &asked.refused {
            None => "the topic of consumer groups is being made; retry".to_owned(),
            Some(error) => format!("the topic of consumer groups is not made yet: {error}"),
        };
        WireError::new(ErrorCode::NotCoordinator, text)
    }

    /// Notes why it was refused, if it was. Whether that is news.
    fn answered(&self, refused: Option<WireError>) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = asked.refused != refused;
        asked.refused = refused;
        is_news
    }

    fn may_ask_again(&self) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.under_way = false;
    }
}

async fn make(shared: Arc<Shared>) {
    let request = AdminRequest::MakeGroupsTopic {
        partitions: shared.config.groups.partitions,
        replicas: replicas(&shared),
    };
    let refused = match shared.control.ask(request).await {
        Ok(_) => {
            tracing::info!("the topic of consumer groups is made");
            None
        }
        // Another broker was asked for it, too.
        Err(error) if error.code == ErrorCode::TopicExists => None,
        Err(error) => Some(error),
    };
    let was_refused = refused.is_some();
    let why = refused.as_ref().map(ToString::to_string);
    if shared.groups_topic.answered(refused)
        && let Some(why) = why
    {
        tracing::warn!(why, "the topic of consumer groups cannot be made");
    }
    if was_refused {
        // Consumers come again and again, and the controller would be asked each time.
        tokio::time::sleep(ASK_AGAIN_AFTER).await;
    }
    shared.groups_topic.may_ask_again();
}

/// As many as there are brokers, up to three. Those that are to keep the metadata are reckoned with
/// although they may not have come yet: the topic would stay as it is made while a cluster starts.
fn replicas(shared: &Shared) -> u32 {
    let known = shared.known.borrow();
    let registered = known.state.as_ref().map_or(0, |state| state.brokers.len());
    let brokers = registered.max(shared.config.cluster.voters.len());
    brokers.clamp(1, REPLICAS) as u32
}
