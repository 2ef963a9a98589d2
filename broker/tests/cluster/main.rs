//! Clusters of real processes: started, killed, frozen, and asked whether anything was lost.

mod damage;
mod failover;
mod harness;
mod health;
mod hostile;
mod topics;
mod usage;
