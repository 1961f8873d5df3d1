//! `probe`: the ends of a connection for the namespace tier, where scripts start them: an instance that records what it
//! is given, and a load that judges what became of each connection. Not part of the product.
//!
//! - `probe instance NAME ADDRESS RECORD` serves until it is killed; RECORD is a file that it keeps current.
//! - `probe load HOST:PORT PER_SECOND STOP` connects by the system's resolver until the file STOP exists; then prints
//!   what happened and, given the RECORDs of all instances, judges it. Exits with 1 when a promise was broken, or when
//!   a connection that was served waited longer than `--limit MILLISECONDS`.
//!   With `--given-twice` in place of `--limit` only the second promise is judged: where the client's own gateway fails too.
//! - `probe download ADDRESS BYTES` sends that much to whoever connects; `probe sink ADDRESS` takes connections and never reads.
//! - `probe unread HOST:PORT COUNT` opens connections and never reads; `probe flood HOST:PORT COUNT` sends without end. Both
//!   open a new one for each that ends.
//! - `probe idle HOST:PORT COUNT` opens connections, says so, and holds them until its input ends.
//! - `probe resolver ADDRESS` answers questions for any name, and loses bursts of them.
//! - `probe flap ADDRESS MILLISECONDS` takes connections for that long, then refuses them for that long, and so on.

use std::{
    fs,
    io::{self, Read, Write},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use causeway_tests::{
    chaos::lossy_resolver,
    instance::{Behaviour, Instance},
    load::Load,
    verdict::{Testimony, Verdict},
};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{TcpListener, TcpStream},
};

/// Interval at which an instance writes its record anew.
const RECORD_EVERY: Duration = Duration::from_millis(50);
/// Time after which a client that hangs opens another connection for one that ended.
const REOPEN_AFTER: Duration = Duration::from_millis(200);
/// Time for which a client of a load waits.
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["instance", name, address, record] => instance(name, address.parse()?, Path::new(record)).await,
        ["load", service, per_second, stop, "--limit", limit, records @ ..] => {
            let load = Load {
                service: resolve(service).await?,
                connections_per_second: per_second.parse()?,
                patience: PATIENCE,
            };
            load_and_judge(
                load,
                Path::new(stop),
                Promises::Both {
                    longest_wait: Duration::from_millis(limit.parse()?),
                },
                records,
            )
            .await
        }
        ["load", service, per_second, stop, "--given-twice", records @ ..] => {
            let load = Load {
                service: resolve(service).await?,
                connections_per_second: per_second.parse()?,
                patience: PATIENCE,
            };
            load_and_judge(load, Path::new(stop), Promises::GivenOnce, records).await
        }
        ["download", address, bytes] => {
            let bytes = bytes.parse()?;
            let _instance =
                Instance::start_at("download", Behaviour::Download { bytes }, address.parse()?).await?;
            std::future::pending().await
        }
        ["sink", address] => sink(address.parse()?).await,
        ["unread", service, count] => hang(service, count.parse()?, Hang::Unread).await,
        ["flood", service, count] => hang(service, count.parse()?, Hang::Flood).await,
        ["idle", service, count] => idle(resolve(service).await?, count.parse()?).await,
        ["resolver", address] => {
            lossy_resolver::serve(address.parse()?).await?;
            Ok(ExitCode::SUCCESS)
        }
        ["flap", address, milliseconds] => {
            flap(address.parse()?, Duration::from_millis(milliseconds.parse()?)).await
        }
        _ => bail!(
            "usage: probe instance NAME ADDRESS RECORD | load HOST:PORT PER_SECOND STOP --limit MS RECORD… | download ADDRESS BYTES | sink ADDRESS | unread HOST:PORT COUNT | flood HOST:PORT COUNT | idle HOST:PORT COUNT \
             | resolver ADDRESS | flap ADDRESS MILLISECONDS"
        ),
    }
}

/// Promises that a load is judged by.
#[derive(Debug, Clone, Copy)]
enum Promises {
    /// Both, and a limit for the longest wait of a connection that was served.
    Both { longest_wait: Duration },
    /// No instance was given what another was given.
    GivenOnce,
}

/// Behaviour of a client that hangs.
#[derive(Debug, Clone, Copy)]
enum Hang {
    Unread,
    Flood,
}

async fn resolve(service: &str) -> anyhow::Result<SocketAddr> {
    let found = tokio::net::lookup_host(service).await;
    let mut addresses = found.with_context(|| format!("look up {service}"))?;
    addresses
        .next()
        .with_context(|| format!("{service} has no address"))
}

/// The first line of a record counts connections that brought nothing; the others are what came.
async fn instance(name: &str, address: SocketAddr, record: &Path) -> anyhow::Result<ExitCode> {
    let instance = Instance::start_at(name, Behaviour::Name, address).await?;
    let fresh = record.with_extension("new");
    loop {
        let lines = instance.lines().join("\n");
        fs::write(&fresh, format!("{}\n{lines}\n", instance.empty_connections()))
            .context("write the record")?;
        fs::rename(&fresh, record).context("replace the record")?;
        tokio::time::sleep(RECORD_EVERY).await;
    }
}

fn read_records(paths: &[&str]) -> anyhow::Result<Vec<Testimony>> {
    paths.iter().map(|path| read_record(path)).collect()
}

fn read_record(path: &str) -> anyhow::Result<Testimony> {
    let text = fs::read_to_string(path).with_context(|| format!("read the record {path}"))?;
    let mut lines = text.lines().map(str::to_owned);
    let empty_connections = lines
        .next()
        .and_then(|line| line.parse().ok())
        .context("a record")?;
    Ok(Testimony {
        instance: path.to_owned(),
        lines: lines.filter(|line| !line.is_empty()).collect(),
        empty_connections,
    })
}

async fn load_and_judge(
    load: Load,
    stop: &Path,
    promises: Promises,
    records: &[&str],
) -> anyhow::Result<ExitCode> {
    let before = read_records(records)?;
    let running = load.start();
    while !stop.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let report = running.stop().await;
    // Records are written by other processes: let each of them write once more.
    tokio::time::sleep(RECORD_EVERY * 3).await;
    let mut testimonies = read_records(records)?;
    for (testimony, before) in testimonies.iter_mut().zip(before) {
        testimony.empty_connections -= before.empty_connections.min(testimony.empty_connections);
    }
    let verdict = Verdict::new(&report, &testimonies);
    writeln!(io::stdout(), "{report}\n{verdict}")?;
    for wait in report.long_waits() {
        writeln!(io::stdout(), "  {}", wait.line())?;
    }
    ensure!(!report.attempts.is_empty(), "the load made no connection");
    let kept = match promises {
        Promises::Both { longest_wait } => verdict.promises_kept() && report.longest_wait() < longest_wait,
        Promises::GivenOnce => verdict.given_twice.is_empty() && !report.served().is_empty(),
    };
    Ok(if kept {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Takes connections and reads nothing of them.
async fn sink(address: SocketAddr) -> anyhow::Result<ExitCode> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("listen on {address}"))?;
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            // Held until the other side resets it.
            tokio::spawn(async move {
                let _ = stream.ready(Interest::ERROR).await;
            });
        }
    }
}

/// Keeps `count` connections open that hang, until it is killed.
async fn hang(service: &str, count: usize, how: Hang) -> anyhow::Result<ExitCode> {
    let service = resolve(service).await?;
    let mut hanging = tokio::task::JoinSet::new();
    for _ in 0..count {
        hanging.spawn(async move {
            loop {
                if let Ok(mut stream) = TcpStream::connect(service).await {
                    match how {
                        Hang::Unread => drop(stream.ready(Interest::ERROR).await),
                        Hang::Flood => while stream.write_all(&[7; 65_536]).await.is_ok() {},
                    }
                }
                tokio::time::sleep(REOPEN_AFTER).await;
            }
        });
    }
    hanging.join_all().await;
    Ok(ExitCode::SUCCESS)
}

async fn idle(service: SocketAddr, count: usize) -> anyhow::Result<ExitCode> {
    let mut held = Vec::with_capacity(count);
    for number in 0..count {
        let stream = TcpStream::connect(service).await;
        held.push(stream.with_context(|| format!("open connection {number}"))?);
    }
    writeln!(io::stdout(), "holding {count}")?;
    // Nothing else happens in this process, so blocking a thread of it is fine.
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .context("wait for the end of the input")?;
    Ok(ExitCode::SUCCESS)
}

/// Closes every connection that it takes; a health check over TCP asks for no more.
async fn flap(address: SocketAddr, every: Duration) -> anyhow::Result<ExitCode> {
    loop {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address}"))?;
        let accept = async {
            loop {
                drop(listener.accept().await);
            }
        };
        let _: Result<(), _> = tokio::time::timeout(every, accept).await;
        drop(listener);
        tokio::time::sleep(every).await;
    }
}
