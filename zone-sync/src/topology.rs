//! The topology, beside what is kept of it on disk.

pub mod applied;
