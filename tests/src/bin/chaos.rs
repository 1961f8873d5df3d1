//! `chaos`: drives the zones that tests/namespaces/chaos has made. Not part of the product.
//!
//! - `chaos run FOLDER TOPOLOGY SECONDS SEED ZONE…`: faults and load, then do all zones agree and is nothing lost?
//! - `chaos propagation FOLDER TOPOLOGY CHANGES SEED ZONE…`: how long a change takes to every zone. Fails when the median
//!   is over one round trip and 100 ms; with `STRICT=1`, for an idle machine, when the 99th percentile is.
//!
//! A ZONE is `NAME:PID:NUMBER`, and `ZONE.GATEWAY:PID:NUMBER` where it has several gateways; CAUSEWAY and PROBE are the programs.
//! SCALE=large is a large run, CROWD the number of instances that one of its zones has. DELAY_MS is the delay of every link one way, 10 without it.

use std::{
    env,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use causeway_tests::chaos::{
    propagation::{self, ALLOWED},
    run,
    scale::Scale,
    zones::{Place, Programs, Zones},
};

/// One way between two zones, in milliseconds.
const DELAY_MS: u64 = 10;
/// Lines of each gateway's log that are shown after a failure.
const TAIL_LINES: usize = 40;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [what, folder, topology, number, seed, places @ ..] = arguments.as_slice() else {
        bail!("usage: chaos run|propagation FOLDER TOPOLOGY SECONDS|CHANGES SEED NAME:PID:NUMBER…")
    };
    let program = |name: &str| {
        let path = env::var_os(name).with_context(|| format!("{name} names a program"))?;
        anyhow::Ok(PathBuf::from(path))
    };
    let programs = Programs {
        causeway: program("CAUSEWAY")?,
        probe: program("PROBE")?,
        topology: PathBuf::from(topology),
        scale: scale()?,
    };
    let delay = match env::var("DELAY_MS") {
        Ok(text) => text.parse().context("DELAY_MS is a number")?,
        Err(_) => DELAY_MS,
    };
    let delay = Duration::from_millis(delay);
    let places: anyhow::Result<Vec<Place>> = places.iter().map(|place| place.parse()).collect();
    let mut zones = Zones::new(Path::new(folder), programs, places?, delay).await?;
    let (number, seed): (u64, u64) = (number.parse()?, seed.parse()?);
    let begun = Instant::now();
    let (name, done) = match *what {
        "run" => ("zones_agree_after_faults", chaos(&mut zones, seed, number).await),
        "propagation" => (
            "a_change_reaches_every_zone_in_time",
            measure(&mut zones, seed, number, delay * 2).await,
        ),
        other => bail!("`{other}` is neither run nor propagation"),
    };
    conclude(name, &done, begun.elapsed(), &zones)
}

async fn chaos(zones: &mut Zones, seed: u64, seconds: u64) -> anyhow::Result<()> {
    writeln!(
        io::stdout(),
        "seed {seed}, {seconds} s; again: tests/namespaces/run --chaos {seconds} {seed}"
    )?;
    let report = run::run(zones, seed, Duration::from_secs(seconds)).await?;
    let rate = report.requests as f64 / seconds as f64;
    let standing = report.standing;
    writeln!(
        io::stdout(),
        "{} faults, records passed on by other zones seen {} times; {} requests to registries, {rate:.0} a second; at the end {} instances registered, {} gone, {} uncertain\n\
         all zones agree {:.2} s after the last fault healed and load ended, and {:.2} s after all gateways were killed at once",
        report.faults,
        report.relayed,
        report.requests,
        standing.registered,
        standing.gone,
        standing.uncertain,
        report.agreed_after.as_secs_f64(),
        report.agreed_after_restart.as_secs_f64(),
    )?;
    writeln!(io::stdout(), "{}", report.traffic)?;
    for (zone, [worn, fresh]) in &report.resources {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        writeln!(
            io::stdout(),
            "{zone}: {} descriptors, {} threads, {:.0} MiB after the faults; {}, {} and {:.0} MiB anew",
            worn.descriptors,
            worn.threads,
            mib(worn.resident_bytes),
            fresh.descriptors,
            fresh.threads,
            mib(fresh.resident_bytes),
        )?;
    }
    ensure!(report.broken.is_empty(), "{}", report.broken.join("\n     "));
    Ok(())
}

/// Size of the run, as SCALE and CROWD say it.
fn scale() -> anyhow::Result<Scale> {
    let mut scale = match env::var("SCALE").as_deref() {
        Ok("large") => Scale::LARGE,
        Ok("usual" | "") | Err(_) => Scale::USUAL,
        Ok(other) => bail!("SCALE is `large` or nothing, not `{other}`"),
    };
    if let Ok(text) = env::var("CROWD") {
        scale.crowd = text.parse().context("CROWD is a number")?;
    }
    Ok(scale)
}

async fn measure(zones: &mut Zones, seed: u64, changes: u64, round_trip: Duration) -> anyhow::Result<()> {
    run::begin(zones).await?;
    let report = propagation::measure(zones, seed, changes).await?;
    writeln!(
        io::stdout(),
        "{changes} changes, seed {seed}, round trip {} ms\n{report}",
        round_trip.as_millis()
    )?;
    let bound = round_trip + ALLOWED;
    let strict = env::var("STRICT").is_ok_and(|value| value == "1");
    let (word, percent) = if strict {
        ("99th percentile", 99)
    } else {
        ("median", 50)
    };
    let time = report.everywhere.quantile(percent);
    ensure!(
        time <= bound,
        "the {word} of the time to every zone is {time:?}; one round trip and 100 ms is {bound:?}"
    );
    Ok(())
}

/// Says how it ended in the words of the namespace tier.
fn conclude(
    name: &str,
    done: &anyhow::Result<()>,
    took: Duration,
    zones: &Zones,
) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout();
    let seconds = took.as_secs_f64();
    let Err(error) = done else {
        writeln!(out, "ok {name} ({seconds:.1} s)\n1 passed, 0 failed")?;
        return Ok(ExitCode::SUCCESS);
    };
    writeln!(out, "FAIL {name} ({seconds:.1} s)\n     {error:#}")?;
    for zone in zones.names() {
        let log = std::fs::read_to_string(zones.log(zone)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        writeln!(out, "---- the end of the log of {zone}\n{}", tail.join("\n"))?;
    }
    writeln!(out, "0 passed, 1 failed")?;
    Ok(ExitCode::FAILURE)
}
