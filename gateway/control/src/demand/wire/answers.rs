//! Answers, and the capacity that is measured by them, as gateways tell each other of them. Whether such a number can be is asked where it
//! counts.

use causeway_federation::name::{MAX_TAGS, ServiceName, ZoneName};
use causeway_proto::tunnel::{Answers, MeasuredCapacity as WireCapacity, ServiceAnswers};
use causeway_routing::capacity::{MeasuredCapacity, SeenAnswers, ZoneAnswers};

/// Units that one is told as.
const THOUSAND: f64 = 1e3;
const MILLION: f64 = 1e6;

pub(super) fn message(told: &ZoneAnswers) -> ServiceAnswers {
    ServiceAnswers {
        service: told.service.to_string(),
        zone: told.zone.to_string(),
        tags: told.tags.iter().map(owned).collect(),
        answers: Some(answers_message(&told.seen)),
    }
}

pub(super) fn capacity_message(told: &MeasuredCapacity) -> WireCapacity {
    WireCapacity {
        service: told.service.to_string(),
        tags: told.tags.iter().map(owned).collect(),
        // None is told as 0, and so little as the least.
        per_thousand_seconds: told.per_second.map_or(0, |rate| whole(rate * THOUSAND).max(1)),
        answers: Some(answers_message(&told.seen)),
    }
}

fn answers_message(seen: &SeenAnswers) -> Answers {
    Answers {
        well_per_thousand_seconds: whole(seen.well_per_second * THOUSAND),
        refused_per_thousand_seconds: whole(seen.refused_per_second * THOUSAND),
        latency_microseconds: whole(seen.latency * MILLION),
        in_flight_thousandths: whole(seen.in_flight * THOUSAND),
    }
}

pub(super) fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

/// `None`: it names nothing that there can be.
pub(super) fn read(told: ServiceAnswers) -> Option<ZoneAnswers> {
    if told.tags.len() > MAX_TAGS {
        return None;
    }
    Some(ZoneAnswers {
        service: ServiceName::new(&told.service).ok()?,
        zone: ZoneName::new(&told.zone).ok()?,
        tags: told.tags.iter().collect(),
        seen: seen(&told.answers?),
    })
}

/// `None`: it names nothing that there can be.
pub(super) fn read_capacity(told: WireCapacity) -> Option<MeasuredCapacity> {
    if told.tags.len() > MAX_TAGS {
        return None;
    }
    let per_second = (told.per_thousand_seconds > 0).then(|| float(told.per_thousand_seconds) / THOUSAND);
    Some(MeasuredCapacity {
        service: ServiceName::new(&told.service).ok()?,
        tags: told.tags.iter().collect(),
        per_second,
        seen: seen(&told.answers?),
    })
}

fn seen(told: &Answers) -> SeenAnswers {
    SeenAnswers {
        well_per_second: float(told.well_per_thousand_seconds) / THOUSAND,
        refused_per_second: float(told.refused_per_thousand_seconds) / THOUSAND,
        latency: float(told.latency_microseconds) / MILLION,
        in_flight: float(told.in_flight_thousandths) / THOUSAND,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "nothing that is seen is negative, and what is too large is told as the largest"
)]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

#[expect(clippy::cast_precision_loss, reason = "what is told fits a float")]
fn float(number: u64) -> f64 {
    number as f64
}
