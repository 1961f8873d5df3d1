//! Measures a zone of one gateway with a registry of its own: registrations a second, memory, and what one change costs on the
//! way to another zone. `cargo run --release -p causeway-tests --bin large_zone -- 100000`; the gateways are the program beside it.

use std::time::{Duration, Instant};

use anyhow::Context;
use causeway_tests::{
    federation::{Federation, Plan},
    http,
    wait::until_true,
    zone_sync::{connect_socket, heartbeat, key, register, registration},
};

/// Elements of one call, as many as the contract allows.
const LIST: u32 = 1_000;
/// Calls that are under way at once.
const SIDE_BY_SIDE: u32 = 4;
const LIFE: Option<Duration> = Some(Duration::from_secs(3_600));
const PATIENCE: Duration = Duration::from_secs(120);
/// Changes of one instance, one after the other, each known in the other zone before the next.
const FLAPS: u32 = 200;
/// Time for which the two zones are watched with nothing going on.
const QUIET: Duration = Duration::from_secs(10);
/// The gateway's own count of bytes may be as old.
const REFRESH: Duration = Duration::from_millis(600);

#[tokio::main]
#[allow(clippy::print_stdout, reason = "the figures are this program's output")]
async fn main() -> anyhow::Result<()> {
    let count = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let mut plan = Plan::new().zone("east").zone("west");
    for number in (0..count).step_by(50_000) {
        plan = plan.service(&registration(number, None).service, "port: 8080, protocol: tcp");
    }
    let mut federation = plan.start().await?;
    federation.zone("east").wait_tunnel("west").await;
    let empty = resident(&mut federation, "east")?;
    let started = Instant::now();
    bulk(&federation, count).await?;
    let took = started.elapsed().as_secs_f64();
    println!(
        "registered, on disk when answered: {count} in {took:.2} s, {:.0}/s",
        f64::from(count) / took
    );
    let weight = (count - count.saturating_sub(1) / 50_000 * 50_000).to_string();
    let last = registration(count - 1, None).service;
    until_true("west knows all of them", PATIENCE, async || {
        exported(&federation, &last)
            .await
            .is_some_and(|known| known == weight)
    })
    .await;
    println!(
        "known in the other zone after another {:.2} s",
        started.elapsed().as_secs_f64() - took
    );
    let full = resident(&mut federation, "east")?;
    let each = full.saturating_sub(empty) / u64::from(count.max(1));
    println!(
        "gateway: {} MB empty, {} MB with {count}, {each} bytes each",
        empty / 1_000_000,
        full / 1_000_000
    );
    let started = Instant::now();
    renew(&federation, count).await?;
    let took = started.elapsed().as_secs_f64();
    println!(
        "renewed: {count} in {took:.2} s, {:.0}/s",
        f64::from(count) / took
    );

    tokio::time::sleep(REFRESH).await;
    let before = sent(&federation).await?;
    tokio::time::sleep(QUIET).await;
    let quiet = (sent(&federation).await? - before) / QUIET.as_secs_f64();
    println!("sent to the other zone with nothing going on: {quiet:.0} bytes/s");
    let before = sent(&federation).await?;
    let started = Instant::now();
    let mut waits = Vec::new();
    for flap in 0..FLAPS {
        waits.push(change(&federation, 2 + flap, &last, &weight).await?);
    }
    let took = started.elapsed().as_secs_f64();
    tokio::time::sleep(REFRESH).await;
    let bytes = (sent(&federation).await? - before) / f64::from(FLAPS);
    waits.sort();
    println!(
        "{FLAPS} changes of one instance's weight in {took:.1} s: {bytes:.0} bytes each, heartbeats included; known in the other zone after {:?} in the middle, {:?} at most",
        waits[waits.len() / 2],
        waits[waits.len() - 1]
    );
    Ok(())
}

async fn bulk(federation: &Federation, count: u32) -> anyhow::Result<()> {
    let mut tasks = Vec::new();
    for task in 0..SIDE_BY_SIDE {
        let mut client = connect_socket(&federation.zone("east").registry_socket()).await?;
        tasks.push(tokio::spawn(async move {
            let firsts = (0..count).step_by(LIST as usize);
            for first in firsts.skip(task as usize).step_by(SIDE_BY_SIDE as usize) {
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
    Ok(())
}

async fn renew(federation: &Federation, count: u32) -> anyhow::Result<()> {
    let mut client = connect_socket(&federation.zone("east").registry_socket()).await?;
    for first in (0..count).step_by(LIST as usize) {
        let keys = (first..count.min(first + LIST)).map(key).collect();
        let refusals = heartbeat(&mut client, keys).await?;
        anyhow::ensure!(refusals.iter().all(String::is_empty), "refused: {refusals:?}");
    }
    Ok(())
}

/// Gives one instance of `service` another weight; says how long it took until the other zone knew. `before` is what all of
/// them weighed at first.
async fn change(
    federation: &Federation,
    weight: u32,
    service: &str,
    before: &str,
) -> anyhow::Result<Duration> {
    let mut client = connect_socket(&federation.zone("east").registry_socket()).await?;
    let wanted = (before.parse::<u32>()? - 1 + weight).to_string();
    let first = service.rsplit('-').next().unwrap_or_default().parse::<u32>()? * 50_000;
    let mut changed = registration(first, LIFE);
    changed.weight = Some(weight);
    let started = Instant::now();
    let refusals = register(&mut client, vec![changed]).await?;
    anyhow::ensure!(refusals.iter().all(String::is_empty), "refused: {refusals:?}");
    until_true("west knows the change", PATIENCE, async || {
        exported(federation, service).await.as_ref() == Some(&wanted)
    })
    .await;
    Ok(started.elapsed())
}

/// The weight that west knows of a service of east.
async fn exported(federation: &Federation, service: &str) -> Option<String> {
    let page = http::get(federation.zone("west").admin, "/v1/exports")
        .await
        .ok()?;
    let page: serde_json::Value = serde_json::from_str(&page.body).ok()?;
    let item = page["items"]
        .as_array()?
        .iter()
        .find(|item| item["service"] == service)?;
    Some(item["weight"].to_string())
}

/// Bytes of zone sync that east sent.
async fn sent(federation: &Federation) -> anyhow::Result<f64> {
    let metrics = federation.zone("east").metrics().await?;
    Ok(metrics.sum("causeway_sync_bytes_total", &[("zone", "west"), ("way", "sent")]))
}

fn resident(federation: &mut Federation, zone: &str) -> anyhow::Result<u64> {
    federation.zone_mut(zone).gateway().resident_bytes()
}
