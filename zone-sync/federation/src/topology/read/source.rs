//! Reading where a zone's instances come from besides the file itself: what is asked of DNS.

use super::{
    super::{
        diagnostic::{Diagnostic, Sink},
        fields::{Fields, MapKind, Spanned, items},
        model::{DnsQuestion, DnsSource},
        scalar,
        tree::Node,
    },
    tags::tags,
    zone::weight,
};

/// Questions of one zone; each is asked again every few seconds.
const MAX_DNS_SOURCES: usize = 1_000;
const DEFAULT_WEIGHT: u32 = 1;

pub(super) const SOURCES: MapKind = MapKind {
    what: "`sources`",
    keys: &["dns"],
    meant: &[(
        "folder",
        "a folder is read where the gateway runs: `causeway gateway --instances FOLDER`",
    )],
};
pub(super) const DNS_SOURCE: MapKind = MapKind {
    what: "a DNS source",
    keys: &[
        "service",
        "srv",
        "name",
        "port",
        "tags",
        "weight",
        "weight_from_srv",
    ],
    meant: &[
        ("host", "write `name: web.acme.internal` with a `port`"),
        ("address", "write `name: web.acme.internal` with a `port`"),
    ],
};

pub(super) fn sources(node: &Node, sink: &Sink) -> Option<Vec<Spanned<DnsSource>>> {
    let fields = Fields::open(node, &node.span, &SOURCES, sink)?;
    fields.optional("dns", |node, sink| {
        items(node, "`dns`", MAX_DNS_SOURCES, sink, dns_source).map(|sources| sources.items)
    })
}

fn dns_source(node: &Node, sink: &Sink) -> Option<Spanned<DnsSource>> {
    let fields = Fields::open(node, &node.span, &DNS_SOURCE, sink)?;
    let service = fields.required("service", scalar::service_name);
    let question = question(node, &fields, sink);
    let tags = fields.optional("tags", tags).unwrap_or_default();
    let weight = fields.optional("weight", weight).unwrap_or(DEFAULT_WEIGHT);
    Some(Spanned {
        value: DnsSource {
            service: service?.value,
            question: question?,
            tags,
            weight,
        },
        span: node.span.clone(),
    })
}

fn question(node: &Node, fields: &Fields<'_>, sink: &Sink) -> Option<DnsQuestion> {
    let error = |key: &str, message: &str, hint: &str| {
        let span = fields.key_span(key).unwrap_or_else(|| node.span.clone());
        sink.push(Diagnostic::error("one-of", &span, message).hint(hint));
    };
    match (fields.has("srv"), fields.has("name")) {
        (true, false) => {
            if fields.has("port") {
                error("port", "SRV records say the port themselves", "remove `port`");
            }
            let weighted = fields.optional("weight_from_srv", scalar::truth).unwrap_or(false);
            if weighted && fields.has("weight") {
                error(
                    "weight",
                    "with `weight_from_srv` the records say the weight",
                    "remove one of the two",
                );
            }
            let name = fields.required("srv", scalar::dns_name)?.value;
            Some(DnsQuestion::Srv { name, weighted })
        }
        (false, true) => {
            if fields.has("weight_from_srv") {
                error(
                    "weight_from_srv",
                    "only SRV records have weights",
                    "use `srv`, or give a `weight`",
                );
            }
            let port = fields.required("port", scalar::port);
            let name = fields.required("name", scalar::dns_name)?.value;
            Some(DnsQuestion::Addresses {
                name,
                port: port?.value,
            })
        }
        _ if fields.has_strays() => None,
        _ => {
            let message = "a DNS source has exactly one of the keys `srv` and `name`";
            let hint =
                "write `srv: _orders._tcp.acme.internal`, or `name: orders.acme.internal` with a `port`";
            sink.push(Diagnostic::error("one-of", &node.span, message).hint(hint));
            None
        }
    }
}
