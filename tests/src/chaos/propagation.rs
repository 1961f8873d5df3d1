//! Measures how long a change takes to reach every other zone: registrations one after another, each watched for in the catalogs
//! of all other zones.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    admin::{Admin, Answer, get_json},
    zones::Zones,
};

/// Time that is allowed beside one round trip.
pub const ALLOWED: Duration = Duration::from_millis(100);
/// The service whose instance is changed.
const SERVICE: &str = "orders";
/// A change that has not arrived by then will not.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// Between two looks of a watcher. Its answer adds a millisecond or so, which is measured too.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Longest pause between two changes, so that they do not keep step with any timer of the gateways.
const MAX_PAUSE: Duration = Duration::from_millis(40);

/// A zone saw this weight.
struct Sighting {
    watcher: String,
    origin: String,
    weight: u64,
    at: Instant,
    /// Since the look before: by so much the arrival may have been earlier.
    resolution: Duration,
}

/// Times by which changes arrived.
#[derive(Debug, Default)]
pub struct Distribution {
    sorted: Vec<Duration>,
}

impl FromIterator<Duration> for Distribution {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut sorted: Vec<Duration> = times.into_iter().collect();
        sorted.sort_unstable();
        Self { sorted }
    }
}

impl Distribution {
    /// The time within which this share of all was done, by the nearest rank; zero when there are none.
    #[must_use]
    pub fn quantile(&self, percent: usize) -> Duration {
        let rank = (self.sorted.len() * percent).div_ceil(100).max(1);
        self.sorted.get(rank - 1).copied().unwrap_or_default()
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |percent| self.quantile(percent).as_secs_f64() * 1000.0;
        write!(
            f,
            "median {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms of {}",
            at(50),
            at(90),
            at(99),
            at(100),
            self.sorted.len()
        )
    }
}

/// Results of the measurement.
#[derive(Debug)]
pub struct Report {
    /// By zone that was reached.
    pub by_zone: BTreeMap<String, Distribution>,
    /// Each change until the last zone had it.
    pub everywhere: Distribution,
    /// From the request to its acknowledgement: how long the disk took.
    pub acknowledged: Distribution,
    /// Time between two looks of a watcher.
    pub resolution: Distribution,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (zone, times) in &self.by_zone {
            writeln!(f, "to {zone}: {times}")?;
        }
        writeln!(f, "to every zone: {}", self.everywhere)?;
        writeln!(f, "acknowledged: {}", self.acknowledged)?;
        write!(f, "between two looks: {}", self.resolution)
    }
}

/// Makes this many changes, one after another, in zones drawn from `seed`. Time runs from before the request is sent.
///
/// # Errors
/// When a change is refused or does not arrive.
pub async fn measure(zones: &Zones, seed: u64, changes: u64) -> anyhow::Result<Report> {
    let admins: BTreeMap<String, Admin> = zones
        .iter()
        .map(|(name, zone)| (name.to_owned(), zone.admin.clone()))
        .collect();
    let names: Vec<&String> = admins.keys().collect();
    let (sightings, mut seen) = mpsc::channel(1024);
    let mut watchers = JoinSet::new();
    for (name, admin) in &admins {
        let connection = admin.connect().await?;
        watchers.spawn(watch(name.clone(), connection, sightings.clone()));
    }
    drop(sightings);
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut times: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    let (mut everywhere, mut acknowledged, mut resolution) = (Vec::new(), Vec::new(), Vec::new());
    for weight in 1..=changes {
        let origin = names[rng.random_range(0..names.len())];
        let begun = Instant::now();
        let arrived = arrivals(&mut seen, origin, weight, names.len() - 1);
        let asked = async {
            register(&admins[origin], weight).await?;
            anyhow::Ok(begun.elapsed())
        };
        let (arrived, asked) = tokio::join!(tokio::time::timeout(LOST_AFTER, arrived), asked);
        acknowledged.push(asked?);
        let arrived =
            arrived.with_context(|| format!("change {weight} in {origin} did not reach every zone"))?;
        let mut last = Duration::ZERO;
        for sighting in arrived? {
            let after = sighting.at.saturating_duration_since(begun);
            last = last.max(after);
            resolution.push(sighting.resolution);
            times.entry(sighting.watcher).or_default().push(after);
        }
        everywhere.push(last);
        tokio::time::sleep(MAX_PAUSE.mul_f64(rng.random_range(0.0..1.0))).await;
    }
    watchers.shutdown().await;
    Ok(Report {
        by_zone: times
            .into_iter()
            .map(|(zone, times)| (zone, times.into_iter().collect()))
            .collect(),
        everywhere: everywhere.into_iter().collect(),
        acknowledged: acknowledged.into_iter().collect(),
        resolution: resolution.into_iter().collect(),
    })
}

async fn register(admin: &Admin, weight: u64) -> anyhow::Result<()> {
    let body = serde_json::json!({ "address": "127.0.0.1:19998", "weight": weight });
    let path = format!("/v1/instances/{SERVICE}/probe");
    let answer = admin.ask(http::Method::PUT, &path, Some(&body)).await;
    ensure!(
        matches!(answer, Answer::Came(200, _)),
        "a registration was answered with {answer:?}"
    );
    Ok(())
}

/// Waits until this many zones have seen a weight of `origin`.
async fn arrivals(
    seen: &mut mpsc::Receiver<Sighting>,
    origin: &str,
    weight: u64,
    zones: usize,
) -> anyhow::Result<Vec<Sighting>> {
    let mut arrived = Vec::with_capacity(zones);
    while arrived.len() < zones {
        let sighting = seen.recv().await.context("all watchers have ended")?;
        if sighting.origin == origin && sighting.weight == weight {
            arrived.push(sighting);
        }
    }
    Ok(arrived)
}

/// Looks at one zone's catalog again and again, and tells of every weight that is new.
async fn watch(
    watcher: String,
    mut connection: SendRequest<Full<Bytes>>,
    sightings: mpsc::Sender<Sighting>,
) -> anyhow::Result<()> {
    let mut known: BTreeMap<String, u64> = BTreeMap::new();
    let mut before = Instant::now();
    loop {
        let page = get_json(&mut connection, "/v1/catalog").await?;
        let at = Instant::now();
        for record in page["items"].as_array().context("a catalog has items")? {
            let Some((origin, weight)) = weight_in(record) else {
                continue;
            };
            if known.insert(origin.clone(), weight) != Some(weight) {
                let sighting = Sighting {
                    watcher: watcher.clone(),
                    origin,
                    weight,
                    at,
                    resolution: at - before,
                };
                sightings.send(sighting).await.context("nobody listens")?;
            }
        }
        before = at;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The zone of another zone's record, and the weight in it of the service that is changed.
fn weight_in(record: &serde_json::Value) -> Option<(String, u64)> {
    if record["age"] == "own" {
        return None;
    }
    let (zone, _) = record["origin"].as_str()?.split_once('/')?;
    let exports = record["exports"].as_array()?;
    let export = exports.iter().find(|export| export["service"] == SERVICE)?;
    Some((zone.to_owned(), export["weight"].as_u64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let times: Distribution = (1..=200).rev().map(Duration::from_millis).collect();
        let at = |percent| times.quantile(percent).as_millis();
        assert_eq!((at(50), at(90), at(99), at(100)), (100, 180, 198, 200));
        assert_eq!(Distribution::default().quantile(50), Duration::ZERO);
        let one: Distribution = [Duration::from_millis(3)].into_iter().collect();
        assert_eq!(one.quantile(1).as_millis(), 3);
    }
}
