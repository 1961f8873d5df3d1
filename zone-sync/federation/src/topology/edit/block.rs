//! Blocks of services: a text that holds these alone (`services: { orders: … }`), and the text of a topology into which they are put.

use std::{ops::Range, rc::Rc};

use super::{EditError, EditedKey, entry, inserted, line_end};
use crate::{
    name::ServiceName,
    topology::{
        Diagnostics,
        diagnostic::{Diagnostic, Sink},
        resolved::flow,
        tree::{self, MapEntry, Node, Value},
    },
};

/// Most blocks of one text. Each is put in by itself, for which all of a long topology is read; whoever changes more hands in the whole file.
pub const MAX_BLOCKS: usize = 16;
/// The only key of a text of blocks.
const SERVICES: &str = "services";

/// A text that holds blocks of services, and nothing else.
#[derive(Debug)]
pub struct ServiceBlocks<'t> {
    text: &'t str,
    entries: Vec<(ServiceName, MapEntry)>,
}

impl<'t> ServiceBlocks<'t> {
    /// Reads a text whose only key is `services`; `None`: it is a whole topology, or nothing of the kind.
    ///
    /// # Errors
    /// What is wrong with the blocks, as far as that shows without the topology that they belong to.
    pub fn read(text: &'t str, file_name: &str) -> Result<Option<Self>, Diagnostics> {
        let sink = Sink::default();
        let root = tree::parse(text, &sink);
        let entries = match root.as_deref().map(|root| &root.value) {
            Some(Value::Map(entries)) => entries.as_slice(),
            _ => return Ok(None),
        };
        let [services] = entries else { return Ok(None) };
        if services.key != SERVICES {
            return Ok(None);
        }
        let blocks = read(&services.value, &sink);
        let findings = sink.finish(text, file_name);
        match findings.errors() {
            0 => Ok(Some(Self {
                text,
                entries: blocks,
            })),
            _ => Err(findings),
        }
    }

    /// Takes the blocks of these services out of the text of a whole topology. Those that it does not hold are left out.
    pub(super) fn of(text: &'t str, services: impl IntoIterator<Item = ServiceName>) -> Self {
        let root = tree::parse(text, &Sink::default());
        let known = root.and_then(|root| Some(entry(&root, SERVICES)?.value.clone()));
        let entries = services.into_iter().filter_map(|name| {
            let found = entry(known.as_ref()?, name.as_str())?.clone();
            Some((name, found))
        });
        Self {
            entries: entries.collect(),
            text,
        }
    }

    /// Names of the services.
    pub fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.entries.iter().map(|(name, _)| name)
    }

    /// Length of the longest block in bytes.
    pub(super) fn longest(&self) -> usize {
        let lengths = self.entries.iter().map(|(_, block)| written(self.text, block));
        lengths.map(|range| range.len()).max().unwrap_or_default()
    }

    /// Puts the blocks into the text of a topology, in the place of those of the same names.
    ///
    /// # Errors
    /// When the way in which the text is written does not allow it. Whatever is returned says what `text` says but for these blocks.
    pub fn put_into(&self, text: &str) -> Result<String, EditError> {
        self.entries
            .iter()
            .try_fold(text.to_owned(), |text, (name, block)| {
                let by_hand = || EditError::ByHand(EditedKey::Block(name.clone()));
                let root = tree::parse(&text, &Sink::default()).ok_or(EditError::Unreadable)?;
                let edited = [Form::AsWritten, Form::InOneLine].into_iter().find_map(|form| {
                    let edited = put(&text, &root, (self.text, block), form)?;
                    says(&edited, &root, block).then_some(edited)
                });
                edited.ok_or_else(by_hand)
            })
    }
}

fn read(services: &Node, sink: &Sink) -> Vec<(ServiceName, MapEntry)> {
    let refuse =
        |span: &Range<usize>, message: &str| {
            let found = Diagnostic::error("bad-block", span, message);
            sink.push(found.hint(
                "for example `services: { orders: { port: 8080, split: [{ tags: { version: v1 } }] } }`",
            ));
        };
    let Value::Map(entries) = &services.value else {
        refuse(&services.span, "blocks of services are a map of their names");
        return Vec::new();
    };
    if entries.is_empty() || entries.len() > MAX_BLOCKS {
        let message =
            format!("a file of blocks holds 1 to {MAX_BLOCKS} services; hand in the whole topology for more");
        refuse(&services.span, &message);
        return Vec::new();
    }
    let one = |entry: &MapEntry| {
        let Ok(name) = ServiceName::new(&entry.key) else {
            refuse(&entry.key_span, "this is no name that a service can have");
            return None;
        };
        match &entry.value.value {
            Value::Map(_) => Some((name, entry.clone())),
            _ => {
                refuse(&entry.key_span, "the block of a service is a map of its keys");
                None
            }
        }
    };
    entries.iter().filter_map(one).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As it is written, comments too.
    AsWritten,
    /// In braces, and without comments.
    InOneLine,
}

/// Puts one block in; `None`: it cannot be done in this form.
fn put(text: &str, root: &Node, (from, block): (&str, &MapEntry), form: Form) -> Option<String> {
    let Some(services) = entry(root, SERVICES) else {
        let end = if text.ends_with('\n') { "" } else { line_end(text) };
        let body = body((from, block), form, "  ", line_end(text));
        return Some(format!("{text}{end}services:{}  {body}", line_end(text)));
    };
    let Value::Map(entries) = &services.value.value else {
        return None;
    };
    let in_braces = is_in_braces(text, &services.value);
    match (entry(&services.value, &block.key), in_braces) {
        (Some(found), true) => {
            let Range { start, end } = found.value.span;
            // Not where an alias stands, whose node is elsewhere.
            (start > found.key_span.end).then_some(())?;
            Some(format!(
                "{}{}{}",
                text.get(..start)?,
                flow(&block.value),
                text.get(end..)?
            ))
        }
        (None, true) => inserted(text, &services.value, &block.key, &flow(&block.value)),
        (Some(found), false) => {
            let Range { start, end } = written(text, found);
            let body = body((from, block), form, indent(text, start), line_end(text));
            Some(format!("{}{body}{}", text.get(..start)?, text.get(end..)?))
        }
        (None, false) => {
            let last = entries.last()?;
            let Range { start, end } = written(text, last);
            let indent = indent(text, start);
            let body = body((from, block), form, indent, line_end(text));
            let line_end = line_end(text);
            Some(format!(
                "{}{line_end}{indent}{body}{}",
                text.get(..end)?,
                text.get(end..)?
            ))
        }
    }
}

fn is_in_braces(text: &str, node: &Node) -> bool {
    text.get(node.span.start..)
        .is_some_and(|rest| rest.starts_with('{'))
}

/// Spaces before `at` on its line.
fn indent(text: &str, at: usize) -> &str {
    let before = text.get(..at).unwrap_or_default();
    let line = before.rfind('\n').map_or(0, |end| end + 1);
    before.get(line..).unwrap_or_default()
}

/// Place of an entry of a map that is not in braces: from its key to the end of its last line, with comments that are further in than the key.
fn written(text: &str, entry: &MapEntry) -> Range<usize> {
    let (start, value) = (entry.key_span.start, &entry.value);
    if value.span.start > start && is_in_braces(text, value) {
        return start..end_of_line(text, value.span.end);
    }
    let inner = |line: &str| line.len() - line.trim_start_matches(' ').len() > indent(text, start).len();
    let mut end = end_of_line(text, entry.key_span.end);
    let rest = text.get(end..).unwrap_or_default();
    let mut at = end + rest.find('\n').map_or(rest.len(), |at| at + 1);
    for line in text.get(at..).unwrap_or_default().split_inclusive('\n') {
        let content = line.trim_end();
        if !content.is_empty() && !inner(content) {
            break;
        }
        if !content.is_empty() {
            end = at + content.len();
        }
        at += line.len();
    }
    start..end
}

/// End of the rest of a line, if that is blank or a comment; else the place itself.
fn end_of_line(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    let rest = rest.split('\n').next().unwrap_or_default().trim_end();
    at + rest.len()
}

/// Key and value of a block, each line but the first with the indent of the place that it comes to.
fn body((from, block): (&str, &MapEntry), form: Form, indent_there: &str, line_end: &str) -> String {
    let range = written(from, block);
    let in_one_line = form == Form::InOneLine || block.value.span.start < block.key_span.end;
    if in_one_line {
        return format!("{}: {}", block.key, flow(&block.value));
    }
    let slice = match is_in_braces(from, &block.value) {
        // What follows on its line may be the brace around all blocks.
        true => from.get(range.start..block.value.span.end),
        false => from.get(range.clone()),
    };
    let indent_here = indent(from, range.start).len();
    let mut lines = slice.unwrap_or_default().lines();
    let mut body = lines.next().unwrap_or_default().trim_end().to_owned();
    for line in lines {
        let spaces = line.len() - line.trim_start_matches(' ').len();
        let rest = line.get(spaces.min(indent_here)..).unwrap_or_default().trim_end();
        body.push_str(line_end);
        if !rest.is_empty() {
            body.push_str(indent_there);
            body.push_str(rest);
        }
    }
    body
}

/// Tells whether a text says what another said, but for one block, which it has as it was handed in.
fn says(edited: &str, before: &Node, block: &MapEntry) -> bool {
    let sink = Sink::default();
    let Some(after) = tree::parse(edited, &sink) else {
        return false;
    };
    if !sink.is_empty() {
        return false;
    }
    let same = |key: &str, one: &Node, other: &Node| match entry(other, key) {
        Some(other) => entry(one, key).is_some_and(|one| is_same(&one.value, &other.value)),
        None => entry(one, key).is_none(),
    };
    let keys = |node: &Node| match &node.value {
        Value::Map(entries) => entries.iter().map(|entry| entry.key.clone()).collect(),
        _ => Vec::new(),
    };
    let others = keys(before).into_iter().chain(keys(&after));
    if !others
        .filter(|key| key != SERVICES)
        .all(|key| same(&key, before, &after))
    {
        return false;
    }
    let Some(now) = entry(&after, SERVICES).map(|entry| entry.value.clone()) else {
        return false;
    };
    let none = Rc::new(before.with_entries(Vec::new()));
    let was = entry(before, SERVICES).map_or(none, |entry| entry.value.clone());
    let others = keys(&was).into_iter().chain(keys(&now));
    others
        .filter(|key| *key != block.key)
        .all(|key| same(&key, &was, &now))
        && entry(&now, &block.key).is_some_and(|now| is_same(&now.value, &block.value))
}

/// Tells whether two nodes say the same, wherever they stand.
pub(super) fn is_same(one: &Node, other: &Node) -> bool {
    match (&one.value, &other.value) {
        (Value::Null, Value::Null) => true,
        (
            Value::Text { text, plain },
            Value::Text {
                text: other,
                plain: is_plain,
            },
        ) => {
            // Whether it stands in quotes matters only to what may be something else without them.
            text == other && (plain == is_plain || !may_be_other(text))
        }
        (Value::List(one), Value::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Map(one), Value::Map(other)) => {
            let pairs = one.iter().zip(other);
            one.len() == other.len()
                && pairs
                    .into_iter()
                    .all(|(one, other)| one.key == other.key && is_same(&one.value, &other.value))
        }
        _ => false,
    }
}

/// Tells whether quotes may matter.
fn may_be_other(text: &str) -> bool {
    !text
        .bytes()
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'/')
        || matches!(text, "true" | "false" | "null" | "yes" | "no" | "on" | "off")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::parse;

    const TEXT: &str = "\
version: 1
trust_domain: acme.internal
zones:
  east: { gateways: [gw.east:7800] }
services:
  # The shop.
  orders:   # the first
    port: 80
    # Old ones.
    split: [{ tags: { version: v1 }, weight: 95 }]

  # What is booked.
  ledger: { port: 81 }
  web:
    port: 82
    # The last word.
# The end.
";

    fn put(blocks: &str, text: &str) -> Result<String, EditError> {
        let blocks = ServiceBlocks::read(blocks, "orders.yaml").unwrap().unwrap();
        let edited = blocks.put_into(text)?;
        parse(&edited, "").unwrap_or_else(|findings| panic!("{edited}\n{findings:?}"));
        Ok(edited)
    }

    #[test]
    fn a_block_takes_the_place_of_the_one_before_and_leaves_all_else_as_it_stands() {
        let block = "\
services:
    orders:
        port: 80     # as ever
        split:
            # Half and half.
            - { tags: { version: v1 }, weight: 50 }
            - { tags: { version: v2 }, weight: 50 }
        # So much for it.
# Not part of it.
";
        let edited = put(block, TEXT).unwrap();
        let expected = TEXT.replace(
            "  orders:   # the first\n    port: 80\n    # Old ones.\n    split: [{ tags: { version: v1 }, weight: 95 }]\n",
            "  orders:\n      port: 80     # as ever\n      split:\n          # Half and half.\n          - { tags: { version: v1 }, weight: 50 }\n          - { tags: { version: v2 }, weight: 50 }\n      # So much for it.\n",
        );
        assert_eq!(edited, expected);
        assert_eq!(put(block, &edited).unwrap(), edited, "again, it changes nothing");
    }

    #[test]
    fn blocks_in_braces_and_blocks_in_lines_go_into_each_other() {
        let braces = "services: { ledger: { port: 81, early: true }, web: { port: 82 } }";
        let edited = put(braces, TEXT).unwrap();
        assert!(
            edited.contains(
                "  # What is booked.\n  ledger: { port: 81, early: true }\n  web: { port: 82 }\n# The end.\n"
            ),
            "{edited}"
        );
        let lines = "services:\n  ledger:\n    port: 81   # the port\n    early: true\n";
        let edited = put(lines, TEXT).unwrap();
        assert!(
            edited.contains("  ledger:\n    port: 81   # the port\n    early: true\n  web:\n"),
            "{edited}"
        );
        let flat = "version: 1\ntrust_domain: a.b\nzones: { east: { gateways: [] } }\nservices: { ledger: { port: 81 }, web: { port: 82 } } # all\n";
        let edited = put(lines, flat).unwrap();
        assert!(
            edited.ends_with("services: { ledger: { port: 81, early: true }, web: { port: 82 } } # all\n"),
            "{edited}"
        );
        let several = "services:\n  ledger: {\n    port: 81,\n    early: true\n  }\n";
        assert!(put(several, TEXT).unwrap().contains("early: true"));
    }

    #[test]
    fn a_service_that_was_not_there_comes_after_the_last_one() {
        let block = "services:\n  carts:\n    port: 83   # new\n";
        let edited = put(block, TEXT).unwrap();
        assert!(
            edited.ends_with("    # The last word.\n  carts:\n    port: 83   # new\n# The end.\n"),
            "{edited}"
        );
        let none = "version: 1\ntrust_domain: a.b\nzones: { east: { gateways: [] } }";
        assert_eq!(
            put(block, none).unwrap(),
            format!("{none}\nservices:\n  carts:\n    port: 83   # new")
        );
        let flat = format!("{none}\nservices: {{ web: {{ port: 82 }} }}\n");
        assert!(
            put(block, &flat).unwrap().contains("{ carts: { port: 83 }, web:"),
            "{flat}"
        );
    }

    #[test]
    fn ends_of_lines_are_those_of_the_text() {
        let of_windows = TEXT.replace('\n', "\r\n");
        let edited = put(
            "services:\n  orders:\n    port: 80\n    early: true\n",
            &of_windows,
        )
        .unwrap();
        assert!(
            edited.contains("  orders:\r\n    port: 80\r\n    early: true\r\n\r\n  # What"),
            "{edited:?}"
        );
        assert_eq!(edited.matches('\n').count(), edited.matches("\r\n").count());
    }

    #[test]
    fn an_anchor_that_others_lean_on_is_left_to_a_person() {
        let shared = TEXT.replace("ledger: { port: 81 }", "ledger: &all { port: 81 }\n  copy: *all");
        let block = "services: { ledger: { port: 81, early: true } }";
        let ledger = ServiceName::new("ledger").unwrap();
        let refused = Err(EditError::ByHand(EditedKey::Block(ledger)));
        assert_eq!(put(block, &shared), refused);
        // Nor does an alias of the handed text mean what happens to be anchored so in the other.
        let named = TEXT.replace("{ port: 81 }", "&all { port: 81 }");
        let alias = "services:\n  orders: &all { port: 80 }\n  web: *all\n";
        let edited = put(alias, &named).unwrap();
        assert!(edited.contains("  web: { port: 80 }\n"), "{edited}");
    }

    #[test]
    fn only_a_text_of_nothing_but_services_is_one_of_blocks() {
        let read = |text| ServiceBlocks::read(text, "orders.yaml");
        for text in [TEXT, "", "services: {}\nversion: 1\n", "zones: {}", "- a"] {
            assert!(read(text).unwrap().is_none(), "{text}");
        }
        for (text, word) in [
            ("services: {}", "1 to 16"),
            ("services: [orders]", "a map of their names"),
            ("services: { orders: 80 }", "a map of its keys"),
            ("services: { No: { port: 80 } }", "no name"),
            (
                "services:\n  orders: { port: 80 }\n  orders: { port: 81 }\n",
                "given twice",
            ),
        ] {
            let findings = read(text).unwrap_err();
            assert!(format!("{findings:?}").contains(word), "{findings:?}");
        }
    }
}
