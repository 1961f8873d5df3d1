//! Checks of what the parts of a file say about each other: names that exist, tiers that can be reached, addresses that fit.
//!
//! Errors are what cannot work; warnings are what works but does nothing, or not what it seems to say.
//!
//! Adding a check: a function over [`Context`] in the file of its subject, a code of its own, and a file under
//! `tests/invalid/` whose expected output stands beside it.

mod apply_from;
mod permissions;
mod ports;
mod promises;
mod references;
mod retries;
mod routes;
mod services;
mod shifts;
mod tiers;
mod trust_domains;
mod vips;
mod zones;

use std::collections::BTreeMap;

use super::{
    Surroundings,
    diagnostic::Sink,
    raw::{File, Service, Zone},
};
use crate::name::{ServiceName, ZoneName};

/// The file with the indexes that checks need, so that each stays linear in the size of the file.
pub(super) struct Context<'a> {
    pub file: &'a File,
    pub zones: BTreeMap<&'a ZoneName, &'a Zone>,
    pub services: BTreeMap<&'a ServiceName, &'a Service>,
    pub around: Surroundings<'a>,
    pub sink: &'a Sink,
}

pub(super) fn file(file: &File, around: Surroundings<'_>, sink: &Sink) {
    let context = Context {
        file,
        zones: file.zones.iter().map(|zone| (&zone.name.value, zone)).collect(),
        services: file
            .services
            .iter()
            .map(|service| (&service.name.value, service))
            .collect(),
        around,
        sink,
    };
    references::check(&context);
    trust_domains::check(&context);
    zones::check(&context);
    vips::check(&context);
    services::check(&context);
    shifts::check(&context);
    routes::check(&context);
    retries::check(&context);
    ports::check(&context);
    tiers::check(&context);
    permissions::check(&context);
    apply_from::check(&context);
    promises::check(&context);
}

/// The checks of a file that holds nothing but instances.
pub(super) fn instances(instances: &[super::raw::Instance], sink: &Sink) {
    zones::distinct(instances, sink);
}

/// `a`, `a and b`, `a, b and 7 more`: enough names to act on, never a screenful.
fn named(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match (names.len().saturating_sub(SHOWN), shown.as_slice()) {
        (0, [first @ .., last]) if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        (0, _) => shown.join(", "),
        (more, _) => format!("{} and {more} more", shown.join(", ")),
    }
}
