//! The clock of the replicas: one timer for all of a worker's. Where nothing is under way time has
//! nothing to do, and a replica is told of it now and then only: thousands of idle ones cost next to
//! nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::actors::messages::TimePassed;
use crate::actors::routes::Routes;
use crate::actors::workers::Workers;

/// How often a replica with something under way is told that time passes.
const TICK: Duration = Duration::from_millis(50);

/// A replica at rest is told once in so many rounds, not all in the same one.
const REST_TICKS: u32 = 20;

/// Starts the timers; they run as long as the workers do.
pub fn start(workers: &Workers, routes: &Routes) {
    for worker in workers.iter() {
        let (lane, routes) = (worker.lane, routes.clone());
        worker
            .arbiter
            .spawn(async move { keep(lane, routes).await });
    }
}

async fn keep(lane: u32, routes: Routes) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round = 0u32;
    loop {
        tick.tick().await;
        round = round.wrapping_add(1);
        routes.for_each(|partition, hosted| {
            if hosted.lane != lane {
                return;
            }
            let turn = round.wrapping_add(partition.partition.0);
            if hosted.told.awake.load(Ordering::Relaxed) || turn.is_multiple_of(REST_TICKS) {
                hosted.actor.do_send(TimePassed);
            }
        });
    }
}
