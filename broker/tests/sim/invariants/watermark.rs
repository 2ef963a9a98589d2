//! A replica's watermark never moves back while its process lives, and covers nothing that no leader
//! committed.

use std::collections::BTreeMap;

use baton_protocol::ids::{BrokerId, Offset, TopicPartition};

use crate::cluster::World;
use crate::observation::Observation;
use crate::schedule::Run;

#[derive(Default)]
pub struct Watermark {
    last: BTreeMap<(BrokerId, TopicPartition), (Run, Offset)>,
}

impl Watermark {
    pub fn check(&mut self, world: &World, observation: &Observation) {
        let (Observation::Stepped(id, partition) | Observation::HighWatermark(id, partition, _)) =
            observation
        else {
            return;
        };
        let broker = &world.brokers[id];
        let Some(driver) = broker.driver(partition) else {
            return;
        };
        let log = driver.replica().log();
        let now = (broker.run, log.high_watermark);
        let before = self.last.insert((*id, *partition), now);
        if let Some((run, high_watermark)) = before
            && run == broker.run
        {
            let committed = world.oracle.committed(partition);
            let last = high_watermark.0.checked_sub(1).map(Offset);
            let given_up = committed
                .zip(last)
                .is_some_and(|(log, last)| log.is_given_up(last));
            assert!(
                log.high_watermark >= high_watermark || given_up || world.may_start_over(partition),
                "broker {id}, {partition}: the watermark moved back"
            );
        }
        if !matches!(observation, Observation::HighWatermark(..)) {
            return;
        }
        let committed = world.oracle.committed(partition);
        let Some(committed) = committed else {
            return;
        };
        // Who does not know yet that an election gave something up, may still go on with it.
        // What a deposed leader of an asynchronous partition commits is given up, but not at once.
        let record = world.controller.committed.partition(partition);
        if record.is_some_and(|record| record.sync_followers_elect == 0) {
            return;
        }
        let leading = driver.replica().leading();
        let cut_off = leading.is_some_and(|epoch| !world.is_promised_in(partition, epoch));
        if cut_off || committed.is_given_up(Offset(log.high_watermark.0.saturating_sub(1))) {
            return;
        }
        assert!(
            log.high_watermark <= committed.end
                && log.epochs.before(log.high_watermark)
                    == committed.epochs.before(log.high_watermark),
            "broker {id}, {partition}: a watermark over what was never committed"
        );
    }
}
