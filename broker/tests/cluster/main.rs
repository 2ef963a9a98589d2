//! Clusters of real processes: started, killed, frozen, and asked whether anything was lost.

mod failover;
mod harness;
mod hostile;
mod usage;
