//! Reading the ports of a service: one number, or several by name.

use super::{
    super::{
        diagnostic::{Diagnostic, Sink, Span},
        fields::{Fields, MapKind, Spanned, check_limit, map},
        model::Protocol,
        raw::{Port, Service},
        scalar,
        tree::{MapEntry, Node, Value},
    },
    service::protocol,
};
use crate::name::PortName;

/// Ports of one service: each is listened on at every virtual address of the service.
const MAX_PORTS: usize = 16;

pub(super) const PORT: MapKind = MapKind {
    what: "a port of a service",
    keys: &["port", "protocol", "target", "primary"],
    meant: &[
        ("number", "write `port: 9090`"),
        ("target_port", "write `target: 9091`"),
        ("targetPort", "write `target: 9091`"),
        ("name", "the key is its name: `ports: { admin: 9090 }`"),
    ],
};

/// A port that was read, and where it says that it is the primary one.
type ReadPort = (Port, Option<Span>);

/// Reads the ports of a service; `of_service` is what those speak that do not say.
pub(super) fn ports(service: &mut Service, fields: &Fields<'_>, of_service: Option<Spanned<Protocol>>) {
    if let (Some(_), Some(span)) = (fields.key_span("port"), fields.key_span("ports")) {
        service.has_all_ports = false;
        let message = "a service has one of `port` and `ports`";
        let hint = "keep `ports`, with the one of `port` as its first; that one is the primary one";
        fields.report(Diagnostic::error("one-of", &span, message).hint(hint));
        return;
    }
    if !fields.has("ports") {
        let number = fields.required("port", scalar::port);
        service.has_all_ports = number.is_some();
        service.ports.extend(number.map(|number| Port {
            name: None,
            number,
            protocol: of_service,
            target: None,
        }));
        return;
    }
    let read = fields.optional("ports", |node, sink| named(node, of_service.as_ref(), sink));
    service.has_all_ports = read.is_some();
    service.ports = read.unwrap_or_default();
}

/// The primary one first; `None`: not all of them could be read.
fn named(node: &Node, of_service: Option<&Spanned<Protocol>>, sink: &Sink) -> Option<Vec<Port>> {
    let entries = map(node, &node.span, "`ports`", sink)?;
    check_limit(entries.len(), MAX_PORTS, "`ports`", &node.span, sink);
    if entries.is_empty() {
        let found = Diagnostic::error(
            "no-ports",
            &node.span,
            "`ports` names none, so nobody can connect",
        );
        sink.push(found.hint("name one, as in `ports: { http: 8080 }`, or write `port: 8080`"));
    }
    let read: Vec<Option<ReadPort>> = entries
        .iter()
        .take(MAX_PORTS)
        .map(|entry| one(entry, of_service, sink))
        .collect();
    let mut said: Option<(usize, Span)> = None;
    for (at, span) in read.iter().enumerate().filter_map(|(at, read)| {
        let (_, primary) = read.as_ref()?;
        Some((at, primary.clone()?))
    }) {
        if let Some((_, first)) = &said {
            let found = Diagnostic::error("two-primaries", &span, "two ports are said to be the primary one")
                .related(first, "the first of them")
                .hint("it is the port of whoever asks for none by name: there is one");
            sink.push(found);
            return None;
        }
        said = Some((at, span));
    }
    let read: Option<Vec<ReadPort>> = read.into_iter().collect();
    let mut ports: Vec<Port> = read?.into_iter().map(|(port, _)| port).collect();
    if let Some((at, _)) = said {
        ports[..=at].rotate_right(1);
    }
    (ports.len() == entries.len()).then_some(ports)
}

fn one(entry: &MapEntry, of_service: Option<&Spanned<Protocol>>, sink: &Sink) -> Option<ReadPort> {
    let name = scalar::checked_name::<PortName>(&entry.key, &entry.key_span, "a port's name", sink);
    let name = name.map(|value| Spanned {
        value,
        span: entry.key_span.clone(),
    });
    let read = match &entry.value.value {
        Value::Map(_) => described(entry, of_service, sink),
        Value::Text { .. } => {
            let number = scalar::port(&entry.value, sink)?;
            Some((plain(number, of_service.cloned()), None))
        }
        Value::Broken => None,
        _ => {
            let message = format!("port `{}` has no number", scalar::shortened(&entry.key));
            let found = Diagnostic::error("wrong-type", &entry.key_span, message);
            sink.push(found.hint("write `admin: 9090`, or `admin: { port: 9090, protocol: tcp }`"));
            None
        }
    };
    let (port, primary) = read?;
    let port = Port {
        name: Some(name?),
        ..port
    };
    Some((port, primary))
}

fn plain(number: Spanned<u16>, protocol: Option<Spanned<Protocol>>) -> Port {
    Port {
        name: None,
        number,
        protocol,
        target: None,
    }
}

fn described(entry: &MapEntry, of_service: Option<&Spanned<Protocol>>, sink: &Sink) -> Option<ReadPort> {
    let fields = Fields::open(&entry.value, &entry.key_span, &PORT, sink)?;
    let number = fields.required("port", scalar::port);
    let spoken = match fields.has("protocol") {
        true => fields.optional("protocol", protocol),
        false => of_service.cloned(),
    };
    let target = fields.optional("target", scalar::port);
    let is_primary = fields.optional("primary", scalar::truth).unwrap_or_default();
    let port = Port {
        target: target.map(|target| target.value),
        ..plain(number?, spoken)
    };
    Some((port, fields.key_span("primary").filter(|_| is_primary)))
}
