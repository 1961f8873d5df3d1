//! Spreads and keeps what a federation knows: the replica, the gRPC service around it, the stores, etcd.
//!
//! The values themselves and the rules over them are `causeway-federation`'s. [`replica`] is a state machine without I/O
//! and without a clock; [`service`], [`store`] and the other stores are thin shells. Nothing here carries application
//! traffic: that is the gateway's.

#![warn(unreachable_pub)]

pub mod registry;
pub mod replica;
pub mod service;
pub mod store;
pub mod topology;
pub mod trust;
