//! Measures the shared registry: registrations a second and memory, with three members of etcd and one zone-sync on this
//! host. `cargo run --release -p causeway-tests --bin shared_registry -- 100000`; the program beside it is measured.

use std::time::{Duration, Instant};

use anyhow::Context;
use causeway_tests::{
    etcd::Etcd,
    wait::until_true,
    zone_sync::{ZoneSyncProcess, heartbeat, instances, key, register, registration},
};

/// Elements of one call, as many as the contract allows.
const LIST: u32 = 1_000;
/// Calls that are under way at once in the bulk part.
const SIDE_BY_SIDE: u32 = 4;
/// Registrants of one instance each, one call at a time.
const SINGLE_CLIENTS: u32 = 64;
/// Time for which the single part lasts.
const SINGLE_TIME: Duration = Duration::from_secs(10);
const LIFE: Option<Duration> = Some(Duration::from_secs(600));
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main]
#[allow(clippy::print_stdout, reason = "the figures are this program's output")]
async fn main() -> anyhow::Result<()> {
    let count = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let etcd = Etcd::start(3).await?;
    let one = ZoneSyncProcess::ready(&etcd, 0).await?;
    println!("zone-sync empty: {} MB", megabytes(one.resident_bytes()?));

    let took = bulk(&one, count).await?;
    println!(
        "bulk: {count} in {took:?}, {:.0}/s",
        f64::from(count) / took.as_secs_f64()
    );
    println!(
        "zone-sync with {count}: {} MB, {} leases",
        megabytes(one.resident_bytes()?),
        one.metric("leases").await?
    );
    println!(
        "etcd members: {:?} MB",
        etcd.resident_bytes()
            .into_iter()
            .map(megabytes)
            .collect::<Vec<_>>()
    );

    let took = heartbeats(&one, count).await?;
    println!(
        "heartbeats: {count} in {took:?}, {:.0}/s",
        f64::from(count) / took.as_secs_f64()
    );
    let done = single(&one, count).await?;
    println!(
        "single: {SINGLE_CLIENTS} clients, {:.0}/s",
        f64::from(done) / SINGLE_TIME.as_secs_f64()
    );

    let started = Instant::now();
    let two = ZoneSyncProcess::ready(&etcd, 1).await?;
    println!(
        "another zone-sync was ready after {:?}: {} MB",
        started.elapsed(),
        megabytes(two.resident_bytes()?)
    );
    let mut client = two.client().await?;
    let started = Instant::now();
    let known = instances(&mut client).await?.len();
    println!("a watcher was told {known} instances in {:?}", started.elapsed());
    drop(one);
    let took = heartbeats(&two, count).await?;
    println!(
        "claimed from a killed zone-sync: {count} in {took:?}, {:.0}/s",
        f64::from(count) / took.as_secs_f64()
    );
    until_true("every claim is written", PATIENCE, async || {
        two.metric("writes_total")
            .await
            .is_ok_and(|writes| writes >= f64::from(count))
    })
    .await;
    Ok(())
}

async fn bulk(zone_sync: &ZoneSyncProcess, count: u32) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let mut tasks = Vec::new();
    for task in 0..SIDE_BY_SIDE {
        let mut client = zone_sync.client().await?;
        tasks.push(tokio::spawn(async move {
            let firsts = (0..count)
                .step_by(LIST as usize)
                .skip(task as usize)
                .step_by(SIDE_BY_SIDE as usize);
            for first in firsts {
                let numbers = first..count.min(first + LIST);
                let list = numbers.map(|number| registration(number, LIFE)).collect();
                let refusals = register(&mut client, list).await?;
                anyhow::ensure!(refusals.iter().all(String::is_empty), "refused: {refusals:?}");
            }
            Ok(())
        }));
    }
    for task in tasks {
        task.await?.context("register in bulk")?;
    }
    Ok(started.elapsed())
}

async fn heartbeats(zone_sync: &ZoneSyncProcess, count: u32) -> anyhow::Result<Duration> {
    let mut client = zone_sync.client().await?;
    let started = Instant::now();
    for first in (0..count).step_by(LIST as usize) {
        let keys = (first..count.min(first + LIST)).map(key).collect();
        let refusals = heartbeat(&mut client, keys).await?;
        anyhow::ensure!(refusals.iter().all(String::is_empty), "refused: {refusals:?}");
    }
    Ok(started.elapsed())
}

/// Registers instances, each in a call of its own, and counts them.
async fn single(zone_sync: &ZoneSyncProcess, first: u32) -> anyhow::Result<u32> {
    let started = Instant::now();
    let mut tasks = Vec::new();
    for task in 0..SINGLE_CLIENTS {
        let mut client = zone_sync.client().await?;
        tasks.push(tokio::spawn(async move {
            let mut done = 0;
            while started.elapsed() < SINGLE_TIME {
                // Their service is none of the bulk part's.
                let mut own = registration(first + task, LIFE);
                own.service = "single".to_owned();
                own.weight = Some(done);
                register(&mut client, vec![own]).await?;
                done += 1;
            }
            anyhow::Ok(done)
        }));
    }
    let mut done = 0;
    for task in tasks {
        done += task.await?.context("register one by one")?;
    }
    Ok(done)
}

fn megabytes(bytes: u64) -> u64 {
    bytes / 1_000_000
}
