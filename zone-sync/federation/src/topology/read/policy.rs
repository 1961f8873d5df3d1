//! Reading what a service says about health, overload, failback and limits.

use std::{ops::RangeInclusive, time::Duration};

use super::super::{
    capacity_rule::CapacityRule,
    diagnostic::{Diagnostic, Sink},
    fields::{Fields, MapKind, Spanned},
    model::{ConnectionPolicy, Failback, HealthCheck, Outlier, Probe, RouteLimits, Spill},
    scalar::{self, MAX_TEXT_BYTES},
    tree::{Node, Value},
};

pub(super) const HEALTH: MapKind = MapKind {
    what: "`health`",
    keys: &["tcp", "http", "grpc", "every", "timeout", "fall", "rise"],
    meant: &[
        ("interval", "write `every: 2s`"),
        ("path", "write `http: /healthz`"),
    ],
};
pub(super) const SPILL: MapKind = MapKind {
    what: "`spill`",
    keys: &["healthy_below", "capacity"],
    meant: &[],
};
pub(super) const FAILBACK: MapKind = MapKind {
    what: "`failback`",
    keys: &["hold", "ramp"],
    meant: &[],
};
pub(super) const OUTLIER: MapKind = MapKind {
    what: "`outlier`",
    keys: &["consecutive", "eject", "max"],
    meant: &[],
};
pub(super) const LIMITS: MapKind = MapKind {
    what: "`limits`",
    keys: &[
        "connections",
        "pending",
        "requests",
        "retries",
        "rate",
        "rate_per_caller",
    ],
    meant: &[],
};

/// Limits that say nothing of a service whose requests are not looked at, and their names there.
const LIMITS_OF_REQUESTS: [(&str, &str); 2] =
    [("requests", "limits.requests"), ("retries", "limits.retries")];

pub(super) const CONNECTIONS: MapKind = MapKind {
    what: "`connections`",
    keys: &["linger", "max_age"],
    meant: &[
        ("drain", "write `linger: 30s`"),
        ("idle", "`idle_timeout` is a key of the service itself"),
        (
            "max",
            "write `max_age: 1h`; how many there may be is for `limits: { connections: 1024 }`",
        ),
    ],
};

const DEFAULT_EVERY: Duration = Duration::from_secs(2);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// Consecutive results that change an instance's health.
const DEFAULT_THRESHOLD: u32 = 2;
const MAX_THRESHOLD: u32 = 100;
const DEFAULT_HEALTHY_BELOW: f64 = 0.7;
const DEFAULT_HOLD: Duration = Duration::from_secs(10);
const DEFAULT_RAMP: Duration = Duration::from_secs(30);
const DEFAULT_CONSECUTIVE: u32 = 5;
const DEFAULT_EJECT: Duration = Duration::from_secs(30);
const SLOW_STARTS: RangeInclusive<Duration> = Duration::from_secs(1)..=HOUR;
/// Shorter ones end before anything has changed.
const EJECTIONS: RangeInclusive<Duration> = Duration::from_millis(100)..=DAY;
const DEFAULT_MAX_EJECTED: f64 = 0.5;
const HOUR: Duration = Duration::from_secs(3600);
/// A day: far beyond any useful hold or ramp, and short enough to add to any clock.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Shorter ones end connections before they have carried anything.
const CONNECTION_TIMES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);

pub(super) fn health(node: &Node, sink: &Sink) -> Option<HealthCheck> {
    let fields = Fields::open(node, &node.span, &HEALTH, sink)?;
    let every = fields.optional("every", |node, sink| {
        scalar::duration(node, "an interval", Duration::from_millis(100)..=HOUR, sink)
    });
    let timeout = fields.optional("timeout", |node, sink| {
        scalar::duration(
            node,
            "a timeout",
            Duration::from_millis(10)..=Duration::from_secs(60),
            sink,
        )
    });
    let every = every.map_or(DEFAULT_EVERY, |every| every.value);
    if let Some(timeout) = timeout.as_ref().filter(|timeout| timeout.value > every) {
        let message = "the timeout is longer than the time between two checks";
        let hint = "the next check begins only when this one has ended; make `every` at least as long";
        sink.push(Diagnostic::warning("slow-check", &timeout.span, message).hint(hint));
    }
    let threshold = |node: &Node, sink: &Sink| count(node, MAX_THRESHOLD, sink);
    Some(HealthCheck {
        probe: probe(&fields, node, sink)?,
        every,
        timeout: timeout.map_or(DEFAULT_TIMEOUT.min(every), |timeout| timeout.value),
        fall: fields.optional("fall", threshold).unwrap_or(DEFAULT_THRESHOLD),
        rise: fields.optional("rise", threshold).unwrap_or(DEFAULT_THRESHOLD),
    })
}

fn probe(fields: &Fields<'_>, node: &Node, sink: &Sink) -> Option<Probe> {
    let given = ["tcp", "http", "grpc"]
        .into_iter()
        .filter(|key| fields.has(key))
        .count();
    if given == 0 && fields.has_strays() {
        return None;
    }
    if given != 1 {
        let message = "`health` has exactly one of the keys `tcp`, `http` and `grpc`";
        let hint = "such as `tcp: true`, `http: /healthz` or `grpc: package.Service`";
        sink.push(Diagnostic::error("one-of", &node.span, message).hint(hint));
        return None;
    }
    let tcp = fields.optional("tcp", |node, sink| {
        if !scalar::truth(node, sink)? {
            let found = Diagnostic::error("bad-value", &node.span, "`tcp: false` checks nothing");
            sink.push(found.hint("leave `health` out to have no health check"));
            return None;
        }
        Some(Probe::Tcp)
    });
    let http = fields.optional("http", |node, sink| {
        let path = scalar::path(node, "a path", sink)?;
        Some(Probe::Http { path })
    });
    tcp.or(http).or_else(|| fields.optional("grpc", grpc))
}

fn grpc(node: &Node, sink: &Sink) -> Option<Probe> {
    if matches!(&node.value, Value::Text { text, .. } if text.is_empty()) {
        let service = String::new();
        return Some(Probe::Grpc { service });
    }
    let how = "write the full name, such as `package.Service`, or `\"\"` for the server as a whole";
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte);
    let service = scalar::token(node, "a gRPC service", how, MAX_TEXT_BYTES, allowed, sink)?;
    Some(Probe::Grpc { service })
}

pub(super) fn count(node: &Node, most: u32, sink: &Sink) -> Option<u32> {
    scalar::number(node, "a count", 1..=most, sink).map(|count| count.value)
}

fn time(node: &Node, sink: &Sink) -> Option<Duration> {
    scalar::duration(node, "a time", Duration::ZERO..=DAY, sink).map(|time| time.value)
}

pub(super) fn share(node: &Node, sink: &Sink) -> Option<f64> {
    scalar::percent(node, "a share", 0.0..=100.0, sink)
}

/// Says how it is written to whoever wrote `spill: 70%`, or `spill: true`.
fn is_no_map_of_spill(node: &Node, sink: &Sink) -> bool {
    let Value::Text { text, .. } = &node.value else {
        return false;
    };
    let message = format!(
        "`spill` is a map of its keys, and not `{}`",
        scalar::shortened(text)
    );
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>();
    let meant = match number {
        Ok(number) if number > 0.0 && number <= 1.0 && !text.ends_with('%') => {
            format!("{{ healthy_below: {}% }}", number * 100.0)
        }
        Ok(number) if (0.0..=100.0).contains(&number) => format!("{{ healthy_below: {number}% }}"),
        _ => "{}".to_owned(),
    };
    let found = Diagnostic::error("wrong-type", &node.span, message);
    sink.push(found.hint(format!("write `spill: {meant}`")));
    true
}

pub(super) fn spill(node: &Node, sink: &Sink) -> Option<Spill> {
    if is_no_map_of_spill(node, sink) {
        return None;
    }
    let fields = Fields::open(node, &node.span, &SPILL, sink)?;
    let how = "write `respect`, `measured` or `ignore`";
    let capacity = fields.optional("capacity", |node, sink| {
        let read = scalar::text(node, "`capacity`", sink)?;
        let known = CapacityRule::from_word(&read.value);
        if known.is_none() {
            let message = format!(
                "`{}` is not a way to treat capacity",
                scalar::shortened(&read.value)
            );
            let meant = sink.nearest(&read.value, CapacityRule::ALL.map(CapacityRule::word));
            let found = Diagnostic::error("unknown-word", &read.span, message);
            sink.push(found.hint(how).did_you_mean(meant));
        }
        known
    });
    let healthy_below = fields.optional("healthy_below", share);
    Some(Spill {
        healthy_below: healthy_below.unwrap_or(DEFAULT_HEALTHY_BELOW),
        capacity: capacity.unwrap_or(CapacityRule::Respect),
    })
}

pub(super) fn failback(node: &Node, sink: &Sink) -> Option<Failback> {
    let fields = Fields::open(node, &node.span, &FAILBACK, sink)?;
    Some(Failback {
        hold: fields.optional("hold", time).unwrap_or(DEFAULT_HOLD),
        ramp: fields.optional("ramp", time).unwrap_or(DEFAULT_RAMP),
    })
}

pub(super) fn slow_start(node: &Node, sink: &Sink) -> Option<Duration> {
    scalar::duration(node, "a slow start", SLOW_STARTS, sink).map(|time| time.value)
}

fn ejection(node: &Node, sink: &Sink) -> Option<Duration> {
    scalar::duration(node, "a time", EJECTIONS, sink).map(|time| time.value)
}

pub(super) fn outlier(node: &Node, sink: &Sink) -> Option<Outlier> {
    let fields = Fields::open(node, &node.span, &OUTLIER, sink)?;
    let consecutive = fields.optional("consecutive", |node, sink| count(node, MAX_THRESHOLD, sink));
    Some(Outlier {
        consecutive: consecutive.unwrap_or(DEFAULT_CONSECUTIVE),
        eject: fields.optional("eject", ejection).unwrap_or(DEFAULT_EJECT),
        max: fields.optional("max", share).unwrap_or(DEFAULT_MAX_EJECTED),
    })
}

/// Reads limits, and where those stand that are about requests.
pub(super) fn limits(node: &Node, sink: &Sink) -> Option<(RouteLimits, Vec<Spanned<&'static str>>)> {
    let fields = Fields::open(node, &node.span, &LIMITS, sink)?;
    let bound = |node: &Node, sink: &Sink| count(node, u32::MAX, sink);
    let rate = |node: &Node, sink: &Sink| scalar::rate(node, "a rate", sink);
    let limits = RouteLimits {
        connections: fields.optional("connections", bound),
        pending: fields.optional("pending", bound),
        requests: fields.optional("requests", bound),
        retries: fields.optional("retries", bound),
        rate_per_second: fields.optional("rate", rate),
        rate_per_caller: fields.optional("rate_per_caller", rate),
    };
    let of_requests = LIMITS_OF_REQUESTS.into_iter().filter_map(|(key, value)| {
        let span = fields.key_span(key)?;
        Some(Spanned { value, span })
    });
    Some((limits, of_requests.collect()))
}

pub(super) fn connections(node: &Node, sink: &Sink) -> Option<Spanned<ConnectionPolicy>> {
    let fields = Fields::open(node, &node.span, &CONNECTIONS, sink)?;
    let time = |what: &'static str| {
        move |node: &Node, sink: &Sink| scalar::duration(node, what, CONNECTION_TIMES, sink)
    };
    let linger = fields.optional("linger", time("a time to linger"));
    let max_age = fields.optional("max_age", time("an age"));
    if let (Some(linger), Some(max_age)) = (&linger, &max_age)
        && linger.value >= max_age.value
    {
        let message = "connections end by `max_age` before they have lingered for so long";
        let found = Diagnostic::warning("linger-beyond-age", &linger.span, message);
        sink.push(found.hint("make `linger` shorter than `max_age`, or leave it out"));
    }
    // Findings about `linger` are told where it stands.
    let span = linger.as_ref().map_or(&node.span, |linger| &linger.span).clone();
    let value = ConnectionPolicy {
        linger: linger.map(|time| time.value),
        max_age: max_age.map(|time| time.value),
    };
    Some(Spanned { value, span })
}
