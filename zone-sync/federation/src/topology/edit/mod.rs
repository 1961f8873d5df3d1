//! Edits of a topology's text that leave everything else of it as it stands, comments too.
//!
//! Each edit is made twice: in the text, and in what the text says. What comes out is compared with what was wanted, so a text that is
//! written in a way that this module does not understand is refused and never bent.

mod block;
mod confined;
mod drain;
mod shift;

use std::{fmt, ops::Range, rc::Rc};

pub use block::{MAX_BLOCKS, ServiceBlocks};
pub use confined::{MAX_OWN_BLOCK_BYTES, settled};
pub use drain::with_drain;
pub use shift::with_shift;

pub(super) use drain::drain_in_words;

use super::{
    Topology,
    diagnostic::Sink,
    parse,
    tree::{self, MapEntry, Node, Value},
};
use crate::name::{ServiceName, ZoneName};

/// Reason that a text is not edited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditError {
    /// It holds no topology.
    Unreadable,
    UnknownZone(ZoneName),
    UnknownService(ServiceName),
    /// It stands in the text in a way that only a person should change.
    ByHand(EditedKey),
}

/// A key that is edited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditedKey {
    /// `drain` of a zone.
    Drain(ZoneName),
    /// `shift` of a service.
    Shift(ServiceName),
    /// `split` of a service.
    Split(ServiceName),
    /// All of a service.
    Block(ServiceName),
}

impl EditedKey {
    /// The map that it stands in, and its name there.
    fn place(&self) -> Place<'_> {
        let (section, name, key) = match self {
            Self::Drain(zone) => ("zones", zone.as_str(), "drain"),
            Self::Shift(service) => ("services", service.as_str(), "shift"),
            Self::Split(service) => ("services", service.as_str(), "split"),
            Self::Block(service) => ("services", service.as_str(), ""),
        };
        Place { section, name, key }
    }
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_hand = "is written in a way that cannot be edited line by line";
        match self {
            Self::Unreadable => f.write_str("the text is no topology that this program can read"),
            Self::UnknownZone(zone) => write!(f, "the topology has no zone {zone}"),
            Self::UnknownService(service) => write!(f, "the topology has no service {service}"),
            Self::ByHand(EditedKey::Drain(zone)) => write!(f, "zone {zone} {by_hand}"),
            Self::ByHand(
                EditedKey::Shift(service) | EditedKey::Split(service) | EditedKey::Block(service),
            ) => write!(f, "service {service} {by_hand}"),
        }
    }
}

impl std::error::Error for EditError {}

impl EditError {
    /// The way out.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable => "`causeway get topology` shows it",
            Self::UnknownZone(_) => "`causeway get zones` lists them",
            Self::UnknownService(_) => "`causeway get services` lists them",
            Self::ByHand(EditedKey::Drain(_)) => {
                "write the key `drain` of that zone by hand, and `causeway apply` the file"
            }
            Self::ByHand(EditedKey::Shift(_) | EditedKey::Split(_) | EditedKey::Block(_)) => {
                "write the service out by itself, without an alias, and `causeway apply` the file"
            }
        }
    }
}

/// Place of a key: `zones`, `east`, `drain`.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    section: &'a str,
    name: &'a str,
    key: &'a str,
}

impl Place<'_> {
    /// The map of keys that the key is one of.
    fn body(&self, text: &str) -> Option<Rc<Node>> {
        let root = tree::parse(text, &Sink::default())?;
        let section = entry(&root, self.section)?;
        entry(&section.value, self.name).map(|found| found.value.clone())
    }
}

/// Gives the key this value, or takes it out. The text then says `wanted` and nothing else.
fn with_key(
    text: &str,
    key: &EditedKey,
    value: Option<&str>,
    wanted: &Topology,
) -> Result<String, EditError> {
    let place = key.place();
    let edited = || {
        let body = place.body(text)?;
        match (entry(&body, place.key), value) {
            (Some(found), Some(value)) => replaced(text, found, value),
            (Some(found), None) => without(text, found),
            (None, Some(value)) => inserted(text, &body, place.key, value),
            (None, None) => Some(text.to_owned()),
        }
    };
    checked(edited(), key, wanted)
}

/// Returns a text that says what is wanted; no other.
fn checked(edited: Option<String>, key: &EditedKey, wanted: &Topology) -> Result<String, EditError> {
    let by_hand = || EditError::ByHand(key.clone());
    let edited = edited.ok_or_else(by_hand)?;
    let read = parse(&edited, "").map_err(|_| by_hand())?;
    // All but the fingerprint, which is of the text.
    match super::diff(&read.topology, wanted).is_empty() {
        true => Ok(edited),
        false => Err(by_hand()),
    }
}

fn entry<'a>(node: &'a Node, key: &str) -> Option<&'a MapEntry> {
    match &node.value {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
        _ => None,
    }
}

/// Gives an entry another value, and leaves what stands beside it.
fn replaced(text: &str, entry: &MapEntry, value: &str) -> Option<String> {
    let Range { start, end } = entry.value.span;
    Some(format!("{}{value}{}", text.get(..start)?, text.get(end..)?))
}

/// Puts a key before the first one of a map.
fn inserted(text: &str, map: &Node, key: &str, value: &str) -> Option<String> {
    let Value::Map(entries) = &map.value else {
        return None;
    };
    let first = entries.first()?.key_span.start;
    let before = text.get(..first)?;
    let line = before.rfind('\n').map_or(0, |end| end + 1);
    // What stands before it on its line may be the dash of a list.
    let indent = " ".repeat(before.get(line..)?.chars().count());
    // A map in braces may stand over several lines, too.
    let inserted = match before.trim_end().ends_with('{') {
        true => format!("{key}: {value}, "),
        false => format!("{key}: {value}{}{indent}", line_end(text)),
    };
    Some(format!("{before}{inserted}{}", text.get(first..)?))
}

/// The end of a line, as the text has it.
fn line_end(text: &str) -> &'static str {
    let first = text.split_inclusive('\n').next().unwrap_or_default();
    if first.ends_with("\r\n") { "\r\n" } else { "\n" }
}

/// Takes an entry out: its line, where it has one for itself, or else its place between commas.
fn without(text: &str, entry: &MapEntry) -> Option<String> {
    let Range { start, .. } = entry.key_span;
    let Range { end, .. } = entry.value.span;
    let line = text.get(..start)?.rfind('\n').map_or(0, |end| end + 1);
    let rest = text.get(end..)?;
    let rest_of_line = rest.split('\n').next().unwrap_or_default();
    let is_own_line = text.get(line..start)?.trim().is_empty()
        && (rest_of_line.trim().is_empty() || rest_of_line.trim_start().starts_with('#'));
    let (from, to) = if is_own_line {
        (line, (end + rest_of_line.len() + 1).min(text.len()))
    } else if let Some(after) = rest.trim_start().strip_prefix(',') {
        (start, text.len() - after.trim_start_matches(' ').len())
    } else {
        let before = text.get(..start)?.trim_end().strip_suffix(',')?;
        (before.len(), end)
    };
    Some(format!("{}{}", text.get(..from)?, text.get(to..)?))
}
