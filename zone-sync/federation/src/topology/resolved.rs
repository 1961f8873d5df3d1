//! A topology as it is once its defaults are merged in, with the line that each value stands on: what a reader of a long file wants to see.

use std::{fmt::Write as _, rc::Rc};

use super::{
    Diagnostics, Surroundings,
    diagnostic::Sink,
    parse_among, read, read_root,
    tree::{MapEntry, Node, Value},
};

/// The text of the same topology without `defaults`: each service has all of its keys, each with the line that it comes from, and for one
/// that comes from `defaults` the entry.
///
/// # Errors
/// Everything that is wrong with the file.
pub fn resolved(text: &str, file_name: &str) -> Result<String, Diagnostics> {
    parse_among(text, file_name, Surroundings::default())?;
    let sink = Sink::default();
    let root = read_root(text, "a topology begins with `version: 1`", &sink);
    let written = root.map(|root| written(text, &root, &sink));
    written.ok_or_else(|| sink.finish(text, file_name))
}

fn written(text: &str, root: &Rc<Node>, sink: &Sink) -> String {
    let Value::Map(entries) = &root.value else {
        return String::new();
    };
    let lines = Lines::of(text);
    let defaults = entries.iter().find(|entry| entry.key == "defaults");
    let defaults = defaults.and_then(|entry| read::defaults(&entry.value, sink));
    let defaults = defaults.unwrap_or_default();
    let mut out = String::new();
    for entry in entries.iter().filter(|entry| entry.key != "defaults") {
        match (entry.key.as_str(), &entry.value.value) {
            ("services", Value::Map(services)) => {
                out.push_str("services:\n");
                for service in services {
                    let merged = read::merged(service, &defaults);
                    let source = |key: &str| {
                        let source = merged.sources.iter().find(|(known, _)| known == key);
                        source.map(|(_, number)| format!(", defaults[{number}]"))
                    };
                    block(&mut out, &merged.entry, &lines, source);
                }
            }
            ("zones", Value::Map(zones)) => {
                out.push_str("zones:\n");
                for zone in zones {
                    block(&mut out, zone, &lines, |_| None);
                }
            }
            _ => line(&mut out, "", entry, &lines, None),
        }
    }
    out
}

/// One service or zone, its keys a line each.
fn block(out: &mut String, entry: &MapEntry, lines: &Lines, source: impl Fn(&str) -> Option<String>) {
    let Value::Map(keys) = &entry.value.value else {
        return line(out, "  ", entry, lines, None);
    };
    let (key, at) = (scalar(&entry.key, false), lines.number(entry.key_span.start));
    // Writing to a string cannot fail, here and below.
    let _ = match keys.is_empty() {
        true => writeln!(out, "  {key}: {{}}  # line {at}"),
        false => writeln!(out, "  {key}:  # line {at}"),
    };
    for entry in keys {
        line(out, "    ", entry, lines, source(&entry.key));
    }
}

fn line(out: &mut String, indent: &str, entry: &MapEntry, lines: &Lines, source: Option<String>) {
    let (key, value) = (scalar(&entry.key, false), flow(&entry.value));
    let (at, source) = (lines.number(entry.key_span.start), source.unwrap_or_default());
    let _ = writeln!(out, "{indent}{key}: {value}  # line {at}{source}");
}

/// A value in one line.
pub(super) fn flow(node: &Node) -> String {
    match &node.value {
        Value::Null | Value::Broken => "~".to_owned(),
        Value::Text { text, plain } => scalar(text, *plain),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|item| flow(item)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(entries) => {
            let pair = |entry: &MapEntry| format!("{}: {}", scalar(&entry.key, false), flow(&entry.value));
            let pairs: Vec<String> = entries.iter().map(pair).collect();
            match pairs.is_empty() {
                true => "{}".to_owned(),
                false => format!("{{ {} }}", pairs.join(", ")),
            }
        }
    }
}

/// A word as it is, anything else in quotes. What was written without quotes and may be a number or a truth is a word.
pub(super) fn scalar(text: &str, plain: bool) -> String {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"_./%+-".contains(&byte);
    let begins = |text: &str| text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '/');
    let is_word = !text.is_empty() && text.bytes().all(is_word) && (plain || begins(text));
    match is_word && (plain || !may_be_other(text)) {
        true => text.to_owned(),
        false => serde_json::Value::from(text).to_string(),
    }
}

/// Tells whether the text means something else without its quotes.
fn may_be_other(text: &str) -> bool {
    let is_number = text.starts_with(|first: char| first.is_ascii_digit());
    is_number
        || matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off"
        )
}

/// Places at which lines begin, but for the first.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self(ends.map(|(at, _)| at + 1).collect())
    }

    /// Counts from 1.
    fn number(&self, at: usize) -> usize {
        self.0.partition_point(|begins| *begins <= at) + 1
    }
}
