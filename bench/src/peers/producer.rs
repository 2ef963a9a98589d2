//! Sends records to another system as fast as it takes them: a connection has a thread that writes and
//! one that reads acknowledgements. A batch leaves as soon as few enough are under way; what comes in
//! the meantime makes the next one. So records are late for nobody's sake, and a busy system gets
//! large batches.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::ANSWER_TIMEOUT;
use super::connection::{Answers, Connection, Encode};
use crate::load::{Pending, Sink};

/// Connections to the partitions of a topic, filled in turn: the next when a batch is full.
pub struct Producer {
    lanes: Vec<Arc<Lane>>,
    threads: Vec<JoinHandle<()>>,
    current: AtomicUsize,
    room: Arc<Notify>,
}

/// What the threads of a connection share.
struct Lane {
    state: Mutex<State>,
    /// For the thread that writes.
    work: Condvar,
    /// For whoever has more records.
    room: Arc<Notify>,
    socket: TcpStream,
    batch_bytes: usize,
    in_flight: usize,
}

#[derive(Default)]
struct State {
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    /// Records, from the first one on: given to this lane, and acknowledged.
    accepted: u64,
    acknowledged: u64,
    /// The end of each batch that is under way.
    under_way: VecDeque<u64>,
    watched: BTreeMap<u64, Vec<oneshot::Sender<()>>>,
    failure: Option<String>,
    closed: bool,
    writer_waits: bool,
}

/// A record that is under way.
pub struct Ack {
    lane: Arc<Lane>,
    end: u64,
}

impl Producer {
    /// Takes records for the partitions of these connections, in batches of so many bytes of values.
    ///
    /// # Errors
    /// If a socket fails.
    pub fn new(connections: Vec<Connection>, batch_bytes: usize) -> anyhow::Result<Producer> {
        let room = Arc::new(Notify::new());
        let mut producer = Producer {
            lanes: Vec::new(),
            threads: Vec::new(),
            current: AtomicUsize::new(0),
            room: room.clone(),
        };
        for connection in connections {
            let Connection {
                socket,
                mut encode,
                mut answers,
                in_flight,
                ..
            } = connection;
            // A lane without records has nothing to wait for; what is under way is timed where it is
            // waited for.
            socket.set_read_timeout(None)?;
            let lane = Arc::new(Lane {
                state: Mutex::default(),
                work: Condvar::new(),
                room: room.clone(),
                socket,
                batch_bytes,
                in_flight,
            });
            let writing = lane.clone();
            let writer = std::thread::spawn(move || writing.write(encode.as_mut()));
            let reading = lane.clone();
            let reader = std::thread::spawn(move || reading.read(answers.as_mut()));
            producer.threads.extend([writer, reader]);
            producer.lanes.push(lane);
        }
        Ok(producer)
    }

    /// Gives a record to the current lane, or to another one that has room.
    fn offer(&self, value: &Bytes) -> anyhow::Result<Option<Ack>> {
        let current = self.current.load(Ordering::Relaxed);
        for step in 0..self.lanes.len() {
            let at = (current + step) % self.lanes.len();
            let lane = &self.lanes[at];
            if let Some((end, is_full)) = lane.accept(value)? {
                let next = at + usize::from(is_full);
                self.current.store(next, Ordering::Relaxed);
                let lane = lane.clone();
                return Ok(Some(Ack { lane, end }));
            }
        }
        Ok(None)
    }
}

impl Sink for Producer {
    type Ack = Ack;

    async fn send(&self, value: Bytes) -> anyhow::Result<Ack> {
        loop {
            if let Some(ack) = self.offer(&value)? {
                return Ok(ack);
            }
            let room = timeout(ANSWER_TIMEOUT, self.room.notified()).await;
            room.context("nothing is acknowledged any more")?;
        }
    }

    async fn flush(&self) -> anyhow::Result<()> {
        for lane in &self.lanes {
            let end = lane.lock().accepted;
            let lane = lane.clone();
            Ack { lane, end }.wait().await?;
        }
        Ok(())
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.lock().closed = true;
            lane.work.notify_one();
            // The other side may have closed it already.
            drop(lane.socket.shutdown(Shutdown::Both));
        }
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Pending for Ack {
    async fn wait(self) -> anyhow::Result<()> {
        let told = {
            let mut state = self.lane.lock();
            if state.acknowledged >= self.end {
                return Ok(());
            }
            state.check()?;
            let (tell, told) = oneshot::channel();
            state.watched.entry(self.end).or_default().push(tell);
            told
        };
        match timeout(ANSWER_TIMEOUT, told).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => {
                self.lane.lock().check()?;
                Err(anyhow!("the connection is closed"))
            }
            Err(_) => Err(anyhow!("no acknowledgement within {ANSWER_TIMEOUT:?}")),
        }
    }
}

impl State {
    fn check(&self) -> anyhow::Result<()> {
        match &self.failure {
            Some(failure) => Err(anyhow!("{failure}")),
            None => Ok(()),
        }
    }
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record's end and whether the batch is full with it, unless it was before.
    fn accept(&self, value: &Bytes) -> anyhow::Result<Option<(u64, bool)>> {
        let mut state = self.lock();
        state.check()?;
        if state.waiting_bytes >= self.batch_bytes {
            return Ok(None);
        }
        state.waiting_bytes += value.len();
        state.waiting.push(value.clone());
        state.accepted += 1;
        if state.writer_waits && state.under_way.len() < self.in_flight {
            state.writer_waits = false;
            self.work.notify_one();
        }
        let is_full = state.waiting_bytes >= self.batch_bytes;
        Ok(Some((state.accepted, is_full)))
    }

    fn fail(&self, error: &anyhow::Error) {
        let mut state = self.lock();
        if !state.closed && state.failure.is_none() {
            state.failure = Some(format!("{error:#}"));
        }
        // Whoever waits finds the failure.
        state.watched.clear();
        self.work.notify_one();
        self.room.notify_one();
    }

    /// The records of the next batch, and how many came before them; none when it is over.
    fn next_batch(&self, emptied: Vec<Bytes>) -> Option<(u64, Vec<Bytes>)> {
        let mut state = self.lock();
        loop {
            if state.closed || state.failure.is_some() {
                return None;
            }
            if !state.waiting.is_empty() && state.under_way.len() < self.in_flight {
                let values = std::mem::replace(&mut state.waiting, emptied);
                state.waiting_bytes = 0;
                let end = state.accepted;
                state.under_way.push_back(end);
                self.room.notify_one();
                return Some((end - values.len() as u64, values));
            }
            state.writer_waits = true;
            let woken = self.work.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            state.writer_waits = false;
        }
    }

    fn write(&self, encode: &mut dyn Encode) {
        let (mut bytes, mut emptied) = (Vec::new(), Vec::new());
        while let Some((before, mut values)) = self.next_batch(emptied) {
            bytes.clear();
            encode.encode(before, &values, &mut bytes);
            if let Err(error) = (&self.socket).write_all(&bytes) {
                return self.fail(&error.into());
            }
            values.clear();
            emptied = values;
        }
    }

    fn read(&self, answers: &mut dyn Answers) {
        loop {
            match answers.next() {
                Ok(acknowledged) => self.acknowledge(acknowledged),
                Err(error) => return self.fail(&error),
            }
        }
    }

    fn acknowledge(&self, to: u64) {
        let mut state = self.lock();
        state.acknowledged = to;
        while state.under_way.front().is_some_and(|end| *end <= to) {
            state.under_way.pop_front();
        }
        while let Some(entry) = state.watched.first_entry()
            && *entry.key() <= to
        {
            for watcher in entry.remove() {
                // Nobody may wait any more.
                let _ = watcher.send(());
            }
        }
        let goes_on = !state.waiting.is_empty() && state.under_way.len() < self.in_flight;
        if state.writer_waits && goes_on {
            state.writer_waits = false;
            self.work.notify_one();
        }
    }
}
