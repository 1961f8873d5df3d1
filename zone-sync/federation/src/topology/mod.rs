//! The topology: the one file that declares zones, services, splits, failover and permissions.
//!
//! The way from text to [`Topology`]: `tree` (YAML with places) -> `read` (every key and type, into `raw`) -> `check`
//! (what parts of the file say about each other) -> `resolve` (the model). Each step goes on after an error, so one run
//! reports them all. This module reads no files and watches nothing; callers hand it the text.

pub mod applied;
mod capacity_rule;
mod check;
mod diagnostic;
mod diff;
mod edit;
mod fields;
mod model;
mod permissions;
mod policy_words;
mod ports;
mod promises;
mod raw;
mod read;
mod render;
mod resolve;
mod resolved;
mod retry;
mod routes;
mod routes_in_words;
mod scalar;
mod schema;
mod shift;
mod shift_words;
mod steering;
mod sticky;
mod touches;
mod tree;

pub use capacity_rule::CapacityRule;
pub use diagnostic::{Diagnostic, Diagnostics, MAX_DIAGNOSTICS, Severity};
pub use diff::{ChangeKind, Diff, TopologyChange, diff};
pub use edit::{EditError, MAX_BLOCKS, MAX_OWN_BLOCK_BYTES, ServiceBlocks, settled, with_drain, with_shift};
pub use model::*;
pub use permissions::{
    CallerSelector, CallerView, DefaultPermission, IdentitySelector, PermissionEntry, Permissions, Who,
};
pub use ports::{ServicePort, ServicePorts};
pub use promises::{Promise, PromisedLoss, PromisedRest};
pub use render::Style;
pub use resolved::resolved;
pub use retry::{GrpcCode, IDEMPOTENT_METHODS, Retry, RetryCondition};
pub use routes::*;
pub use schema::schema;
pub use shift::*;
pub use shift_words::shift_reason;
pub use sticky::Sticky;
pub use touches::{BeyondRights, ChangeableParts, TouchedParts, touches};

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use diagnostic::Sink;
use shift::under_shift;

use crate::name::{ServiceName, Tags};

/// Largest topology file, in bytes.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;

/// A topology that holds, and what its author should know about it all the same.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Parsed {
    pub topology: Topology,
    /// Warnings only.
    pub warnings: Diagnostics,
}

/// Reads a topology; `file_name` is only shown in findings.
///
/// # Errors
/// Everything that is wrong with the file, in one run, warnings included.
pub fn parse(text: &str, file_name: &str) -> Result<Parsed, Diagnostics> {
    parse_among(text, file_name, Surroundings::default())
}

/// Sets of tags that instances carry which are in no file, by service: those that are registered, here and in other zones.
pub type CarriedTags = BTreeMap<ServiceName, BTreeSet<Tags>>;

/// Facts that are in no topology file, and that decide what is to be said about one. Without any, nothing is said of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings<'a> {
    /// Tags of instances that are in no file; `None`: nothing is known of such.
    pub registered: Option<&'a CarriedTags>,
    /// Lowest port that a gateway may listen on here.
    pub lowest_port: u16,
}

/// As [`parse`], with what is known besides the file.
///
/// # Errors
/// As [`parse`].
pub fn parse_among(text: &str, file_name: &str, around: Surroundings<'_>) -> Result<Parsed, Diagnostics> {
    let sink = Sink::default();
    let file = read_text(text, around, &sink);
    let findings = sink.finish(text, file_name);
    match file.and_then(|file| resolve::topology(file, text)) {
        Some(topology) if findings.errors() == 0 => Ok(Parsed {
            topology,
            warnings: findings,
        }),
        _ => Err(findings),
    }
}

/// Reads a file that holds instances alone, written as in a topology; `file_name` is only shown in findings. Whether
/// their services are declared is not looked at.
///
/// # Errors
/// Everything that is wrong with the file, in one run.
pub fn parse_instances(text: &str, file_name: &str) -> Result<Vec<FixedInstance>, Diagnostics> {
    let sink = Sink::default();
    let read = read_root(text, "a file of instances begins with `instances:`", &sink);
    let read = read.and_then(|root| read::instance_file(&root, &sink));
    if let Some(instances) = &read {
        check::instances(instances, &sink);
    }
    let findings = sink.finish(text, file_name);
    let instances = read.and_then(|instances| instances.into_iter().map(resolve::instance).collect());
    match instances {
        Some(instances) if findings.errors() == 0 => Ok(instances),
        _ => Err(findings),
    }
}

fn read_text(text: &str, around: Surroundings<'_>, sink: &Sink) -> Option<raw::File> {
    let root = read_root(text, "a topology begins with `version: 1`", sink)?;
    let file = read::file(&root, sink)?;
    check::file(&file, around, sink);
    Some(file)
}

fn read_root(text: &str, beginning: &str, sink: &Sink) -> Option<Rc<tree::Node>> {
    if text.len() > MAX_FILE_BYTES {
        let message = format!(
            "the file has {} bytes; at most {MAX_FILE_BYTES} are allowed",
            text.len()
        );
        sink.push(Diagnostic::error("too-large", &(0..0), message));
        return None;
    }
    let root = tree::parse(text, sink);
    if root.is_none() && sink.is_empty() {
        sink.push(Diagnostic::error("empty-file", &(0..0), "the file is empty").hint(beginning));
    }
    root
}
