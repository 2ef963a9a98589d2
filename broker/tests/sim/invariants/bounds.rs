//! Log start <= watermark <= log end, and whatever else a replica says must always hold of it. What
//! it believes of its log is what is stored.

use crate::cluster::World;
use crate::observation::Observation;

pub fn check(world: &World, observation: &Observation) {
    let (Observation::Stepped(id, partition) | Observation::Opened(id, partition)) = observation
    else {
        return;
    };
    let broker = &world.brokers[id];
    let Some(driver) = broker.driver(partition) else {
        return;
    };
    let replica = driver.replica();
    let log = replica.log();
    assert!(
        log.start <= log.high_watermark && log.high_watermark <= log.end,
        "broker {id}, {partition}: a watermark outside the log"
    );
    replica.verify();
    let disk = broker.disk.lock();
    let stored = disk.logs.get(partition);
    assert_eq!(
        Some((log.start, log.end)),
        stored.map(|file| (file.start(), file.end())),
        "broker {id}, {partition}: what is stored is not what the replica believes"
    );
}
