//! Words for health checks, time limits, retries, ejection and limits, as a diff and an explanation tell of them.

use std::{fmt, time::Duration};

use super::{
    capacity_rule::CapacityRule,
    model::{Criticality, Failback, HealthCheck, Outlier, Probe, Protocol, RouteLimits, Service, Spill},
    retry::{GrpcCode, Retry, RetryCondition},
};

impl fmt::Display for RetryCondition {
    /// As in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectFailure => f.write_str("connect-failure"),
            Self::Reset => f.write_str("reset"),
            Self::Status(status) => write!(f, "{status}"),
            Self::Code(code) => {
                let known = GrpcCode::ALL.iter().find(|(_, _, known)| known == code);
                f.write_str(known.map_or("", |(word, _, _)| word))
            }
        }
    }
}

fn time(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

fn percent(share: f64) -> String {
    format!("{}%", (share * 10_000.0).round() / 100.0)
}

/// `2 more on reset, 503; after 2s each; of GET, HEAD; at most 20%`.
pub(super) fn retry(retry: Option<&Retry>) -> String {
    let Some(retry) = retry else {
        return "none".to_owned();
    };
    let on: Vec<String> = retry.on.iter().map(ToString::to_string).collect();
    let methods: Vec<&str> = retry.methods.iter().map(String::as_str).collect();
    let each = retry
        .per_try_timeout
        .map(|each| format!("; after {} each", time(each)));
    format!(
        "{} more on {}{}; of {}; at most {}",
        retry.attempts,
        on.join(", "),
        each.unwrap_or_default(),
        methods.join(", "),
        percent(retry.budget)
    )
}

/// `after 5 in a row for 30s, at most 50%`.
pub(super) fn outlier(outlier: Option<&Outlier>) -> String {
    outlier.map_or_else(
        || "none".to_owned(),
        |outlier| {
            let (eject, max) = (time(outlier.eject), percent(outlier.max));
            format!(
                "after {} in a row for {eject}, at most {max}",
                outlier.consecutive
            )
        },
    )
}

/// `below 70% healthy; capacity is respected`.
pub(super) fn spill(spill: Option<&Spill>) -> String {
    spill.map_or_else(
        || "none".to_owned(),
        |spill| {
            let capacity = match spill.capacity {
                CapacityRule::Respect => "respected",
                CapacityRule::Measured => "measured",
                CapacityRule::Ignore => "ignored",
            };
            format!(
                "below {} healthy; capacity is {capacity}",
                percent(spill.healthy_below)
            )
        },
    )
}

/// `hold 10s, ramp 30s`.
pub(super) fn failback(failback: Option<&Failback>) -> String {
    failback.map_or_else(
        || "none".to_owned(),
        |failback| format!("hold {}, ramp {}", time(failback.hold), time(failback.ramp)),
    )
}

/// `http /healthz every 2s timeout 1s fall 2 rise 2`.
pub(super) fn health(check: Option<&HealthCheck>) -> String {
    let Some(check) = check else {
        return "none".to_owned();
    };
    let probe = match &check.probe {
        Probe::Tcp => "tcp".to_owned(),
        Probe::Http { path } => format!("http {path}"),
        Probe::Grpc { service } => format!("grpc {service:?}"),
    };
    let (every, timeout) = (time(check.every), time(check.timeout));
    format!(
        "{probe} every {every} timeout {timeout} fall {} rise {}",
        check.fall, check.rise
    )
}

/// `connections 1024, rate 1000/s`.
pub(super) fn limits(limits: &RouteLimits) -> String {
    let count = |key: &str, limit: Option<u32>| limit.map(|limit| format!("{key} {limit}"));
    let rate = |key: &str, limit: Option<u64>| limit.map(|limit| format!("{key} {limit}/s"));
    let all = [
        count("connections", limits.connections),
        count("pending", limits.pending),
        count("requests", limits.requests),
        count("retries", limits.retries),
        rate("rate", limits.rate_per_second),
        rate("rate_per_caller", limits.rate_per_caller),
    ];
    let all: Vec<String> = all.into_iter().flatten().collect();
    match all.is_empty() {
        true => "none".to_owned(),
        false => all.join(", "),
    }
}

impl Service {
    /// Its spill, as changes tell of it; `None`: it has none.
    #[must_use]
    pub fn spill_in_words(&self) -> Option<String> {
        self.spill.as_ref().map(|known| spill(Some(known)))
    }

    /// Policies that are in force for its connections and requests where this protocol is spoken, each by its key, in words; `of_route`: the name of the route that rules a
    /// request, and its time limit. What connections become later is not in it.
    #[must_use]
    pub fn policies(
        &self,
        protocol: Protocol,
        of_route: Option<(&str, Option<Duration>)>,
    ) -> Vec<(&'static str, String)> {
        let mut policies = Vec::new();
        if protocol.is_http() {
            let timeout = match of_route {
                Some((route, Some(timeout))) => format!("{}, of {route}", time(timeout)),
                _ => self.timeout.map_or_else(|| "none".to_owned(), time),
            };
            policies.push(("timeout", timeout));
            policies.push(("retry", retry(self.retry.as_deref())));
            policies.push(("outlier", outlier(self.outlier.as_ref())));
        }
        if self.spill.is_some() {
            policies.push(("spill", spill(self.spill.as_ref())));
        }
        if self.failback.is_some() {
            policies.push(("failback", failback(self.failback.as_ref())));
        }
        if let Some(slow_start) = self.slow_start {
            policies.push(("slow_start", time(slow_start)));
        }
        if !self.panic {
            policies.push(("panic", "false".to_owned()));
        }
        if self.criticality != Criticality::default() || self.spill.is_some() {
            policies.push(("criticality", self.criticality.word().to_owned()));
        }
        policies.push(("limits", limits(&self.limits)));
        if let Some(idle) = self.idle_timeout {
            policies.push(("idle_timeout", time(idle)));
        }
        policies
    }
}

#[cfg(test)]
mod tests {
    use super::{super::parse, *};

    #[test]
    fn what_is_in_force_is_told_with_the_route_that_says_it() {
        let text = "
version: 1
trust_domain: acme.internal
zones: { east: { gateways: [gw.east:7800] } }
services:
  bare: { port: 80, idle_timeout: 10m }
  orders: { port: 80, protocol: http, timeout: 3s, limits: { requests: 7 } }
";
        let topology = parse(text, "a.yaml").unwrap().topology;
        let told = |name: &str, route| {
            let service = &topology.services[name];
            let policies = service.policies(service.ports.primary.protocol, route);
            policies
                .iter()
                .map(|(key, told)| format!("{key}: {told}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(told("bare", None), ["limits: none", "idle_timeout: 10m"]);
        let rest = ["retry: none", "outlier: none", "limits: requests 7"];
        for (route, timeout) in [
            (None, "timeout: 3s"),
            (Some(("slow", None)), "timeout: 3s"),
            (
                Some(("slow", Some(Duration::from_secs(9)))),
                "timeout: 9s, of slow",
            ),
        ] {
            assert_eq!(told("orders", route), [&[timeout][..], &rest].concat());
        }
    }

    #[test]
    fn policies_are_told_in_words() {
        let text = "
version: 1
trust_domain: acme.internal
zones: { east: { gateways: [gw.east:7800] } }
services:
  bare: { port: 80, protocol: http }
  orders:
    port: 80
    protocol: http
    retry: { on: [reset, 503, unavailable], per_try_timeout: 2s, methods: [GET] }
    outlier: {}
    limits: { connections: 10, rate: 5/s }
    spill: { healthy_below: 72.5%, capacity: ignore }
    failback: { hold: 90s }
";
        let topology = parse(text, "a.yaml").unwrap().topology;
        let told = |name: &str| {
            let service = &topology.services[name];
            [
                retry(service.retry.as_deref()),
                outlier(service.outlier.as_ref()),
                limits(&service.limits),
                spill(service.spill.as_ref()),
                failback(service.failback.as_ref()),
            ]
        };
        assert_eq!(told("bare"), ["none"; 5]);
        assert_eq!(
            told("orders"),
            [
                "2 more on reset, 503, unavailable; after 2s each; of GET; at most 20%",
                "after 5 in a row for 30s, at most 50%",
                "connections 10, rate 5/s",
                "below 72.5% healthy; capacity is ignored",
                "hold 1m 30s, ramp 30s",
            ]
        );
    }
}
