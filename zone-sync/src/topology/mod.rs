//! The topology: the one file that declares zones, services, splits, failover and permissions.
//!
//! `raw` mirrors the file key by key, `model` is what the program reads, and the conversion between them reports every
//! error of the file in one run. This module reads no files and watches nothing; callers hand it the text.

mod model;

pub use model::*;
