//! An upstream's answer and how long it may be believed. It is kept as it came, so that what it takes is what it counts for: read,
//! some records take twenty times as much.

use std::time::{Duration, Instant};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record},
};

use super::exchange::UpstreamAnswer;

/// Longest time that an answer is kept, whatever its records say, in seconds.
const MAX_LIFETIME_SECONDS: u32 = 3600;

#[derive(Debug)]
pub(crate) struct CachedAnswer {
    code: ResponseCode,
    /// Empty for a failure.
    message: Box<[u8]>,
    at: Instant,
    lifetime_seconds: u32,
}

impl CachedAnswer {
    pub(super) fn new(answer: UpstreamAnswer, now: Instant) -> Self {
        Self {
            lifetime_seconds: lifetime_seconds(&answer.message),
            code: answer.message.metadata.response_code,
            message: answer.bytes.into(),
            at: now,
        }
    }

    /// No answer: never kept.
    pub(super) fn failure(code: ResponseCode, now: Instant) -> Self {
        Self {
            code,
            message: Box::default(),
            at: now,
            lifetime_seconds: 0,
        }
    }

    pub(crate) fn code(&self) -> ResponseCode {
        self.code
    }

    pub(crate) fn lifetime(&self) -> Duration {
        Duration::from_secs(self.lifetime_seconds.into())
    }

    /// Size of the message.
    pub(super) fn bytes(&self) -> usize {
        self.message.len()
    }

    /// Answers, authorities and additionals, with their times to live counted down to `now`.
    pub(crate) fn sections(&self, now: Instant) -> [Vec<Record>; 3] {
        let age = now.saturating_duration_since(self.at).as_secs();
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        // It was read before it was kept; a failure has no message.
        let Ok(message) = Message::from_vec(&self.message) else {
            return Default::default();
        };
        [message.answers, message.authorities, message.additionals].map(|mut records| {
            for record in &mut records {
                record.ttl = record.ttl.saturating_sub(age);
            }
            records
        })
    }
}

/// The shortest time to live of the answers; for "no such name" and "no such record", what the SOA record says (RFC 2308
/// §5), and nothing without one. Failures are not kept.
fn lifetime_seconds(message: &Message) -> u32 {
    let is_negative = match message.metadata.response_code {
        ResponseCode::NXDomain => true,
        ResponseCode::NoError => message.answers.is_empty(),
        _ => return 0,
    };
    let answers = message.answers.iter().map(|record| record.ttl);
    let negative = message
        .authorities
        .iter()
        .filter_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        });
    let negative = negative.min();
    if is_negative && negative.is_none() {
        return 0;
    }
    answers
        .chain(negative.filter(|_| is_negative))
        .chain([MAX_LIFETIME_SECONDS])
        .min()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::{
        op::OpCode,
        rr::{
            Name,
            rdata::{A, SOA},
        },
    };

    fn address(ttl: u32) -> Record {
        Record::from_rdata(Name::root(), ttl, RData::A(A::new(192, 0, 2, 1)))
    }

    fn authority(ttl: u32, minimum: u32) -> Record {
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
        Record::from_rdata(Name::root(), ttl, RData::SOA(soa))
    }

    fn lifetime(code: ResponseCode, answers: &[Record], authorities: &[Record]) -> u32 {
        let mut message = Message::response(1, OpCode::Query);
        message.metadata.response_code = code;
        message.answers = answers.to_vec();
        message.authorities = authorities.to_vec();
        lifetime_seconds(&message)
    }

    #[test]
    fn an_answer_lives_as_long_as_its_shortest_record_and_an_hour_at_most() {
        use ResponseCode::{NXDomain, NoError, ServFail};
        for (code, answers, authorities, expected) in [
            (NoError, vec![address(300), address(60)], vec![], 60),
            (NoError, vec![address(90_000)], vec![], 3600),
            (NoError, vec![address(60)], vec![authority(5, 5)], 60),
            (NoError, vec![], vec![authority(600, 30)], 30),
            (NoError, vec![], vec![authority(20, 30)], 20),
            (NXDomain, vec![], vec![authority(600, 30)], 30),
            (NXDomain, vec![address(7)], vec![authority(600, 30)], 7),
            (NXDomain, vec![], vec![], 0),
            (ServFail, vec![address(60)], vec![authority(600, 30)], 0),
        ] {
            assert_eq!(
                lifetime(code, &answers, &authorities),
                expected,
                "{code} {answers:?}"
            );
        }
    }

    #[test]
    fn times_to_live_count_down_to_zero() {
        let mut message = Message::response(1, OpCode::Query);
        message.answers = vec![address(60)];
        let now = Instant::now();
        let bytes = message.to_vec().unwrap();
        let stored = CachedAnswer::new(UpstreamAnswer { message, bytes }, now);
        for (after, expected) in [(0, 60), (1, 59), (60, 0), (600, 0)] {
            let [answers, ..] = stored.sections(now + Duration::from_secs(after));
            assert_eq!(answers[0].ttl, expected);
        }
    }
}
