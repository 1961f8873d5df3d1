//! Virtual addresses: ranges that fit their mode and the number of names, and ports that tell services apart.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    super::{
        diagnostic::{Diagnostic, Span},
        fields::Spanned,
        raw::Vips,
        resolve::default_range,
    },
    Context,
};

pub(super) fn check(context: &Context<'_>) {
    for zone in &context.file.zones {
        match &zone.vips {
            None => room(context, &[default_range()], &zone.name.span),
            Some(Vips::Loopback(range)) => {
                loopback(context, range);
                room(context, &[range.value], &range.span);
            }
            Some(Vips::Routed(ranges)) => routed(context, ranges),
            Some(Vips::Address(address)) => ports(context, address),
        }
    }
}

fn loopback(context: &Context<'_>, range: &Spanned<IpNet>) {
    let inside = match range.value {
        IpNet::V4(net) => net.network().is_loopback() && net.prefix_len() >= 8,
        IpNet::V6(_) => false,
    };
    let found = if !inside {
        let message = format!("`{}` is not a range of loopback addresses", range.value);
        Diagnostic::error("not-loopback", &range.span, message)
            .hint("choose one within 127.0.0.0/8, or write `routed: [...]` for a range that is routed here")
    } else if range.value.contains(&IpAddr::from([127, 0, 0, 1])) {
        let message = format!("`{}` holds 127.0.0.1, where other programs listen", range.value);
        Diagnostic::warning("holds-localhost", &range.span, message)
            .hint("choose a range apart from it, such as 127.64.0.0/10")
    } else {
        return;
    };
    context.sink.push(found);
}

fn routed(context: &Context<'_>, ranges: &[Spanned<IpNet>]) {
    for (index, range) in ranges.iter().enumerate() {
        if range.value.network().is_loopback() || range.value.network().is_multicast() {
            let message = format!("`{}` cannot be routed from other hosts", range.value);
            let found = Diagnostic::error("not-routable", &range.span, message);
            context
                .sink
                .push(found.hint("for loopback addresses write `loopback: 127.64.0.0/10`"));
        }
        let overlapping = |other: &&Spanned<IpNet>| {
            other.value.contains(&range.value) || range.value.contains(&other.value)
        };
        if let Some(other) = ranges[..index].iter().find(overlapping) {
            let message = format!("`{}` and `{}` overlap", other.value, range.value);
            let found = Diagnostic::error("overlapping-ranges", &range.span, message)
                .related(&other.span, "this range")
                .hint("every address can stand for one name only; make the ranges distinct");
            context.sink.push(found);
        }
    }
    let family = |v4: bool| -> Vec<&Spanned<IpNet>> {
        ranges
            .iter()
            .filter(|range| matches!(range.value, IpNet::V4(_)) == v4)
            .collect()
    };
    for ranges in [family(true), family(false)] {
        if let Some(first) = ranges.first() {
            let nets: Vec<IpNet> = ranges.iter().map(|range| range.value).collect();
            room(context, &nets, &first.span);
        }
    }
}

/// Every service needs an address in each family, and so does every name by zone or by tag that is looked up.
fn room(context: &Context<'_>, ranges: &[IpNet], span: &Span) {
    let room: u128 = ranges.iter().map(addresses).fold(0, u128::saturating_add);
    let services = context.file.services.len() as u128;
    let arms = context
        .file
        .services
        .iter()
        .filter_map(|service| service.split.as_ref());
    let arms = arms.map(|split| split.items.len() as u128).sum::<u128>();
    let names = services * (1 + context.file.zones.len() as u128) + arms;
    if room >= names {
        return;
    }
    let hint = "choose a shorter prefix; addresses are never reused, so leave room to grow";
    let found = if room < services {
        let message = format!("{room} addresses are too few for {services} services");
        Diagnostic::error("range-too-small", span, message)
    } else {
        let message = format!("{room} addresses are too few for all {names} names by service, zone and tag");
        Diagnostic::warning("range-too-small", span, message)
    };
    context.sink.push(found.hint(hint));
}

/// Usable addresses: without network and broadcast address in IPv4.
fn addresses(range: &IpNet) -> u128 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    let all = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
    match range {
        IpNet::V4(_) if bits > 1 => all - 2,
        _ => all,
    }
}

fn ports(context: &Context<'_>, address: &Spanned<IpAddr>) {
    let mut taken = BTreeMap::new();
    let services = context.file.services.iter();
    let all = services.flat_map(|service| service.ports.iter().map(move |port| (service, &port.number)));
    for (service, port) in all {
        let Some((other, first)) = taken.insert(port.value, (&service.name.value, &port.span)) else {
            continue;
        };
        if *other == service.name.value {
            // Two of one service have been reported.
            continue;
        }
        let message = format!(
            "`{other}` and `{}` share port {}, and at `{}` only the port tells services apart",
            service.name.value, port.value, address.value
        );
        let found = Diagnostic::error("port-clash", &port.span, message)
            .label("the same port")
            .related(first, format!("the port of `{other}`"))
            .related(&address.span, "the zone whose services share one address")
            .hint("give each service its own port, or give the zone a range of addresses");
        context.sink.push(found);
    }
}
