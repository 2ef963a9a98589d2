//! One partition's subscription: at the leader, wherever that is, within the credit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use baton_protocol::batch::EntryIter;
use baton_protocol::client::{RequestBody, ResponseBody};
use baton_protocol::error::ErrorCode;
use baton_protocol::ids::Offset;
use baton_protocol::metadata::ClusterView;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{Instrument, debug, debug_span};

use super::{Begin, Content, Delivery, SharedGauge};
use crate::ask::unexpected;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::connection::{Connection, Pushed, Subscription};
use crate::error::{Error, ErrorKind, Result};
use crate::place::Place;

/// Pause before a subscription that failed is tried again, at first and at most; another view of the
/// cluster ends it early.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// What a feed is told.
pub(super) enum Command {
    /// So many bytes were taken: as many more may come.
    Taken(u64),
    /// So many bytes may wait from now on.
    Share(u64),
    /// Go on at another offset; what is handed on from now on bears this number.
    Seek(Offset, u64),
}

/// A partition's feed.
pub(super) struct Feed {
    client: Client,
    place: Place,
    slot: usize,
    pub generation: u64,
    /// The offset after the last entry that was handed on.
    position: Offset,
    /// Nothing has come yet of what is wanted from the log's first offset on: so where the position is
    /// not in the log, it is not where that begins any more.
    follows_start: bool,
    credit_bytes: u64,
    /// Bytes that may come, or wait, beyond what may wait: as many are not given again.
    overdrawn_bytes: u64,
    /// Bytes that were handed on and not taken yet.
    waiting_bytes: u64,
    commands: mpsc::UnboundedReceiver<Command>,
    deliver: mpsc::UnboundedSender<Delivery>,
    gauge: SharedGauge,
    view: watch::Receiver<Arc<ClusterView>>,
    backoff: Backoff,
}

/// Why a subscription is over.
enum Over {
    /// Nobody takes the records any more.
    Gone,
    /// Another offset is wanted.
    Sought,
}

impl Feed {
    #[allow(
        clippy::too_many_arguments,
        reason = "made in two places, side by side"
    )]
    pub fn new(
        client: &Client,
        place: Place,
        slot: usize,
        begin: Begin,
        credit_bytes: u64,
        commands: mpsc::UnboundedReceiver<Command>,
        deliver: mpsc::UnboundedSender<Delivery>,
        gauge: SharedGauge,
    ) -> Feed {
        let waiting_bytes = gauge.waiting_bytes.load(Ordering::Relaxed);
        Feed {
            client: client.clone(),
            place,
            slot,
            generation: 0,
            position: begin.offset(),
            follows_start: matches!(begin, Begin::Earliest(_)),
            credit_bytes,
            overdrawn_bytes: 0,
            waiting_bytes,
            commands,
            deliver,
            gauge,
            view: client.inner.metadata.watch(),
            backoff: Backoff::new(PAUSE_MIN, PAUSE_MAX),
        }
    }

    /// Hands on until nobody takes it, or something fails that no repetition mends.
    pub async fn run(mut self) {
        let span = debug_span!("subscribe", place = %self.place);
        self.follow().instrument(span).await;
    }

    async fn follow(&mut self) {
        loop {
            self.view.mark_unchanged();
            match self.read().await {
                Ok(Over::Gone) => return,
                Ok(Over::Sought) => {}
                Err(error) if self.begins_anew(&error) => {
                    debug!(%error, "to be begun where the log begins now");
                }
                Err(error) if self.client.can_succeed_later(&self.place, &error) => {
                    debug!(%error, "to be subscribed again");
                    let pause = self.backoff.pause();
                    tokio::select! {
                        () = sleep(pause) => {}
                        _ = self.view.changed() => {}
                    }
                }
                Err(error) => {
                    let told = self.hand_on(Content::Failed(error.at(&self.place)));
                    if !told || !self.stand_still().await {
                        return;
                    }
                }
            }
        }
    }

    /// Whether the log begins elsewhere than where it was to be begun with; goes there, if so.
    fn begins_anew(&mut self, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::OffsetOutOfRange { start, .. }
                if self.follows_start && start != self.position =>
            {
                self.position = start;
                true
            }
            _ => false,
        }
    }

    /// Waits until another offset is wanted. False if nobody is left to want one.
    async fn stand_still(&mut self) -> bool {
        while let Some(command) = self.commands.recv().await {
            let is_seek = matches!(command, Command::Seek(..));
            self.obey(command);
            if is_seek {
                return true;
            }
        }
        false
    }

    fn hand_on(&self, content: Content) -> bool {
        let delivery = Delivery {
            slot: self.slot,
            generation: self.generation,
            content,
        };
        self.deliver.send(delivery).is_ok()
    }

    /// Reads from the present leader for as long as it is that.
    async fn read(&mut self) -> Result<Over> {
        self.client.check_exists(&self.place)?;
        let (leader, address) = self.client.leader(&self.place)?;
        let connection = self.client.stream_connection(&address).await?;
        let mut subscription = connection.subscription();
        // What was said before has its effect on what is asked for now.
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
        self.subscribe(&connection, &subscription).await?;
        debug!(to = connection.address(), position = %self.position, "subscribed");
        self.backoff.reset();
        if self.follows_start && !self.hand_on(Content::Begins(self.position)) {
            return Ok(Over::Gone);
        }
        loop {
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => {
                        let is_seek = matches!(command, Command::Seek(..));
                        let bytes = self.obey(command);
                        if is_seek {
                            return Ok(Over::Sought);
                        }
                        if bytes > 0 {
                            give_credit(&connection, &subscription, bytes)?;
                        }
                    }
                    None => return Ok(Over::Gone),
                },
                pushed = subscription.pushed.recv() => match pushed {
                    Some(Pushed::Records(bytes, high_watermark)) => {
                        if !self.take(bytes, high_watermark)? {
                            return Ok(Over::Gone);
                        }
                    }
                    Some(Pushed::Ended(error)) => return Err(error),
                    None => return Err(lost("the connection was lost")),
                },
                changed = self.view.changed() => {
                    if changed.is_err() {
                        return Ok(Over::Gone);
                    }
                    self.client.check_exists(&self.place)?;
                    let now = self.place.leader_in(&self.view.borrow_and_update());
                    if now.is_some_and(|now| now != leader) {
                        return Err(lost("the partition has another leader"));
                    }
                }
            }
        }
    }

    /// How many more bytes may come by it.
    fn obey(&mut self, command: Command) -> u64 {
        match command {
            Command::Taken(bytes) => {
                self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
                let kept = bytes.min(self.overdrawn_bytes);
                self.overdrawn_bytes -= kept;
                bytes - kept
            }
            Command::Share(bytes) => {
                let (more, less) = (
                    bytes.saturating_sub(self.credit_bytes),
                    self.credit_bytes.saturating_sub(bytes),
                );
                self.credit_bytes = bytes;
                let kept = more.min(self.overdrawn_bytes);
                self.overdrawn_bytes = self.overdrawn_bytes - kept + less;
                more - kept
            }
            Command::Seek(offset, generation) => {
                self.position = offset;
                self.follows_start = false;
                self.generation = generation;
                0
            }
        }
    }

    async fn subscribe(&mut self, connection: &Connection, to: &Subscription) -> Result<()> {
        let subscribe = RequestBody::Subscribe {
            subscription: to.number,
            topic: self.place.id.topic,
            partition: self.place.id.partition,
            offset: self.position,
            // What waits to be taken takes from what may come.
            credit_bytes: self.credit_bytes.saturating_sub(self.waiting_bytes),
        };
        self.overdrawn_bytes = self.waiting_bytes.saturating_sub(self.credit_bytes);
        let limit = self.client.inner.config.connect_timeout;
        match connection.ask(subscribe, limit).await {
            Ok(ResponseBody::Subscribed { high_watermark, .. }) => {
                self.note(high_watermark);
                Ok(())
            }
            Ok(other) => Err(unexpected(&other)),
            // Where its log begins, the leader has said with it.
            Err(error) if self.follows_start && is_out_of_range(&error) => Err(error),
            // A new leader's log can end before what was read from its predecessor's only while it
            // is not the leader yet, in truth.
            Err(error) if error.code() == Some(ErrorCode::OffsetOutOfRange) => {
                Err(self.out_of_range(error).await)
            }
            Err(error) => Err(error),
        }
    }

    fn note(&self, high_watermark: Offset) {
        let known = &self.gauge.high_watermark;
        known.fetch_max(high_watermark.0, Ordering::Relaxed);
    }

    /// An offset outside the log of the one that answered. If it lies within the leader's log all
    /// the same, the one that answered is behind.
    async fn out_of_range(&self, error: Error) -> Error {
        let view = self.client.view();
        let Some(topic) = self.place.topic_in(&view) else {
            return error;
        };
        let admin = self.client.admin();
        let partition = self.place.id.partition;
        match admin.partition_status(topic, partition, true).await {
            Ok(status) if (status.log_start..=status.log_end).contains(&self.position) => {
                lost("the broker that was asked is behind").caused_by(error)
            }
            Ok(status) => {
                let (start, end) = (status.log_start, status.high_watermark);
                let text = format!(
                    "there is no offset {}: the log has {start} up to {end}",
                    self.position
                );
                Error::new(ErrorKind::OffsetOutOfRange { start, end }, text).caused_by(error)
            }
            Err(other) => other,
        }
    }

    /// Checks what was pushed, and hands it on. False when nobody takes it.
    fn take(&mut self, entries: Bytes, high_watermark: Offset) -> Result<bool> {
        for entry in EntryIter::new(&entries) {
            self.position = self.position.max(entry?.header.next_offset());
        }
        self.follows_start = false;
        self.note(high_watermark);
        let bytes = entries.len() as u64;
        self.waiting_bytes += bytes;
        let waiting = &self.gauge.waiting_bytes;
        waiting.fetch_add(bytes, Ordering::Relaxed);
        Ok(self.hand_on(Content::Entries(entries)))
    }
}

/// Whether it says where the log begins and ends.
fn is_out_of_range(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::OffsetOutOfRange { .. })
}

fn lost(why: &str) -> Error {
    Error::new(ErrorKind::Unreachable, why)
}

fn give_credit(connection: &Connection, to: &Subscription, bytes: u64) -> Result<()> {
    let credit = RequestBody::Credit {
        subscription: to.number,
        bytes,
    };
    connection.tell(credit, Bytes::new())
}
