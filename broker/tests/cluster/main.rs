//! Clusters of real processes: started, killed, frozen, and asked whether anything was lost.

mod alone;
mod client;
mod compaction;
mod consumers;
mod damage;
mod examples;
mod failover;
mod groups;
mod harness;
mod health;
mod hostile;
mod inspect;
mod retention;
mod timestamps;
mod topics;
mod usage;
mod usage_lines;
mod usage_outage;
