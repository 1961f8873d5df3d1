//! Demand as gateways tell each other of it: bounded when written, and believed in part when read.

use std::time::Duration;

use causeway_federation::{
    name::{GatewayName, MAX_TAGS, ServiceName},
    topology::Criticality,
};
use causeway_proto::tunnel::{Criticality as WireCriticality, DemandAnswer, GatewayDemand, ServiceDemand};
use causeway_routing::capacity::{DemandedRate, MAX_DEMANDS, ToldDemand};
use prost::Message;

/// Longest answer.
pub(super) const MAX_BYTES: usize = 512 * 1024;
/// Rates go as numbers in so many seconds, so that small ones are told too.
const SECONDS: f64 = 1000.0;

/// Leaves out the words that are passed on, and then rates, the smallest first, where all of it would be too long.
pub(super) fn encode(told: Vec<ToldDemand>) -> Vec<u8> {
    let mut answer = DemandAnswer::default();
    let mut left = MAX_BYTES;
    for told in told {
        let mut gateway = GatewayDemand {
            gateway: told.gateway.map(|name| name.to_string()).unwrap_or_default(),
            age_milliseconds: u32::try_from(told.age.as_millis()).unwrap_or(u32::MAX),
            services: told.rates.iter().map(rate_message).collect(),
        };
        while gateway.encoded_len() + 8 > left && gateway.services.pop().is_some() {}
        left = left.saturating_sub(gateway.encoded_len() + 8);
        if !gateway.services.is_empty() || answer.gateways.is_empty() {
            answer.gateways.push(gateway);
        }
    }
    answer.encode_to_vec()
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
        tags: rate
            .tags
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        criticality: criticality.into(),
        per_thousand_seconds: (rate.per_second * SECONDS) as u64,
    }
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
    use super::*;

    fn told(count: usize) -> ToldDemand {
        let rate = |number: usize| DemandedRate {
            service: ServiceName::new(&format!("service-{number}")).unwrap(),
            tags: [("version", "v1")].into_iter().collect(),
            criticality: Criticality::Sheddable,
            per_second: 12.5,
        };
        ToldDemand {
            gateway: None,
            age: Duration::ZERO,
            rates: (0..count).map(rate).collect(),
        }
    }

    #[test]
    fn what_is_told_is_read_again() {
        let mut sibling = told(1);
        (sibling.gateway, sibling.age) = (
            Some(GatewayName::new("gw2").unwrap()),
            Duration::from_millis(1200),
        );
        let all = vec![told(3), sibling];
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
