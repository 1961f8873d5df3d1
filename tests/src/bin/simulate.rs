//! Runs seeds of the simulation of zone sync: `simulate --seed N` shows everything that happens in one, `simulate --seeds
//! N --start S` runs many and shows the first that fails.

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, bail};
use causeway_tests::simulation::{run_many, run_with_trace};

/// Task that the command line gives.
enum Task {
    One(u64),
    Many { start: u64, seeds: u64 },
}

fn task() -> anyhow::Result<Task> {
    let (mut seed, mut start, mut seeds) = (None, 0, 1000);
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().with_context(|| format!("{flag} needs a number"))?;
        let value = value
            .parse()
            .with_context(|| format!("{flag} needs a number, not `{value}`"))?;
        match flag.as_str() {
            "--seed" => seed = Some(value),
            "--start" => start = value,
            "--seeds" => seeds = value,
            _ => bail!("no such flag: {flag}; there are --seed N, --seeds N and --start N"),
        }
    }
    Ok(seed.map_or(Task::Many { start, seeds }, Task::One))
}

fn main() -> anyhow::Result<ExitCode> {
    match task()? {
        Task::One(seed) => one(seed),
        Task::Many { start, seeds } => many(start, seeds),
    }
}

fn one(seed: u64) -> anyhow::Result<ExitCode> {
    let (result, trace) = run_with_trace(seed);
    let mut out = stdout().lock();
    for line in trace {
        writeln!(out, "{line}")?;
    }
    match result {
        Ok(counts) => writeln!(out, "seed {seed} kept every promise: {counts}")?,
        Err(failure) => {
            writeln!(out, "seed {seed} broke a promise: {}", failure.why)?;
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn many(start: u64, seeds: u64) -> anyhow::Result<ExitCode> {
    let (began, end) = (Instant::now(), start.saturating_add(seeds));
    match run_many(start..end) {
        Ok(sum) => {
            let (took, last) = (began.elapsed(), end.saturating_sub(1));
            writeln!(
                stdout(),
                "seeds {start} to {last} kept every promise in {took:.1?}: {sum}"
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            writeln!(stdout(), "{failure}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}
