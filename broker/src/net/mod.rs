//! Sockets: listening, reading frames, writing frames. Knows nothing of what the frames mean.

pub mod connection;
pub mod listener;
