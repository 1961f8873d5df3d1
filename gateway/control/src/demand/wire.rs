//! Demand as gateways tell each other of it: bounded when written, and believed in part when read.

mod answers;

use std::time::Duration;

use causeway_federation::{
    name::{GatewayName, MAX_TAGS, ServiceName},
    topology::Criticality,
};
use causeway_proto::tunnel::{
    Criticality as WireCriticality, DemandAnswer, GatewayDemand, Limit, LimitUse as WireLimitUse,
    ServiceDemand,
};
use causeway_routing::{
    capacity::{DemandedRate, MAX_DEMANDS, MAX_MEASURED, ToldDemand},
    limit_shares::{LimitUse, MAX_CALLER_BYTES, MAX_LIMIT_USES, SharedLimit},
    limits::UseKind,
};
use prost::Message;

/// Longest answer.
pub(super) const MAX_BYTES: usize = 512 * 1024;
/// Rates go as numbers in so many seconds, so that small ones are told too.
const SECONDS: f64 = 1000.0;
/// Bytes around what one gateway is told of; around each element there are two at least.
const FRAMING: usize = 8;

/// Leaves out the words that are passed on, and then what is measured, limits and rates, the smallest first, where all of it would be too long.
pub(super) fn encode(told: Vec<ToldDemand>) -> Vec<u8> {
    let mut answer = DemandAnswer::default();
    let mut left = MAX_BYTES;
    for told in told {
        let mut gateway = GatewayDemand {
            gateway: told.gateway.map(|name| name.to_string()).unwrap_or_default(),
            age_milliseconds: u32::try_from(told.age.as_millis()).unwrap_or(u32::MAX),
            services: told.rates.iter().map(rate_message).collect(),
            limits: told.limits.iter().map(limit_message).collect(),
            answers: told.answers.iter().map(answers::message).collect(),
            capacities: told.capacities.iter().map(answers::capacity_message).collect(),
        };
        let mut size = gateway.encoded_len() + FRAMING;
        shorten(&mut gateway.answers, &mut size, left);
        shorten(&mut gateway.capacities, &mut size, left);
        shorten(&mut gateway.limits, &mut size, left);
        shorten(&mut gateway.services, &mut size, left);
        left = left.saturating_sub(size);
        let says_something = !(gateway.services.is_empty()
            && gateway.limits.is_empty()
            && gateway.answers.is_empty()
            && gateway.capacities.is_empty());
        if says_something || answer.gateways.is_empty() {
            answer.gateways.push(gateway);
        }
    }
    answer.encode_to_vec()
}

/// Takes off the last ones, as far as all of it would be too long.
fn shorten(list: &mut Vec<impl Message>, size: &mut usize, left: usize) {
    while *size > left
        && let Some(last) = list.pop()
    {
        *size -= last.encoded_len() + 2;
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is not negative, and one that is too large is told as the largest"
)]
fn rate_message(rate: &DemandedRate) -> ServiceDemand {
    let criticality = match rate.criticality {
        Criticality::Critical => WireCriticality::Critical,
        Criticality::Normal => WireCriticality::Normal,
        Criticality::Sheddable => WireCriticality::Sheddable,
    };
    ServiceDemand {
        service: rate.service.to_string(),
        tags: rate.tags.iter().map(answers::owned).collect(),
        criticality: criticality.into(),
        per_thousand_seconds: (rate.per_second * SECONDS) as u64,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "nothing that is used is negative, and what is too large is told as the largest"
)]
fn limit_message(used: &LimitUse) -> WireLimitUse {
    let (limit, caller, unit) = match &used.limit {
        SharedLimit::AtOnce(UseKind::Connections) => (Limit::Connections, "", 1.0),
        SharedLimit::AtOnce(UseKind::Pending) => (Limit::Pending, "", 1.0),
        SharedLimit::AtOnce(UseKind::Requests) => (Limit::Requests, "", 1.0),
        SharedLimit::AtOnce(UseKind::Retries) => (Limit::Retries, "", 1.0),
        SharedLimit::Rate => (Limit::Rate, "", SECONDS),
        SharedLimit::CallerRate(caller) => (Limit::CallerRate, caller.as_str(), SECONDS),
    };
    WireLimitUse {
        service: used.service.to_string(),
        limit: limit.into(),
        caller: caller.to_owned(),
        amount: (used.amount * unit) as u64,
    }
}

/// `None`: a limit that this program does not know, or that names nobody.
#[expect(clippy::cast_precision_loss, reason = "what is used fits a float")]
fn limit(told: WireLimitUse) -> Option<LimitUse> {
    let amount = told.amount as f64;
    let (limit, amount) = match told.limit() {
        Limit::Connections => (SharedLimit::AtOnce(UseKind::Connections), amount),
        Limit::Pending => (SharedLimit::AtOnce(UseKind::Pending), amount),
        Limit::Requests => (SharedLimit::AtOnce(UseKind::Requests), amount),
        Limit::Retries => (SharedLimit::AtOnce(UseKind::Retries), amount),
        Limit::Rate => (SharedLimit::Rate, amount / SECONDS),
        Limit::CallerRate if told.caller.is_empty() || told.caller.len() > MAX_CALLER_BYTES => return None,
        Limit::CallerRate => (SharedLimit::CallerRate(told.caller), amount / SECONDS),
        Limit::Unspecified => return None,
    };
    Some(LimitUse {
        service: ServiceName::new(&told.service).ok()?,
        limit,
        amount,
    })
}

/// Reads what can be read of an answer.
pub(super) fn decode(answer: &[u8]) -> Vec<ToldDemand> {
    let Ok(answer) = DemandAnswer::decode(answer) else {
        return Vec::new();
    };
    let gateway = |told: GatewayDemand| {
        let gateway = match told.gateway.as_str() {
            "" => None,
            name => Some(GatewayName::new(name).ok()?),
        };
        Some(ToldDemand {
            gateway,
            age: Duration::from_millis(told.age_milliseconds.into()),
            rates: told
                .services
                .into_iter()
                .take(MAX_DEMANDS)
                .filter_map(rate)
                .collect(),
            limits: told
                .limits
                .into_iter()
                .take(MAX_LIMIT_USES)
                .filter_map(limit)
                .collect(),
            answers: told
                .answers
                .into_iter()
                .take(MAX_MEASURED)
                .filter_map(answers::read)
                .collect(),
            capacities: told
                .capacities
                .into_iter()
                .take(MAX_MEASURED)
                .filter_map(answers::read_capacity)
                .collect(),
        })
    };
    answer.gateways.into_iter().filter_map(gateway).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a rate fits a float")]
fn rate(told: ServiceDemand) -> Option<DemandedRate> {
    let criticality = match told.criticality() {
        WireCriticality::Critical => Criticality::Critical,
        // A later program may know more.
        WireCriticality::Normal | WireCriticality::Unspecified => Criticality::Normal,
        WireCriticality::Sheddable => Criticality::Sheddable,
    };
    if told.tags.len() > MAX_TAGS {
        return None;
    }
    Some(DemandedRate {
        service: ServiceName::new(&told.service).ok()?,
        tags: told.tags.iter().collect(),
        criticality,
        per_second: told.per_thousand_seconds as f64 / SECONDS,
    })
}

#[cfg(test)]
mod tests {
    use causeway_federation::name::ZoneName;
    use causeway_routing::capacity::{MeasuredCapacity, SeenAnswers, ZoneAnswers};

    use super::*;

    fn told(count: usize) -> ToldDemand {
        let rate = |number: usize| DemandedRate {
            service: ServiceName::new(&format!("service-{number}")).unwrap(),
            tags: [("version", "v1")].into_iter().collect(),
            criticality: Criticality::Sheddable,
            per_second: 12.5,
        };
        let used = |number: usize| LimitUse {
            service: ServiceName::new("orders").unwrap(),
            limit: match number {
                0..4 => SharedLimit::AtOnce(UseKind::ALL[number]),
                4 => SharedLimit::Rate,
                _ => SharedLimit::CallerRate(format!("web-{number}@east")),
            },
            amount: 3.0,
        };
        ToldDemand {
            gateway: None,
            age: Duration::ZERO,
            rates: (0..count).map(rate).collect(),
            limits: (0..count).map(used).collect(),
            answers: (0..count).map(answered).collect(),
            capacities: (0..count).map(capacity).collect(),
        }
    }

    const SEEN: SeenAnswers = SeenAnswers {
        well_per_second: 20.5,
        refused_per_second: 1.25,
        latency: 0.025,
        in_flight: 3.5,
    };

    fn answered(number: usize) -> ZoneAnswers {
        ZoneAnswers {
            service: ServiceName::new(&format!("service-{number}")).unwrap(),
            zone: ZoneName::new("west").unwrap(),
            tags: [("version", "v1")].into_iter().collect(),
            seen: SEEN,
        }
    }

    fn capacity(number: usize) -> MeasuredCapacity {
        MeasuredCapacity {
            service: ServiceName::new(&format!("service-{number}")).unwrap(),
            tags: [("version", "v1")].into_iter().collect(),
            per_second: number.is_multiple_of(2).then_some(80.5),
            seen: SEEN,
        }
    }

    #[test]
    fn what_is_told_is_read_again() {
        let mut sibling = told(1);
        (sibling.gateway, sibling.age) = (
            Some(GatewayName::new("gw2").unwrap()),
            Duration::from_millis(1200),
        );
        let all = vec![told(7), sibling];
        assert_eq!(decode(&encode(all.clone())), all);
        assert_eq!(decode(b"\xff\xff"), []);
    }

    #[test]
    fn an_answer_has_a_bound() {
        let mut all = vec![told(1000)];
        all.extend((0..16).map(|number| ToldDemand {
            gateway: Some(GatewayName::new(&format!("gw{number}")).unwrap()),
            ..told(1000)
        }));
        let encoded = encode(all);
        assert!(encoded.len() <= MAX_BYTES, "{}", encoded.len());
        assert_eq!(decode(&encoded)[0].rates.len(), 1000, "the own ones come first");
    }
}
