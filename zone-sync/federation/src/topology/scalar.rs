//! Reading single values: names, numbers, durations, shares, rates, addresses.
//!
//! Each reader takes a node and returns the value with its place, or reports what is wrong with it and how to write it.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;

use super::{
    diagnostic::{Diagnostic, Sink, Span},
    fields::{Spanned, wrong_type},
    tree::{Node, Value},
};
use crate::{
    address::is_of_one_host,
    name::{NameError, PortName, ServiceName, ZoneName},
};

/// Longest text of a tag key or value; the limit of a DNS label, because tags appear in mesh DNS names.
pub(super) const MAX_TAG_BYTES: usize = crate::name::MAX_LABEL_BYTES;
/// Longest domain name in presentation form (RFC 1035 §2.3.4).
const MAX_DOMAIN_BYTES: usize = 253;
/// Longest text of a path, header value and the like, in bytes.
pub(super) const MAX_TEXT_BYTES: usize = 1024;
const DOMAIN_HINT: &str = "write a domain name of letters, digits and `-`, such as `acme.internal`";
/// The word that stands for the caller's own zone or tag value, and so cannot be a name.
pub(super) const OWN: &str = "self";

/// Any scalar as its text, quoted or not.
pub(super) fn text(node: &Node, what: &str, sink: &Sink) -> Option<Spanned<String>> {
    match &node.value {
        Value::Text { text, .. } => Some(Spanned {
            value: text.clone(),
            span: node.span.clone(),
        }),
        _ => {
            wrong_type(node, &node.span, &format!("{what} is a single value"), "", sink);
            None
        }
    }
}

/// Text that `parse` turns into a value; `how` says how to write it.
fn parsed<T>(
    node: &Node,
    what: &str,
    how: &str,
    sink: &Sink,
    code: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<Spanned<T>> {
    let read = text(node, what, sink)?;
    match parse(&read.value) {
        Some(value) => Some(Spanned {
            value,
            span: read.span,
        }),
        None => {
            let message = match read.value.as_str() {
                "" => format!("{what} cannot be empty"),
                written => format!("`{}` is not {what}", shortened(written)),
            };
            sink.push(Diagnostic::error(code, &read.span, message).hint(how));
            None
        }
    }
}

pub(super) fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn name<T: FromStr<Err = NameError>>(node: &Node, what: &str, sink: &Sink) -> Option<Spanned<T>> {
    let read = text(node, what, sink)?;
    checked_name(&read.value, &read.span, what, sink).map(|value| Spanned {
        value,
        span: read.span,
    })
}

/// A name that is a key or a value of the file.
pub(super) fn checked_name<T: FromStr<Err = NameError>>(
    text: &str,
    span: &std::ops::Range<usize>,
    what: &str,
    sink: &Sink,
) -> Option<T> {
    match text.parse() {
        Ok(_) if text == OWN => {
            let message = format!("`{OWN}` stands for the caller's own and cannot be {what}");
            sink.push(Diagnostic::error("bad-name", span, message).hint("choose another name"));
            None
        }
        Ok(name) => Some(name),
        Err(error) => {
            let lowered = text.to_lowercase().replace('_', "-");
            let suggestion = (lowered != text && lowered.parse::<T>().is_ok()).then_some(lowered);
            let message = format!("this is not {what}: {error}");
            let hint = match error {
                NameError::BadPortName(_) => {
                    "names of ports stand in SRV names, such as `_admin._tcp.orders.mesh`"
                }
                _ => "names are DNS labels, because mesh DNS answers for them",
            };
            sink.push(
                Diagnostic::error("bad-name", span, message)
                    .hint(hint)
                    .did_you_mean(suggestion),
            );
            None
        }
    }
}

pub(super) fn zone_name(node: &Node, sink: &Sink) -> Option<Spanned<ZoneName>> {
    name(node, "a zone's name", sink)
}

pub(super) fn service_name(node: &Node, sink: &Sink) -> Option<Spanned<ServiceName>> {
    name(node, "a service's name", sink)
}

/// Name of a port, which a number is not.
pub(super) fn port_name(node: &Node, sink: &Sink) -> Option<Spanned<PortName>> {
    name(node, "a port's name", sink)
}

/// A whole number without quotes, within `range`.
pub(super) fn number<T>(node: &Node, what: &str, range: RangeInclusive<T>, sink: &Sink) -> Option<Spanned<T>>
where
    T: FromStr + PartialOrd + Display,
{
    let how = format!("write a whole number from {} to {}", range.start(), range.end());
    if let Value::Text { text, plain: false } = &node.value
        && text.parse::<T>().is_ok()
    {
        let message = format!("{what} is a number, and quotes make it text");
        let found = Diagnostic::error("bad-number", &node.span, message);
        sink.push(found.hint("remove the quotes"));
        return None;
    }
    parsed(node, what, &how, sink, "bad-number", |text| {
        // `+5` would parse, but no other reader of YAML agrees on what it is.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse()
            .ok()
            .filter(|number| digits && range.contains(number))
    })
}

pub(super) fn port(node: &Node, sink: &Sink) -> Option<Spanned<u16>> {
    number(node, "a port", 1..=u16::MAX, sink)
}

/// A moment as RFC 3339 has it, in UTC: `2026-12-01T02:00:00Z`.
pub(super) fn moment(node: &Node, sink: &Sink) -> Option<SystemTime> {
    let how = "write date and time in UTC, such as `2026-12-01T02:00:00Z`";
    let read = parsed(node, "a moment", how, sink, "bad-value", |text| {
        humantime::parse_rfc3339(text).ok()
    })?;
    Some(read.value)
}

pub(super) fn truth(node: &Node, sink: &Sink) -> Option<bool> {
    let read = parsed(
        node,
        "`true` or `false`",
        "write one of the two",
        sink,
        "bad-value",
        |text| match text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        },
    )?;
    Some(read.value)
}

/// `5s`, `100ms`, `1m 30s`, within `range`.
pub(super) fn duration(
    node: &Node,
    what: &str,
    range: RangeInclusive<Duration>,
    sink: &Sink,
) -> Option<Spanned<Duration>> {
    let (least, most) = (range.start(), range.end());
    let how = format!(
        "write a time with its unit, such as `5s` or `250ms`, from {} to {}",
        humantime::format_duration(*least),
        humantime::format_duration(*most)
    );
    parsed(node, what, &how, sink, "bad-duration", |text| {
        let value = humantime::parse_duration(text).ok()?;
        range.contains(&value).then_some(value)
    })
}

/// `70%` as 0.7, within `range` of percents.
pub(super) fn percent(node: &Node, what: &str, range: RangeInclusive<f64>, sink: &Sink) -> Option<f64> {
    let how = format!(
        "write a share from {}% to {}%, such as `20%`",
        range.start(),
        range.end()
    );
    let read = parsed(node, what, &how, sink, "bad-percent", |text| {
        let number = text.strip_suffix('%')?.trim_end();
        plain_decimal(number).filter(|percent| range.contains(percent))
    })?;
    Some(read.value / 100.0)
}

/// Digits with at most one dot: what `f64` accepts beyond that (`inf`, `1e9`, `+1`) is a mistake in a topology.
pub(super) fn plain_decimal(text: &str) -> Option<f64> {
    let decimal = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse().ok().filter(|_| decimal)
}

/// `500/s`: whole events a second.
pub(super) fn rate(node: &Node, what: &str, sink: &Sink) -> Option<u64> {
    const MOST: u64 = 1_000_000_000;
    let how = "write a number a second, such as `500/s`";
    let read = parsed(node, what, how, sink, "bad-rate", |text| {
        let number = text.strip_suffix("/s")?.trim_end();
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        number
            .parse()
            .ok()
            .filter(|rate| digits && (1..=MOST).contains(rate))
    })?;
    Some(read.value)
}

/// An instance's `ip:port`.
pub(super) fn socket_address(node: &Node, sink: &Sink) -> Option<Spanned<SocketAddr>> {
    let read = text(node, "an instance's address", sink)?;
    let host_name = host_and_port(&read.value).is_some() && read.value.parse::<SocketAddr>().is_err();
    let how = match read.value.parse::<IpAddr>() {
        Ok(ip) => format!("add the port, such as `{}`", SocketAddr::new(ip, 8080)),
        Err(_) if host_name => "use the IP address: an instance is not looked up by name".to_owned(),
        Err(_) => "write `ip:port`, such as `10.1.0.11:8080` or `[fd00::1]:8080`".to_owned(),
    };
    parsed(node, "an instance's address", &how, sink, "bad-address", |text| {
        text.parse().ok().filter(usable_address)
    })
}

/// Nothing can be dialled at port 0 or at the unspecified address.
fn usable_address(address: &SocketAddr) -> bool {
    address.port() != 0 && is_of_one_host(address.ip())
}

/// A gateway's `host:port`, the host being a name or an IP address.
pub(super) fn gateway_address(node: &Node, sink: &Sink) -> Option<Spanned<String>> {
    let read = text(node, "a gateway's address", sink)?;
    let bare_host = is_domain(&read.value) || read.value.parse::<IpAddr>().is_ok();
    let how = match read.value.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("add the port: `[{ip}]:7800`"),
        _ if bare_host => format!("add the port: `{}:7800`", read.value),
        _ => "write `host:port`, such as `gw.east.acme.internal:7800`, without a scheme".to_owned(),
    };
    parsed(node, "a gateway's address", &how, sink, "bad-address", |text| {
        host_and_port(text).map(|()| text.to_owned())
    })
}

fn host_and_port(text: &str) -> Option<()> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return usable_address(&address).then_some(());
    }
    let (host, port) = text.rsplit_once(':')?;
    // A name whose last label is all digits can only be a mistyped IPv4 address (RFC 1123 §2.1).
    let last_label = host.rsplit('.').next()?;
    let looks_like_v4 = last_label.bytes().all(|byte| byte.is_ascii_digit());
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port_fits = digits && port.parse::<u16>().is_ok_and(|port| port != 0);
    (is_domain(host) && !looks_like_v4 && port_fits).then_some(())
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=crate::name::MAX_LABEL_BYTES).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= MAX_DOMAIN_BYTES && text.split('.').all(label)
}

/// A domain name, made lower case and without the final dot.
pub(super) fn domain(node: &Node, what: &str, sink: &Sink) -> Option<Spanned<String>> {
    parsed(node, what, DOMAIN_HINT, sink, "bad-domain", as_domain)
}

/// The same of a key of the file.
pub(super) fn domain_key(text: &str, span: &Span, what: &str, sink: &Sink) -> Option<Spanned<String>> {
    let read = as_domain(text).map(|value| Spanned {
        value,
        span: span.clone(),
    });
    if read.is_none() {
        let message = format!("`{}` is not {what}", shortened(text));
        sink.push(Diagnostic::error("bad-domain", span, message).hint(DOMAIN_HINT));
    }
    read
}

fn as_domain(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    is_domain(&name).then_some(name)
}

/// A host as a request may name it, without a port: a domain name or an IP address.
pub(super) fn as_host(text: &str) -> Option<String> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some(address.to_string()),
        Err(_) => as_domain(text),
    }
}

/// A domain name as it is asked of DNS, whose labels may begin with `_`; made lower case and without the final dot.
pub(super) fn dns_name(node: &Node, sink: &Sink) -> Option<Spanned<String>> {
    let how = "write a full name, such as `orders.acme.internal` or `_orders._tcp.acme.internal`";
    parsed(node, "a DNS name", how, sink, "bad-domain", |text| {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let bare: Vec<&str> = name
            .split('.')
            .map(|label| label.strip_prefix('_').unwrap_or(label))
            .collect();
        (name.len() <= MAX_DOMAIN_BYTES && bare.len() > 1 && is_domain(&bare.join("."))).then_some(name)
    })
}

pub(super) fn ip(node: &Node, what: &str, sink: &Sink) -> Option<Spanned<IpAddr>> {
    let how = "write an IP address without a port, such as `10.0.0.5`";
    parsed(node, what, how, sink, "bad-address", |text| {
        let address: IpAddr = text.parse().ok()?;
        is_of_one_host(address).then_some(address)
    })
}

/// `10.96.0.0/16`; host bits must be zero.
pub(super) fn network(node: &Node, sink: &Sink) -> Option<Spanned<IpNet>> {
    let read = text(node, "an address range", sink)?;
    let how = match read.value.parse::<IpNet>() {
        Ok(net) if net.trunc() != net => format!("the range that this address lies in is `{}`", net.trunc()),
        _ => "write an address and a prefix length, such as `10.96.0.0/16`".to_owned(),
    };
    parsed(node, "an address range", &how, sink, "bad-range", |text| {
        text.parse::<IpNet>().ok().filter(|net| net.trunc() == *net)
    })
}

/// A path of a URL, beginning with `/`.
pub(super) fn path(node: &Node, what: &str, sink: &Sink) -> Option<String> {
    let how = "write a path that begins with `/`, without spaces";
    let read = parsed(node, what, how, sink, "bad-path", |text| {
        let fits = text.len() <= MAX_TEXT_BYTES && text.starts_with('/');
        (fits && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| text.to_owned())
    })?;
    Some(read.value)
}

/// Text that `allowed` accepts for every byte, of 1 to `most` bytes.
pub(super) fn token(
    node: &Node,
    what: &str,
    how: &str,
    most: usize,
    allowed: impl Fn(u8) -> bool,
    sink: &Sink,
) -> Option<String> {
    let read = parsed(node, what, how, sink, "bad-value", |text| {
        let fits = (1..=most).contains(&text.len()) && text.bytes().all(allowed);
        fits.then(|| text.to_owned())
    })?;
    Some(read.value)
}
