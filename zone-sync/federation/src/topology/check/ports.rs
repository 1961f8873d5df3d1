//! Ports of services: two with one number, those that a gateway may not listen on, and those that something else on its host is likely to
//! have.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    super::{
        diagnostic::Diagnostic,
        fields::Spanned,
        raw::{Service, Zone},
    },
    Context,
};

/// TCP ports on which a gateway listens for itself unless it is told otherwise: the admin API, registration, mesh DNS, and
/// clients with certificates, who have a usual port.
const GATEWAY_PORTS: [(u16, &str); 4] = [
    (7810, "the admin API"),
    (7820, "registration"),
    (7843, "clients over TLS"),
    (7853, "mesh DNS"),
];
/// Most instances that one finding points at.
const MAX_SHOWN: usize = 3;

pub(super) fn check(context: &Context<'_>) {
    twins(context);
    privileged(context);
    of_the_gateway(context);
    of_instances(context);
}

/// Every port of every service.
fn all<'a>(context: &Context<'a>) -> impl Iterator<Item = (&'a Service, &'a Spanned<u16>)> + use<'a> {
    let services = context.file.services.iter();
    services.flat_map(|service| service.ports.iter().map(move |port| (service, &port.number)))
}

/// One address has each port once.
fn twins(context: &Context<'_>) {
    for service in &context.file.services {
        let mut seen: BTreeMap<u16, &Spanned<u16>> = BTreeMap::new();
        for port in &service.ports {
            let Some(first) = seen.insert(port.number.value, &port.number) else {
                continue;
            };
            let message = format!(
                "two ports of `{}` have the number {}",
                service.name.value, port.number.value
            );
            let found = Diagnostic::error("duplicate-port", &port.number.span, message)
                .related(&first.span, "first given here")
                .hint("clients tell ports by their numbers: give each its own; `target` may be the same");
            context.sink.push(found);
        }
    }
}

/// One finding for all of them, as one privilege is what all of them take.
fn privileged(context: &Context<'_>) {
    let lowest = context.around.lowest_port;
    let low: Vec<(&Service, &Spanned<u16>)> = all(context).filter(|(_, port)| port.value < lowest).collect();
    let Some((service, port)) = low.first() else {
        return;
    };
    let more = match low.len() - 1 {
        0 => String::new(),
        more => format!(" ({more} more below {lowest})"),
    };
    let message = format!(
        "a gateway of this user may not listen on port {}, so nobody can connect to `{}`{more}",
        port.value, service.name.value
    );
    let hint = "ports this low take CAP_NET_BIND_SERVICE: give it to the gateway (`AmbientCapabilities=` in its unit), or give the \
                service another `port`; its instances keep theirs. With `--capture redirect` no port takes it (but CAP_NET_ADMIN)";
    let found = Diagnostic::warning("privileged-port", &port.span, message);
    context.sink.push(found.hint(hint));
}

fn of_the_gateway(context: &Context<'_>) {
    for (service, port) in all(context) {
        let Some((_, what)) = GATEWAY_PORTS.iter().find(|(own, _)| *own == port.value) else {
            continue;
        };
        let message = format!(
            "port {} of `{}` is where a gateway itself listens for {what}, unless it is told otherwise",
            port.value, service.name.value
        );
        let hint = "where that is at every address, nobody can connect to the service; give the service another `port`";
        let found = Diagnostic::warning("port-on-gateway-host", &port.span, message);
        context.sink.push(found.hint(hint));
    }
}

/// A program on the gateway's host that listens at every address keeps the gateway from the port, or is kept from it.
fn of_instances(context: &Context<'_>) {
    let mut services: BTreeMap<u16, (&Service, &Spanned<u16>)> = BTreeMap::new();
    for (service, port) in all(context) {
        services.entry(port.value).or_insert((service, port));
    }
    // By port: instances there.
    let mut met: BTreeMap<u16, Vec<(&Zone, &Spanned<SocketAddr>)>> = BTreeMap::new();
    for zone in &context.file.zones {
        let gateways = gateway_addresses(zone);
        for address in zone
            .instances
            .iter()
            .filter_map(|instance| instance.address.as_ref())
        {
            let ip = address.value.ip().to_canonical();
            let here = ip == IpAddr::from([127, 0, 0, 1])
                || ip.is_ipv6() && ip.is_loopback()
                || gateways.contains(&ip);
            if here && services.contains_key(&address.value.port()) {
                met.entry(address.value.port()).or_default().push((zone, address));
            }
        }
    }
    for (port, instances) in met {
        let (Some((service, span)), Some((zone, first))) = (services.get(&port), instances.first()) else {
            continue;
        };
        let message = format!(
            "gateways listen on port {port} for `{}`, and on the gateway's host of zone `{}` an instance has it ({})",
            service.name.value, zone.name.value, first.value
        );
        let mut found = Diagnostic::warning("port-on-gateway-host", &span.span, message).hint(
            "if that program listens at every address (0.0.0.0), one keeps the other out: let it listen on its own address only, \
             give one of them another port, or run that gateway with `--capture redirect`, which takes no port",
        );
        for (_, instance) in instances.iter().take(MAX_SHOWN) {
            found = found.related(&instance.span, "on the gateway's host");
        }
        context.sink.push(found);
    }
}

/// Addresses of a zone's gateways, as far as they are written as addresses.
fn gateway_addresses(zone: &Zone) -> BTreeSet<IpAddr> {
    let addresses = zone.gateways.iter().flat_map(|gateway| &gateway.addresses);
    addresses
        .filter_map(|address| Some(address.value.parse::<SocketAddr>().ok()?.ip().to_canonical()))
        .collect()
}
