//! A run: start, load and faults, heal, agree, judge; then kill all gateways at once, and judge what they start with.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, ensure};

use super::{
    admin::{Admin, Answer},
    agreement::{Monotone, View, disagreements},
    carry_out,
    ledger::{Content, Key, Ledger, Standing},
    load::{Counts, Load, Registry},
    schedule::{Fault, Step, schedule},
    traffic::Traffic,
    zones::Zones,
};

/// The zone with a crowd of instances.
const CROWDED: &str = "south";
/// Time for which the checked instance of each zone is up, and then down; its checks come twice as often.
const FLAP_EVERY: Duration = Duration::from_millis(1200);
/// Between two looks at what the zones hold.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two looks while faults go on.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// Time in which no gateway gives a descriptor back when all has ended.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// Percent more descriptors and threads that a gateway may hold after faults than a new one, and so many besides: tunnels
/// that are just being dialled, and connections of this program.
const MOST_WEAR: usize = 10;
const FEW: usize = 12;
/// So many bytes of memory besides: what an allocator keeps for the next time, of which 40 MiB were seen within a minute of faults.
const FEW_BYTES: u64 = 64 << 20;
/// Lines that are shown of what is wrong.
const SHOWN: usize = 20;

/// Results of a run.
#[derive(Debug)]
pub struct Report {
    pub faults: usize,
    /// Number of times that a zone was seen to hold a record that another zone had passed on.
    pub relayed: usize,
    pub standing: Standing,
    pub requests: u64,
    pub agreed_after: Duration,
    pub agreed_after_restart: Duration,
    /// Fate of the clients' connections, in words.
    pub traffic: String,
    /// Promises that were broken, and what gateways did not give back.
    pub broken: Vec<String>,
    /// Descriptors and threads of each gateway after the faults, and after it was started anew.
    pub resources: BTreeMap<String, [Resources; 2]>,
}

/// Open descriptors, threads and resident bytes of one gateway; without what is mapped from files, such as the program itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    pub descriptors: usize,
    pub threads: usize,
    pub resident_bytes: u64,
}

/// Runs faults from `seed` for `lasting`.
///
/// # Errors
/// When anything is not as it must be; the error says what.
pub async fn run(zones: &mut Zones, seed: u64, lasting: Duration) -> anyhow::Result<Report> {
    begin(zones).await?;
    let scale = zones.scale();
    let admins: BTreeMap<String, Admin> = zones
        .iter()
        .map(|(name, zone)| (name.to_owned(), zone.admin.clone()))
        .collect();
    let mut load = Load::start(seed, &zones.registries());
    if scale.crowd > 0 {
        let begun = Instant::now();
        load.crowd(CROWDED, &zones.zone(CROWDED)?.admin, scale.crowd)
            .await?;
        writeln!(
            io::stdout(),
            "{} instances registered in {:.1?}",
            scale.crowd,
            begun.elapsed()
        )?;
    }
    let flapping = zones.start_flapping(FLAP_EVERY)?;
    let traffic = Traffic::start(zones).await?;
    let mut watcher = Watcher::default();
    let Carried { faults, restarts } = fail_and_heal(zones, seed, lasting, &mut watcher).await?;
    drop(flapping);
    let (traffic, mut broken) = traffic.judge(&restarts).await?;
    load.settle().await;
    let agreed_after = agree(zones, &load.ledger(), scale.agree_within).await?;
    let wrong = load.faults();
    ensure!(wrong.is_empty(), "{}", lines("during the run", &wrong));
    let (ledger, counts) = (load.ledger(), load.counts.clone());
    all_ready(zones, scale.agree_within).await?;
    for (name, admin) in &admins {
        Registry::writes(admin)
            .await
            .with_context(|| format!("{name} after the faults"))?;
    }
    let worn = settled(zones).await?;
    kill_all(zones).await?;
    let agreed_after_restart = agree(zones, &ledger, scale.begin_within)
        .await
        .context("after all gateways were killed at once")?;
    all_ready(zones, scale.begin_within).await?;
    let resources = beside_fresh(zones, worn)?;
    broken.extend(
        resources
            .iter()
            .filter_map(|(name, both)| not_given_back(name, both)),
    );
    load.end().await;
    Ok(Report {
        faults,
        relayed: watcher.relayed,
        standing: ledger.standing(),
        requests: total(&counts)?,
        agreed_after,
        agreed_after_restart,
        traffic,
        broken,
        resources,
    })
}

/// Waits until every gateway says that it is ready: none of its tasks has ended.
///
/// # Errors
/// When `within` is over; the error is what it says.
async fn all_ready(zones: &Zones, within: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    for (name, zone) in zones.iter() {
        loop {
            let answer = zone.admin.ask(http::Method::GET, "/readyz", None).await;
            if matches!(answer, Answer::Came(200, _)) {
                break;
            }
            ensure!(
                begun.elapsed() < within,
                "the gateway of {name} is not ready: {answer:?}"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

fn resources(zones: &Zones) -> anyhow::Result<BTreeMap<String, Resources>> {
    let of = |(name, _)| {
        let gateway = zones.gateway(name)?;
        let (descriptors, threads) = gateway.descriptors_and_threads()?;
        let resident_bytes = gateway.anonymous_bytes()?;
        let resources = Resources {
            descriptors,
            threads,
            resident_bytes,
        };
        Ok((name.to_owned(), resources))
    };
    zones.iter().map(of).collect()
}

/// Waits until every gateway holds as few descriptors as it will, now that load has ended.
async fn settled(zones: &Zones) -> anyhow::Result<BTreeMap<String, Resources>> {
    let mut last = resources(zones)?;
    let begun = Instant::now();
    while begun.elapsed() < zones.scale().agree_within {
        tokio::time::sleep(SETTLED_AFTER).await;
        let now = resources(zones)?;
        let fewer = now
            .iter()
            .any(|(name, now)| now.descriptors < last[name].descriptors);
        last = now;
        if !fewer {
            break;
        }
    }
    Ok(last)
}

/// Sets what gateways hold after faults beside what new ones hold.
///
/// # Errors
/// When one is gone.
fn beside_fresh(
    zones: &Zones,
    worn: BTreeMap<String, Resources>,
) -> anyhow::Result<BTreeMap<String, [Resources; 2]>> {
    let mut fresh = resources(zones)?;
    let pair = |(name, worn): (String, Resources)| {
        let fresh = fresh
            .remove(&name)
            .with_context(|| format!("no gateway of {name}"))?;
        Ok((name, [worn, fresh]))
    };
    worn.into_iter().map(pair).collect()
}

/// A line for a gateway that holds more than [`MOST_WEAR`] allows.
fn not_given_back(name: &str, [worn, fresh]: &[Resources; 2]) -> Option<String> {
    let too_many = |worn: usize, fresh: usize| worn * 100 > fresh * (100 + MOST_WEAR) + 100 * FEW;
    let most_bytes = fresh.resident_bytes + fresh.resident_bytes / 100 * MOST_WEAR as u64 + FEW_BYTES;
    let leaks = too_many(worn.descriptors, fresh.descriptors)
        || too_many(worn.threads, fresh.threads)
        || worn.resident_bytes > most_bytes;
    leaks.then(|| format!("the gateway of {name} held {worn:?} after the faults, and {fresh:?} anew"))
}

/// Starts all gateways and waits until every zone holds every other's record.
///
/// # Errors
/// When that does not come about.
pub async fn begin(zones: &mut Zones) -> anyhow::Result<()> {
    let names: Vec<String> = zones.names().into_iter().map(str::to_owned).collect();
    for name in &names {
        zones.start(name)?;
    }
    for name in &names {
        zones.wait_alive(name).await?;
    }
    let within = zones.scale().begin_within;
    agree(zones, &Ledger::default(), within)
        .await
        .context("at the start")?;
    Ok(())
}

/// Prints how the requests ended, and says how many there were.
fn total(counts: &Counts) -> anyhow::Result<u64> {
    use std::sync::atomic::Ordering::Relaxed;
    let (acknowledged, not_done) = (counts.acknowledged.load(Relaxed), counts.not_done.load(Relaxed));
    let (unknown, late) = (counts.unknown.load(Relaxed), counts.late.load(Relaxed));
    let unwritten = counts.unwritten.load(Relaxed);
    writeln!(
        io::stdout(),
        "requests: {acknowledged} acknowledged, {unwritten} in force and not on the disk, {not_done} that found no gateway, {unknown} broken off, {late} never answered"
    )?;
    Ok(acknowledged + unwritten + not_done + unknown + late)
}

/// Faults that were carried out, and the times at which gateways were started again.
struct Carried {
    faults: usize,
    restarts: Vec<SystemTime>,
}

/// Carries out the schedule, and watches that nothing goes back and no gateway falls.
async fn fail_and_heal(
    zones: &mut Zones,
    seed: u64,
    lasting: Duration,
    watcher: &mut Watcher,
) -> anyhow::Result<Carried> {
    let begun = Instant::now();
    let (mut wrong, mut restarts) = (Vec::new(), Vec::new());
    let steps = schedule(seed, &zones.names(), lasting);
    for step in &steps {
        while begun.elapsed() < step.at {
            let left = step.at.saturating_sub(begun.elapsed());
            tokio::time::sleep(left.min(WATCH_EVERY)).await;
            wrong.extend(zones.fallen());
            wrong.extend(watcher.look(zones).await);
        }
        say(begun.elapsed(), step)?;
        carry_out::step(zones, step)
            .await
            .with_context(|| format!("{} at {:?}", step.fault, step.at))?;
        if matches!(step.fault, Fault::Kill { .. } | Fault::End { .. }) && !step.begins {
            restarts.push(SystemTime::now());
        }
        ensure!(wrong.is_empty(), "{}", lines("under faults", &wrong));
    }
    Ok(Carried {
        faults: steps.len() / 2,
        restarts,
    })
}

fn say(after: Duration, step: &Step) -> anyhow::Result<()> {
    let word = if step.begins { "begins" } else { "heals" };
    let seconds = after.as_secs_f64();
    Ok(writeln!(io::stdout(), "{seconds:7.2} s  {}: {word}", step.fault)?)
}

/// Observer of the zones while faults go on.
#[derive(Debug, Default)]
struct Watcher {
    monotone: Monotone,
    relayed: usize,
}

impl Watcher {
    /// Looks at the catalogs of those gateways that answer at once.
    async fn look(&mut self, zones: &Zones) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, zone) in zones.iter() {
            let asked = tokio::time::timeout(WATCH_EVERY, zone.admin.items("/v1/catalog")).await;
            if let Ok(Ok(records)) = asked
                && let Ok(view) = View::read(&[], &records)
            {
                wrong.extend(self.monotone.look(name, zone.life, &view.held));
                self.relayed += view.held.values().filter(|held| held.via.is_some()).count();
            }
        }
        wrong
    }
}

async fn kill_all(zones: &mut Zones) -> anyhow::Result<()> {
    let names: Vec<String> = zones.names().into_iter().map(str::to_owned).collect();
    for name in &names {
        zones.kill(name)?;
    }
    for name in &names {
        zones.start(name)?;
    }
    Ok(())
}

/// Waits until all zones agree and every registry is as the ledger says. Answers how long that took.
///
/// # Errors
/// When `within` is over; the error says where they differ.
async fn agree(zones: &mut Zones, ledger: &Ledger, within: Duration) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    loop {
        let wrong = match look(zones).await {
            Ok(seen) => seen.wrong(ledger),
            Err(error) => vec![format!("{error:#}")],
        };
        if wrong.is_empty() {
            return Ok(begun.elapsed());
        }
        let fallen = zones.fallen();
        ensure!(fallen.is_empty(), "{}", lines("while settling", &fallen));
        let what = format!("after {} s", within.as_secs());
        ensure!(begun.elapsed() < within, "{}", lines(&what, &wrong));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Everything that the zones show.
struct Seen {
    views: BTreeMap<String, View>,
    /// By zone, once for each of its gateways.
    instances: Vec<(String, BTreeMap<Key, Content>)>,
}

async fn look(zones: &Zones) -> anyhow::Result<Seen> {
    let mut seen = Seen {
        views: BTreeMap::new(),
        instances: Vec::new(),
    };
    for (_, zone) in zones.iter() {
        let exports = zone.admin.items("/v1/exports").await?;
        let catalog = zone.admin.items("/v1/catalog").await?;
        let instances = zone.admin.items("/v1/instances").await?;
        let listed = instances
            .iter()
            .filter(|instance| instance["source"] != "topology");
        let read = listed.filter_map(|instance| {
            let key = Key {
                zone: zone.place.zone().to_owned(),
                service: instance["service"].as_str()?.to_owned(),
                id: instance["id"].as_str()?.to_owned(),
            };
            Some((key, Content::shown(instance)?))
        });
        seen.instances
            .push((zone.place.zone().to_owned(), read.collect()));
        seen.views
            .insert(zone.place.origin(), View::read(&exports, &catalog)?);
    }
    Ok(seen)
}

impl Seen {
    fn wrong(&self, ledger: &Ledger) -> Vec<String> {
        let mut wrong = disagreements(&self.views);
        for (zone, instances) in &self.instances {
            wrong.extend(ledger.faults(zone, instances));
        }
        wrong
    }
}

fn lines(when: &str, wrong: &[String]) -> String {
    let shown = wrong.iter().take(SHOWN).map(|line| format!("\n  {line}"));
    format!(
        "{} things are wrong {when}:{}",
        wrong.len(),
        shown.collect::<String>()
    )
}
