//! Reading maps and lists of the tree: known keys, required keys, limits, and a finding for everything else.
//!
//! What a scalar may be is decided in `scalar`.

use std::rc::Rc;

use super::{
    diagnostic::{Diagnostic, Sink, Span},
    tree::{MapEntry, Node, Value},
};

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

impl<T> Spanned<T> {
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned {
            value: change(self.value),
            span: self.span,
        }
    }
}

/// The items of a list that could be read.
#[derive(Debug, Clone)]
pub(super) struct Listed<T> {
    pub items: Vec<T>,
    pub span: Span,
    /// Tells whether that is all of them, so that something may be concluded from what is not there.
    pub complete: bool,
}

/// One kind of map in the file, and the keys it may have.
pub(super) struct MapKind {
    /// With its article, for messages: `a zone`.
    pub what: &'static str,
    pub keys: &'static [&'static str],
    /// Words that people write for one of the keys, each with what to write.
    pub meant: &'static [(&'static str, &'static str)],
}

/// An open map.
pub(super) struct Fields<'a> {
    at: Span,
    kind: &'static MapKind,
    entries: &'a [MapEntry],
    /// Known keys that unknown ones were probably meant to be; `None` for a stray without a suggestion.
    strays: Vec<Option<String>>,
    sink: &'a Sink,
}

impl<'a> Fields<'a> {
    /// Opens the map at `node`, and reports the keys that do not belong there. `at` is what missing keys are reported at.
    pub(super) fn open(node: &'a Node, at: &Span, kind: &'static MapKind, sink: &'a Sink) -> Option<Self> {
        let entries = map(node, at, kind.what, sink)?;
        let mut strays = Vec::new();
        for entry in entries
            .iter()
            .filter(|entry| !kind.keys.contains(&entry.key.as_str()))
        {
            let found = unknown_key(entry, kind, sink);
            strays.push(found.did_you_mean.clone());
            sink.push(found);
        }
        Some(Self {
            strays,
            at: at.clone(),
            kind,
            entries,
            sink,
        })
    }

    /// The same map, of which what is read is told of elsewhere.
    pub(super) fn reporting_to(self, sink: &'a Sink) -> Self {
        Self { sink, ..self }
    }

    fn entry(&self, key: &str) -> Option<&'a MapEntry> {
        debug_assert!(
            self.kind.keys.contains(&key),
            "{key} is not a key of {}",
            self.kind.what
        );
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Tells of something that is wrong with the map.
    pub(super) fn report(&self, found: Diagnostic) {
        self.sink.push(found);
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Tells whether the map has keys that do not belong there, which may explain what it lacks.
    pub(super) fn has_strays(&self) -> bool {
        !self.strays.is_empty()
    }

    pub(super) fn key_span(&self, key: &str) -> Option<Span> {
        self.entry(key).map(|entry| entry.key_span.clone())
    }

    pub(super) fn optional<T>(
        &self,
        key: &str,
        read: impl FnOnce(&'a Node, &'a Sink) -> Option<T>,
    ) -> Option<T> {
        let entry = self.entry(key)?;
        if matches!(entry.value.value, Value::Broken) {
            return None;
        }
        if matches!(entry.value.value, Value::Null) {
            let message = format!("`{key}` has no value");
            let hint = "give it a value or remove the line";
            self.sink
                .push(Diagnostic::error("no-value", &entry.key_span, message).hint(hint));
            return None;
        }
        read(&entry.value, self.sink)
    }

    pub(super) fn required<T>(
        &self,
        key: &str,
        read: impl FnOnce(&'a Node, &'a Sink) -> Option<T>,
    ) -> Option<T> {
        if self.entry(key).is_none() {
            self.missing(key, "");
            return None;
        }
        self.optional(key, read)
    }

    /// Reports that `key` has to be there, unless a misspelled one has been reported; `hint` may be empty.
    pub(super) fn missing(&self, key: &str, hint: &str) {
        if self.strays.iter().flatten().any(|meant| meant == key) {
            return;
        }
        let message = format!("{} needs the key `{key}`", self.kind.what);
        let mut found = Diagnostic::error("missing-key", &self.at, message);
        found.hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.sink.push(found);
    }
}

fn unknown_key(entry: &MapEntry, kind: &MapKind, sink: &Sink) -> Diagnostic {
    let message = format!("`{}` is not a key of {}", entry.key, kind.what);
    let meant = kind.meant.iter().find(|(word, _)| *word == entry.key);
    let nearest = match meant {
        Some(_) => None,
        None => sink.nearest(&entry.key, kind.keys.iter().copied()),
    };
    let hint = match meant {
        Some((_, hint)) => (*hint).to_owned(),
        None => format!("it may have: {}", kind.keys.join(", ")),
    };
    Diagnostic::error("unknown-key", &entry.key_span, message)
        .label("unknown key")
        .hint(hint)
        .did_you_mean(nearest)
}

/// The entries of a map whose keys are names that the file chooses.
pub(super) fn map<'a>(node: &'a Node, at: &Span, what: &str, sink: &Sink) -> Option<&'a [MapEntry]> {
    match &node.value {
        Value::Map(entries) => Some(entries),
        _ => {
            wrong_type(node, at, &format!("{what} is a map of keys and values"), "", sink);
            None
        }
    }
}

/// At most `limit` items; more are reported once and left out.
pub(super) fn list<'a>(node: &'a Node, what: &str, limit: usize, sink: &Sink) -> Option<&'a [Rc<Node>]> {
    let Value::List(items) = &node.value else {
        let hint = "write `[a, b]`, or one line with `- ` for each item";
        wrong_type(node, &node.span, &format!("{what} is a list"), hint, sink);
        return None;
    };
    check_limit(items.len(), limit, what, &node.span, sink);
    Some(&items[..items.len().min(limit)])
}

/// Every item that can be read; what is wrong with the others has gone to the sink.
pub(super) fn items<'a, T>(
    node: &'a Node,
    what: &str,
    limit: usize,
    sink: &'a Sink,
    read: impl Fn(&'a Node, &'a Sink) -> Option<T>,
) -> Option<Listed<T>> {
    let nodes = list(node, what, limit, sink)?;
    let nodes_there = nodes.iter().filter(|node| !matches!(node.value, Value::Broken));
    let items: Vec<T> = nodes_there.filter_map(|node| read(node, sink)).collect();
    Some(Listed {
        complete: items.len() == nodes.len(),
        items,
        span: node.span.clone(),
    })
}

pub(super) fn check_limit(count: usize, limit: usize, what: &str, span: &Span, sink: &Sink) {
    if count > limit {
        let message = format!("{what} has {count} entries; at most {limit} are allowed");
        sink.push(Diagnostic::error("too-many", span, message));
    }
}

/// Reports a node of another shape than `expected`; `hint` may be empty.
pub(super) fn wrong_type(node: &Node, at: &Span, expected: &str, hint: &str, sink: &Sink) {
    let (found, span) = match &node.value {
        Value::Broken => return,
        Value::Null => ("nothing", at),
        Value::Text { .. } => ("a single value", &node.span),
        Value::List(_) => ("a list", &node.span),
        Value::Map(_) => ("a map", &node.span),
    };
    let mut found = Diagnostic::error("wrong-type", span, format!("{expected}, and this is {found}"));
    found.hint = (!hint.is_empty()).then(|| hint.to_owned());
    sink.push(found);
}
