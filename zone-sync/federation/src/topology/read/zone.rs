//! Reading one zone: tags, gateways, fixed instances, virtual addresses.

use super::{
    super::{
        diagnostic::{Diagnostic, Sink},
        fields::{Fields, MapKind, Spanned, items},
        model::Drain,
        raw::{Gateway, Instance, Vips, Zone},
        scalar,
        tree::{MapEntry, Node, Value},
    },
    source::sources,
    tags::tags,
};

const MAX_GATEWAYS: usize = 64;
/// Addresses of one gateway, all of which are raced.
const MAX_ADDRESSES: usize = 16;
const MAX_INSTANCES: usize = 10_000;
const MAX_RANGES: usize = 8;
/// Weights are relative; this bound lets a sum over all instances fit 64 bits with room to spare.
pub(super) const MAX_WEIGHT: u32 = 1_000_000;
const DEFAULT_WEIGHT: u32 = 1;

pub(super) const ZONE: MapKind = MapKind {
    what: "a zone",
    keys: &[
        "trust_domain",
        "tags",
        "gateways",
        "instances",
        "sources",
        "vips",
        "loopback_instances",
        "drain",
    ],
    meant: &[("addresses", "a zone's addresses are those of its `gateways`")],
};
pub(super) const DRAIN: MapKind = MapKind {
    what: "`drain`",
    keys: &["by"],
    meant: &[(
        "deadline",
        "write `by: '2026-12-01T02:00:00Z'`; `causeway drain ZONE --deadline 10m` does",
    )],
};
pub(super) const GATEWAY: MapKind = MapKind {
    what: "a gateway",
    keys: &["addresses"],
    meant: &[("address", "write `host:port` alone, or `addresses: [...]`")],
};
pub(super) const VIPS: MapKind = MapKind {
    what: "`vips`",
    keys: &["loopback", "routed", "address"],
    meant: &[
        ("range", "write `loopback: 127.64.0.0/10`"),
        ("ranges", "write `routed: [10.96.0.0/16]`"),
        (
            "mode",
            "the key says the mode: `loopback: RANGE`, `routed: [RANGE]` or `address: IP`",
        ),
    ],
};
pub(super) const INSTANCE: MapKind = MapKind {
    what: "an instance",
    keys: &["service", "address", "tags", "weight", "capacity"],
    meant: &[("port", "the port is part of `address`: `10.1.0.11:8080`")],
};

pub(super) fn zone(entry: &MapEntry, sink: &Sink) -> Option<Zone> {
    let name = scalar::checked_name(&entry.key, &entry.key_span, "a zone's name", sink);
    let fields = Fields::open(&entry.value, &entry.key_span, &ZONE, sink);
    let empty = |name| Zone {
        name,
        trust_domain: None,
        tags: Default::default(),
        gateways: Vec::new(),
        instances: Vec::new(),
        dns_sources: Vec::new(),
        vips: None,
        loopback_instances: false,
        drain: None,
    };
    // A zone whose body cannot be read still exists, so that references to it are not reported as well.
    let mut zone = empty(Spanned {
        value: name?,
        span: entry.key_span.clone(),
    });
    let Some(fields) = fields else { return Some(zone) };
    zone.trust_domain = fields.optional("trust_domain", |node, sink| {
        scalar::domain(node, "a trust domain", sink)
    });
    zone.tags = fields.optional("tags", tags).unwrap_or_default();
    if !fields.has("gateways") {
        fields.missing(
            "gateways",
            "write `gateways: []` for a zone without a way in, which only dials out",
        );
    }
    zone.gateways = fields.optional("gateways", gateways).unwrap_or_default();
    zone.instances = fields.optional("instances", instances).unwrap_or_default();
    zone.dns_sources = fields.optional("sources", sources).unwrap_or_default();
    zone.vips = fields.optional("vips", vips);
    zone.loopback_instances = fields
        .optional("loopback_instances", scalar::truth)
        .unwrap_or(false);
    zone.drain = fields.optional("drain", drain).flatten();
    Some(zone)
}

/// Reads `true`, `false` or `{ by: '2026-12-01T02:00:00Z' }`.
fn drain(node: &Node, sink: &Sink) -> Option<Option<Drain>> {
    if !matches!(node.value, Value::Map(_)) {
        let is_drained = scalar::truth(node, sink)?;
        return Some(is_drained.then_some(Drain { by: None }));
    }
    let fields = Fields::open(node, &node.span, &DRAIN, sink)?;
    let by = fields.required("by", scalar::moment)?;
    Some(Some(Drain { by: Some(by) }))
}

fn gateways(node: &Node, sink: &Sink) -> Option<Vec<Gateway>> {
    items(node, "`gateways`", MAX_GATEWAYS, sink, gateway).map(|gateways| gateways.items)
}

fn gateway(node: &Node, sink: &Sink) -> Option<Gateway> {
    if !matches!(node.value, Value::Map(_)) {
        let address = scalar::gateway_address(node, sink)?;
        return Some(Gateway {
            addresses: vec![address],
        });
    }
    let fields = Fields::open(node, &node.span, &GATEWAY, sink)?;
    let addresses = fields.required("addresses", |node, sink| {
        items(node, "`addresses`", MAX_ADDRESSES, sink, scalar::gateway_address)
    })?;
    Some(Gateway {
        addresses: addresses.items,
    })
}

pub(super) fn instances(node: &Node, sink: &Sink) -> Option<Vec<Instance>> {
    items(node, "`instances`", MAX_INSTANCES, sink, instance).map(|instances| instances.items)
}

fn instance(node: &Node, sink: &Sink) -> Option<Instance> {
    let fields = Fields::open(node, &node.span, &INSTANCE, sink)?;
    let weight = fields.optional("weight", weight);
    let capacity = fields.optional("capacity", |node, sink| {
        scalar::rate(node, "a capacity", sink).map(|value| Spanned {
            value,
            span: node.span.clone(),
        })
    });
    Some(Instance {
        service: fields.required("service", scalar::service_name),
        address: fields.required("address", scalar::socket_address),
        tags: fields.optional("tags", tags).unwrap_or_default(),
        weight: weight.unwrap_or(DEFAULT_WEIGHT),
        capacity,
    })
}

pub(super) fn weight(node: &Node, sink: &Sink) -> Option<u32> {
    scalar::number(node, "a weight", 0..=MAX_WEIGHT, sink).map(|weight| weight.value)
}

fn vips(node: &Node, sink: &Sink) -> Option<Vips> {
    let fields = Fields::open(node, &node.span, &VIPS, sink)?;
    let given = VIPS.keys.iter().filter(|key| fields.has(key)).count();
    if given == 0 && fields.has_strays() {
        return None;
    }
    if given != 1 {
        let message = "`vips` has exactly one of the keys `loopback`, `routed` and `address`";
        let hint = "leave `vips` out for the default, `loopback: 127.64.0.0/10`";
        sink.push(Diagnostic::error("one-of", &node.span, message).hint(hint));
        return None;
    }
    let loopback = fields.optional("loopback", scalar::network).map(Vips::Loopback);
    let routed = fields.optional("routed", |node, sink| {
        let ranges = items(node, "`routed`", MAX_RANGES, sink, scalar::network)?;
        if ranges.items.is_empty() && ranges.complete {
            sink.push(Diagnostic::error(
                "empty-list",
                &node.span,
                "`routed` needs at least one range",
            ));
        }
        Some(Vips::Routed(ranges.items))
    });
    let address = fields.optional("address", |node, sink| {
        scalar::ip(node, "the gateway's address", sink)
    });
    loopback.or(routed).or(address.map(Vips::Address))
}
