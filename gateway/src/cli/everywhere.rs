//! Waiting until a topology that was applied is in force at every gateway that is up.

use std::time::Duration;

use causeway_api::admin::view::{Envelope, RecordView};
use tokio::time::{Instant, sleep, timeout};

use super::{Exit, Failure, client::Endpoint};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Generation that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AppliedGeneration {
    pub(super) generation: u64,
    pub(super) fingerprint: String,
}

/// Gateways, by what they have in force.
#[derive(Debug, Default, PartialEq, Eq)]
struct Spread {
    /// Gateways that have it, or a later one.
    there: usize,
    /// Those that are up and have not, in words.
    missing: Vec<String>,
    /// Those that nothing is heard of.
    away: Vec<String>,
}

impl Spread {
    fn of(records: &[RecordView], wanted: &AppliedGeneration) -> Self {
        let mut spread = Self::default();
        for record in records {
            let origin = &record.origin;
            let has = record.topology_generation;
            let is_there = has > wanted.generation
                || (has == wanted.generation && record.topology == wanted.fingerprint);
            match (record.age.as_str(), is_there) {
                (_, true) => spread.there += 1,
                ("own" | "fresh", false) if has == 0 => {
                    spread
                        .missing
                        .push(format!("{origin} (runs a topology that was not applied)"));
                }
                ("own" | "fresh", false) => spread.missing.push(format!("{origin} (has generation {has})")),
                (age, false) => spread.away.push(format!("{origin} ({age})")),
            }
        }
        spread
    }

    /// Line about those that have it.
    fn in_words(&self, wanted: &AppliedGeneration) -> String {
        let (there, generation) = (self.there, wanted.generation);
        let gateways = if there == 1 {
            "the one gateway"
        } else {
            "all gateways"
        };
        let away = match self.away.is_empty() {
            true => String::new(),
            false => format!("; nothing is heard of {}", self.away.join(", ")),
        };
        format!("generation {generation} is in force at {gateways} that can be heard ({there}){away}\n")
    }
}

/// Waits until `wanted` is in force at every gateway of the federation that `admin` hears, and says so.
///
/// # Errors
/// When it is not within `limit`; names those that have it not.
pub(super) async fn wait(
    admin: &Endpoint,
    wanted: &AppliedGeneration,
    limit: Duration,
) -> Result<String, Failure> {
    let begun = Instant::now();
    let (mut last, mut why) = (None, None);
    loop {
        let left = limit.saturating_sub(begun.elapsed()).max(LOOK_EVERY);
        match timeout(left, admin.get::<Envelope<RecordView>>("/v1/catalog")).await {
            Ok(Ok(catalog)) => {
                let spread = Spread::of(&catalog.items, wanted);
                if spread.missing.is_empty() {
                    return Ok(spread.in_words(wanted));
                }
                last = Some(spread);
            }
            // Such as a gateway that is restarted, or hands over.
            Ok(Err(failure)) if failure.is_passing() => why = Some(failure),
            Ok(Err(failure)) => return Err(failure.exit(Exit::IssuesFound)),
            Err(_) => {}
        }
        if begun.elapsed() >= limit {
            return Err(late(last.as_ref(), why, wanted, limit));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// `spread` as it was seen last; `None`: nobody could be asked, the last time for that reason.
fn late(
    spread: Option<&Spread>,
    why: Option<Failure>,
    wanted: &AppliedGeneration,
    limit: Duration,
) -> Failure {
    let (generation, limit) = (wanted.generation, humantime::format_duration(limit));
    let text = match spread {
        Some(spread) => format!(
            "generation {generation} is not in force after {limit} at {}",
            spread.missing.join(", ")
        ),
        None => {
            let why = why.map_or_else(String::new, |why| format!(": {}", why.into_words().0));
            format!(
                "generation {generation} is applied, and for {limit} nobody could be asked where it is in force{why}"
            )
        }
    };
    Failure::new(text)
        .hint("it is applied, and reaches them as soon as it can; `causeway check` there says what keeps one from it")
        .exit(Exit::IssuesFound)
}

#[cfg(test)]
mod tests {
    use causeway_api::admin::view::ExchangeView;

    use super::*;

    fn record(origin: &str, age: &str, generation: u64, topology: &str) -> RecordView {
        RecordView {
            origin: origin.to_owned(),
            incarnation: 1,
            version: 1,
            age: age.to_owned(),
            heard_seconds_ago: None,
            via: None,
            draining: false,
            topology: topology.to_owned(),
            topology_generation: generation,
            same_topology: false,
            exchange: ExchangeView::default(),
            exports: Vec::new(),
        }
    }

    #[test]
    fn gateways_that_are_heard_are_waited_for_and_those_that_are_not_are_named() {
        let wanted = AppliedGeneration {
            generation: 7,
            fingerprint: "aa".to_owned(),
        };
        let records = [
            record("east/gw1", "own", 7, "aa"),
            record("east/gw2", "fresh", 8, "cc"),
            record("north/gw1", "fresh", 7, "bb"),
            record("south/gw1", "suspect", 6, "dd"),
            record("west/gw1", "fresh", 0, "aa"),
        ];
        let spread = Spread::of(&records, &wanted);
        assert_eq!(spread.there, 2);
        let missing = [
            "north/gw1 (has generation 7)",
            "west/gw1 (runs a topology that was not applied)",
        ];
        assert_eq!(spread.missing, missing);
        let told = format!(
            "{:?}",
            late(Some(&spread), None, &wanted, Duration::from_secs(30))
        );
        assert!(
            told.contains("not in force after 30s at north/gw1") && told.contains("IssuesFound"),
            "{told}"
        );
        assert_eq!(
            Spread::of(&[records[0].clone(), records[3].clone()], &wanted).in_words(&wanted),
            "generation 7 is in force at the one gateway that can be heard (1); nothing is heard of south/gw1 (suspect)\n"
        );
    }
}
