//! The ground of the end-to-end tests: real gateway processes, an emulated link, instances that record, and load.
//!
//! Nothing here reaches into a gateway: a federation is driven as an operator drives it, by its files, its command line,
//! its admin API and its sockets.

pub mod address;
pub mod authority;
pub mod ca;
pub mod chaos;
pub mod dns;
pub mod etcd;
pub mod federation;
pub mod held_link;
pub mod hostile;
pub mod http;
pub mod instance;
pub mod link;
pub mod load;
pub mod matrix;
pub mod measured;
pub mod metrics;
pub mod pace;
pub mod peer;
pub mod process;
pub mod shared_zone;
pub mod simulation;
pub mod talk;
pub mod verdict;
pub mod wait;
pub mod waits;
pub mod workload_api;
pub mod zone_sync;
