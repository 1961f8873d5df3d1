//! YAML text to a tree of nodes with their places, within limits.
//!
//! Scalars stay text: only the reader of a key knows whether `1.10` is a number or a version. This module knows YAML
//! and nothing of topologies. Aliases share nodes, and count as if they were written out, so no small file can expand
//! into a large one.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use granit_parser::{Event, Parser, ScalarStyle};

use super::diagnostic::{Diagnostic, Sink, Span};

/// Most nodes of one file, aliases counted as if they were written out.
pub(super) const MAX_NODES: usize = 1_000_000;
/// Deepest nesting; the format itself needs eight.
pub(super) const MAX_DEPTH: usize = 32;

#[derive(Debug)]
pub(super) struct Node {
    pub span: Span,
    pub value: Value,
    /// Nodes below and including this one.
    size: usize,
    /// Levels below and including this one.
    depth: usize,
}

#[derive(Debug)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Something that could not be read and has been reported; nothing more is said about it.
    Broken,
    Text {
        text: String,
        /// Written without quotes, so that it may be a number or a truth value.
        plain: bool,
    },
    List(Vec<Rc<Node>>),
    Map(Vec<MapEntry>),
}

#[derive(Debug, Clone)]
pub(super) struct MapEntry {
    pub key: String,
    pub key_span: Span,
    pub value: Rc<Node>,
}

/// The file's one document, or `None` when it cannot be read any further. Findings go to `sink`.
pub(super) fn parse(text: &str, sink: &Sink) -> Option<Rc<Node>> {
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut composer = Composer::new(text, sink);
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => composer.take(event, &span)?,
            Err(error) => {
                let at = error.marker().byte_offset().unwrap_or(0).min(text.len());
                let end = text[at..].chars().next().map_or(at, |next| at + next.len_utf8());
                let message = format!("this is not YAML: {}", error.info());
                let hint =
                    "look at this line and the one above: indentation, and brackets and quotes left open";
                sink.push(Diagnostic::error("yaml", &(at..end), message).hint(hint));
                return None;
            }
        }
    }
    composer.document
}

enum Frame {
    List {
        span: Span,
        anchor: usize,
        items: Vec<Rc<Node>>,
    },
    Map {
        span: Span,
        anchor: usize,
        entries: Vec<MapEntry>,
        /// First place of each key.
        keys: HashMap<String, Span>,
        pending: Option<Key>,
    },
}

/// A key whose value is still to come.
enum Key {
    Keep(String, Span),
    /// Already reported; its value is read and left out.
    Drop,
}

struct Composer<'a> {
    text: &'a str,
    sink: &'a Sink,
    frames: Vec<Frame>,
    anchors: BTreeMap<usize, Rc<Node>>,
    nodes: usize,
    documents: usize,
    document: Option<Rc<Node>>,
}

impl<'a> Composer<'a> {
    fn new(text: &'a str, sink: &'a Sink) -> Self {
        Self {
            text,
            sink,
            frames: Vec::new(),
            anchors: BTreeMap::new(),
            nodes: 0,
            documents: 0,
            document: None,
        }
    }

    fn refuse(&self, code: &'static str, span: &Span, message: impl Into<String>) {
        self.sink.push(Diagnostic::error(code, span, message));
    }

    /// `None`: the file is beyond reading.
    fn take(&mut self, event: Event<'_>, span: &granit_parser::Span) -> Option<()> {
        let tag_span = span.tag_span().and_then(|tag| tag.byte_range());
        let span = span.byte_range().unwrap_or(0..0);
        let tag_span = tag_span.unwrap_or_else(|| span.clone());
        match event {
            Event::DocumentStart(..) => return self.start_document(&span),
            Event::Scalar(value, style, anchor, tag) => {
                self.note_tag(tag.is_some(), &tag_span);
                let value = scalar(&value, style);
                return self.add(value, span, anchor);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.note_tag(tag.is_some(), &tag_span);
                let items = Vec::new();
                self.frames.push(Frame::List { span, anchor, items });
            }
            Event::MappingStart(_, anchor, tag) => {
                self.note_tag(tag.is_some(), &tag_span);
                self.frames.push(Frame::Map {
                    span,
                    anchor,
                    entries: Vec::new(),
                    keys: HashMap::new(),
                    pending: None,
                });
            }
            Event::SequenceEnd | Event::MappingEnd => return self.close(span.end),
            Event::Alias(anchor) => return self.alias(anchor, &span),
            Event::UnresolvedAlias(name) => {
                self.refuse(
                    "unknown-alias",
                    &span,
                    format!("nothing above is anchored as `&{name}`"),
                );
                return self.add(Value::Broken, span, 0);
            }
            _ => {}
        }
        Some(())
    }

    fn start_document(&mut self, span: &Span) -> Option<()> {
        self.documents += 1;
        if self.documents > 1 {
            let message = "a topology file holds one document, and here a second one begins";
            self.refuse("several-documents", span, message);
            return None;
        }
        Some(())
    }

    fn note_tag(&self, tagged: bool, span: &Span) {
        if tagged {
            self.sink.push(
                Diagnostic::error(
                    "yaml-tag",
                    span,
                    "YAML tags such as `!name` mean nothing in a topology",
                )
                .hint("remove the tag; put the value in quotes to have it read as text"),
            );
        }
    }

    fn add(&mut self, value: Value, span: Span, anchor: usize) -> Option<()> {
        let (size, depth) = match &value {
            Value::List(items) => measure(items.iter()),
            Value::Map(entries) => measure(entries.iter().map(|entry| &entry.value)),
            Value::Null | Value::Broken | Value::Text { .. } => (1, 1),
        };
        self.nodes += 1;
        let node = Rc::new(Node {
            span,
            value,
            size,
            depth,
        });
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.place(node)
    }

    fn alias(&mut self, anchor: usize, span: &Span) -> Option<()> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            self.refuse(
                "alias-loop",
                span,
                "this alias stands inside the very node that it names",
            );
            return self.add(Value::Broken, span.clone(), 0);
        };
        self.nodes = self.nodes.saturating_add(node.size);
        if node.depth + self.frames.len() > MAX_DEPTH {
            let message = format!("aliases nest deeper than {MAX_DEPTH} levels");
            self.refuse("too-large", span, message);
            return None;
        }
        self.place(node)
    }

    /// Puts a finished node where it belongs: a key or value of the open map, an item of the open list, or the root.
    fn place(&mut self, node: Rc<Node>) -> Option<()> {
        if self.nodes > MAX_NODES {
            let message = format!("the file has more than {MAX_NODES} values, aliases counted in full");
            self.refuse("too-large", &node.span, message);
            return None;
        }
        match self.frames.last_mut() {
            None => self.document = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map {
                entries,
                keys,
                pending,
                ..
            }) => match pending.take() {
                None => *pending = Some(key(&node, keys, self.sink)),
                Some(Key::Drop) => {}
                Some(Key::Keep(key, key_span)) => entries.push(MapEntry {
                    key,
                    key_span,
                    value: node,
                }),
            },
        }
        Some(())
    }

    fn close(&mut self, end: usize) -> Option<()> {
        let (value, mut span, anchor) = match self.frames.pop()? {
            Frame::List { span, anchor, items } => (Value::List(items), span, anchor),
            Frame::Map {
                span,
                anchor,
                entries,
                ..
            } => (Value::Map(entries), span, anchor),
        };
        // A block ends where the next one begins, with blank lines and comments in between.
        let written = self.text.get(span.start..end).unwrap_or_default();
        span.end = span.start + written.trim_end().len();
        self.add(value, span, anchor)
    }
}

impl Node {
    /// A map with these entries in the place of this one.
    pub(super) fn with_entries(&self, entries: Vec<MapEntry>) -> Self {
        let (size, depth) = measure(entries.iter().map(|entry| &entry.value));
        Self {
            span: self.span.clone(),
            value: Value::Map(entries),
            size,
            depth,
        }
    }
}

fn measure<'n>(children: impl Iterator<Item = &'n Rc<Node>>) -> (usize, usize) {
    children.fold((1, 1), |(size, depth), child| {
        (size.saturating_add(child.size), depth.max(child.depth + 1))
    })
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    let plain = style == ScalarStyle::Plain;
    if plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    Value::Text {
        text: text.to_owned(),
        plain,
    }
}

fn key(node: &Node, keys: &mut HashMap<String, Span>, sink: &Sink) -> Key {
    let Value::Text { text, plain } = &node.value else {
        sink.push(Diagnostic::error("bad-key", &node.span, "a key has to be a word"));
        return Key::Drop;
    };
    if *plain && text == "<<" {
        let message = "merge keys (`<<`) are not part of this format";
        let hint = "write the keys out, or use an alias for a whole value: `health: *probe`";
        sink.push(Diagnostic::error("merge-key", &node.span, message).hint(hint));
        return Key::Drop;
    }
    if let Some(first) = keys.get(text) {
        let message = format!("`{text}` is given twice");
        let found = Diagnostic::error("duplicate-key", &node.span, message)
            .label("given again here")
            .related(first, "first given here")
            .hint("keep one of the two");
        sink.push(found);
        return Key::Drop;
    }
    keys.insert(text.clone(), node.span.clone());
    Key::Keep(text.clone(), node.span.clone())
}
