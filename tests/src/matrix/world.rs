//! The zone that is tried: a gateway whose APIs are open to the network, a zone-sync with an identity, and the CA. Each row comes
//! from an address of its own, so that what is said about it can be found in the logs.

use std::{fmt::Write as _, fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context, ensure};
use quinn::Endpoint;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{
    Cell, Entrance, Issuers, Row, at_ca,
    clients::{self, Credential, Trial},
    rows::{FORMER_SERIAL, Joins, REVOKED_SERIAL},
};
use crate::{
    address::Block,
    authority::{Authority, Validity, write_identity},
    federation::TRUST_DOMAIN,
    http,
    instance::{Behaviour, Instance},
    metrics::Metrics,
    process::{Process, program, run},
    wait::until,
};

/// For a process to start, and for a line to be in its log; on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first of the block's addresses for servers that are dialled, and for clients of each entrance. A block has 246.
const SERVERS: usize = 10;
const CLIENTS: [usize; 8] = [39, 0, 68, 97, 126, 155, 184, 213];
/// In the log line of a listener that every address of this host leads to.
const OPEN: &str = "address=0.0.0.0:";
/// Number of times that a credential is tried again that was refused without the expected word.
const ATTEMPTS: usize = 10;
/// Most rows that there are addresses for.
const MAX_ROWS: usize = 29;

/// A zone, and everybody who tries to get in.
#[derive(Debug)]
pub struct World {
    pub issuers: Issuers,
    block: Block,
    gateway: Process,
    zone_sync: Process,
    ca: Process,
    admin: SocketAddr,
    registration: SocketAddr,
    /// One for each row that can be dialled: what it was told.
    dialled: Vec<Option<(Endpoint, mpsc::Receiver<Trial>)>>,
    /// Of the service that callers call.
    _stock: Instance,
    _folder: TempDir,
}

impl World {
    /// Starts everything; the gateway dials a server for each row.
    ///
    /// # Errors
    /// When something cannot be set up.
    pub async fn start(rows: &[Row]) -> anyhow::Result<Self> {
        ensure!(rows.len() <= MAX_ROWS, "there are addresses for {MAX_ROWS} rows");
        let folder = tempfile::tempdir().context("make a folder")?;
        let block = Block::take()?;
        let mut issuers = Issuers {
            right: Authority::new(TRUST_DOMAIN)?,
            stranger: Authority::new(TRUST_DOMAIN)?,
            tokens: tokens(&folder.path().join("tokens.json"))?,
            joins: Joins::default(),
        };
        let mut dialled = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            dialled.push(match row.cells[1] {
                Cell::Impossible => None,
                _ => {
                    let credential = (row.make)(&issuers, &zone(number))?;
                    Some(clients::accept(
                        &credential,
                        host(&block, SERVERS + number, 7800)?,
                    )?)
                }
            });
        }
        let stock = Instance::start("stock", Behaviour::Http).await?;
        let own = issuers.right.leaf("east", "gw1", Validity::Current)?;
        write_identity(&folder.path().join("identity"), &own, issuers.right.root_pem())?;
        let revoked = issuers.right.revocations(REVOKED_SERIAL)?;
        fs::write(folder.path().join("identity").join("crl.pem"), revoked)?;
        fs::write(
            folder.path().join("topology.yaml"),
            topology(&block, rows, stock.address())?,
        )?;
        let gateway = start_gateway(folder.path(), &block)?;
        let zone_sync = start_zone_sync(folder.path(), &block)?;
        let ca = start_ca(folder.path(), &block, &issuers.right)?;
        issuers.joins = join_tokens(folder.path(), &block).await?;
        let port = async |of: &Process, message: &str| {
            let line = until(message, PATIENCE, async || {
                let log = of.log();
                let mut lines = log.lines();
                let open = lines.find(|line| line.contains(message) && line.contains(OPEN));
                open.map(str::to_owned)
            });
            port_of(&line.await).with_context(|| format!("find the port of `{message}`"))
        };
        Ok(Self {
            admin: host(&block, 0, port(&gateway, "the admin API listens").await?)?,
            registration: host(&block, 0, port(&gateway, "registration over gRPC listens").await?)?,
            issuers,
            dialled,
            _stock: stock,
            gateway,
            zone_sync,
            ca,
            block,
            _folder: folder,
        })
    }

    /// Tries one cell, and holds both sides to it.
    ///
    /// # Errors
    /// What was otherwise than it should be.
    pub async fn hold(&mut self, number: usize, row: &Row, entrance: Entrance) -> anyhow::Result<()> {
        let at = Entrance::ALL
            .iter()
            .position(|one| *one == entrance)
            .unwrap_or_default();
        let cell = row.cells[at];
        if cell == Cell::Impossible {
            return Ok(());
        }
        let mut told = self.attempt(number, row, entrance).await?;
        // Over TCP an alert is lost where the end of the connection overtakes it.
        for _ in 0..ATTEMPTS {
            match (cell, &told) {
                (Cell::Refused { told: part, .. }, Trial::Refused(said)) if !said.contains(part) => {
                    told = self.attempt(number, row, entrance).await?;
                }
                _ => break,
            }
        }
        match (cell, &told) {
            (Cell::Admitted, Trial::Admitted) => Ok(()),
            (Cell::Refused { word, told: part }, Trial::Refused(said)) => {
                ensure!(said.contains(part), "it is told `{said}`, without `{part}`");
                self.says(number, entrance, word).await
            }
            (expected, told) => anyhow::bail!("expected {expected:?}, and it went so: {told:?}"),
        }
    }

    async fn attempt(&mut self, number: usize, row: &Row, entrance: Entrance) -> anyhow::Result<Trial> {
        if entrance == Entrance::TunnelOut {
            let server = self.dialled[number]
                .as_mut()
                .context("a server that is dialled")?;
            let told = tokio::time::timeout(PATIENCE, server.1.recv()).await;
            return told.context("wait to be dialled")?.context("a server that runs");
        }
        let from = self.place(number, entrance)?;
        let own = match entrance {
            Entrance::TunnelIn | Entrance::Renewal => zone(number),
            _ => "east".to_owned(),
        };
        let credential = (row.make)(&self.issuers, &own)?;
        match entrance {
            Entrance::TunnelIn => clients::dial(&credential, from, host(&self.block, 0, 7800)?).await,
            Entrance::ZoneSync => clients::attach(&credential, from, host(&self.block, 1, 7820)?).await,
            Entrance::Admin => clients::deregister(&credential, from, self.admin).await,
            Entrance::Caller => {
                clients::call(&credential, from, host(&self.block, 0, 7843)?, "stock.mesh").await
            }
            Entrance::Renewal => at_ca::renew(&credential, from, host(&self.block, 3, 7830)?).await,
            Entrance::Join => at_ca::join(&credential, from, host(&self.block, 3, 7830)?).await,
            Entrance::Registration | Entrance::TunnelOut => {
                clients::register(&credential, from, self.registration).await
            }
        }
    }

    /// Address of a row's other side.
    fn place(&self, number: usize, entrance: Entrance) -> anyhow::Result<SocketAddr> {
        let at = Entrance::ALL
            .iter()
            .position(|one| *one == entrance)
            .unwrap_or_default();
        match entrance {
            Entrance::TunnelOut => host(&self.block, SERVERS + number, 7800),
            _ => host(&self.block, CLIENTS[at] + number, 0),
        }
    }

    /// The side that refused has a line about it in its log, with the word and the address, and has counted it.
    async fn says(&self, number: usize, entrance: Entrance, word: &str) -> anyhow::Result<()> {
        let process = match entrance {
            Entrance::ZoneSync => &self.zone_sync,
            Entrance::Renewal | Entrance::Join => &self.ca,
            _ => &self.gateway,
        };
        let (word, address) = (
            format!("\"{word}\""),
            format!("{}:", self.place(number, entrance)?.ip()),
        );
        let what = format!("the log has a line with {word} and {address}");
        until(&what, PATIENCE, async || {
            let log = process.log();
            let found = log
                .lines()
                .any(|line| line.contains(&word) && line.contains(&address));
            found.then_some(())
        })
        .await;
        let family = match entrance {
            Entrance::TunnelIn | Entrance::TunnelOut => "causeway_tunnel_refused_total",
            Entrance::Admin | Entrance::Registration => "causeway_api_refused_total",
            Entrance::Caller => "causeway_tls_refused_total",
            // They have no counter of refusals.
            Entrance::ZoneSync | Entrance::Renewal | Entrance::Join => return Ok(()),
        };
        let counted = self
            .metrics()
            .await?
            .sum(family, &[("reason", word.trim_matches('"'))]);
        ensure!(counted >= 1.0, "{family} does not count {word}");
        Ok(())
    }

    /// On this host the admin API needs no credentials.
    async fn metrics(&self) -> anyhow::Result<Metrics> {
        let page = http::get(host(&self.block, 0, 7810)?, "/metrics").await?;
        Ok(Metrics::parse(&page.body))
    }
}

/// The zone that a row's other side is of.
fn zone(number: usize) -> String {
    format!("row-{number}")
}

fn host(block: &Block, index: usize, port: u16) -> anyhow::Result<SocketAddr> {
    let index = u8::try_from(index).context("an address of the block")?;
    Ok(SocketAddr::new(block.host(index), port))
}

/// The port in `… address=0.0.0.0:40123 …`.
fn port_of(line: &str) -> Option<u16> {
    let rest = line.split(OPEN).nth(1)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn topology(block: &Block, rows: &[Row], stock: SocketAddr) -> anyhow::Result<String> {
    let mut text = format!(
        "version: 1\ntrust_domain: {TRUST_DOMAIN}\ntls: {{ require_post_quantum: true }}\nzones:\n  east: {{ gateways: [], vips: {{ loopback: {} }}, instances: [{{ service: stock, address: \"{stock}\" }}] }}\n",
        block.virtual_range(0)
    );
    for (number, row) in rows.iter().enumerate() {
        let gateways = match row.cells[1] {
            Cell::Impossible => String::new(),
            _ => format!("\"{}\"", host(block, SERVERS + number, 7800)?),
        };
        writeln!(text, "  {}: {{ gateways: [{gateways}] }}", zone(number))?;
    }
    text.push_str("services:\n  orders: { port: 9000 }\n  stock: { port: 9001, protocol: http }\n");
    Ok(text)
}

/// Tokens with the scopes `register` and `read`, and one that has expired by the time it is used.
fn tokens(file: &Path) -> anyhow::Result<[String; 3]> {
    let path = file.display().to_string();
    let issue = |name: &str, scope: &str, more: &[&str]| {
        let base = [
            "admin-token",
            "issue",
            "--file",
            &path,
            "--name",
            name,
            "--scope",
            scope,
        ];
        anyhow::Ok(run(base.iter().chain(more))?.trim().to_owned())
    };
    Ok([
        issue("registrar", "register", &[])?,
        issue("viewer", "read", &[])?,
        issue("former", "write", &["--valid-for", "1ns"])?,
    ])
}

/// Join tokens for zone east, each with its fate.
async fn join_tokens(folder: &Path, block: &Block) -> anyhow::Result<Joins> {
    let ca = folder.join("ca").display().to_string();
    let issue = |more: &[&str]| {
        let base = ["token", "issue", "--ca", &ca, "--zone", "east"];
        anyhow::Ok(run(base.iter().chain(more))?.trim().to_owned())
    };
    let joins = Joins {
        fresh: issue(&[])?,
        stolen: issue(&[])?,
        used: issue(&[])?,
        expired: issue(&["--valid-for", "1ns"])?,
        revoked: issue(&[])?,
        rejoin: issue(&["--gateway", "gw1", "--rejoin"])?,
        revoked_rejoin: issue(&["--gateway", "gw1", "--rejoin"])?,
    };
    for revoked in [&joins.revoked, &joins.revoked_rejoin] {
        let revoke = at_ca::token_id(revoked).context("a join token")?;
        run(["token", "revoke", "--ca", &ca, &revoke])?;
    }
    let at = host(block, 3, 7830)?;
    let used = Credential::token(&joins.used);
    until("a token is used", PATIENCE, async || {
        let from = host(block, 4, 0).ok()?;
        let told = at_ca::join(&used, from, at).await;
        matches!(told, Ok(Trial::Admitted)).then_some(())
    })
    .await;
    Ok(joins)
}

fn command(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(program()?);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CAUSEWAY_")) {
        command.env_remove(name);
    }
    command.args(arguments);
    Ok(command)
}

fn start_gateway(folder: &Path, block: &Block) -> anyhow::Result<Process> {
    let mut command = command(&["gateway", "--zone", "east", "--threads", "1"])?;
    for (flag, name) in [
        ("--topology", "topology.yaml"),
        ("--identity", "identity"),
        ("--data", "data"),
        ("--admin-tokens", "tokens.json"),
    ] {
        command.arg(flag).arg(folder.join(name));
    }
    command
        .args(["--listen", &host(block, 0, 7800)?.to_string()])
        .args(["--dns", &host(block, 0, 7853)?.to_string()])
        .args(["--tls-listen", &host(block, 0, 7843)?.to_string()])
        .args(["--admin", &format!("{},0.0.0.0:0", host(block, 0, 7810)?)])
        .args(["--registry", "0.0.0.0:0"])
        .args([
            "--admin-allow",
            &format!("write=spiffe://{TRUST_DOMAIN}/zone/east/*"),
        ]);
    Process::start("gateway", &mut command, &folder.join("gateway.log"))
}

/// etcd is away, which a zone-sync bears: who may attach is decided without it.
fn start_zone_sync(folder: &Path, block: &Block) -> anyhow::Result<Process> {
    let mut command = command(&["zone-sync", "--zone", "east", "--etcd", "http://127.0.0.1:1"])?;
    command
        .arg("--identity")
        .arg(folder.join("identity"))
        .args(["--listen", &host(block, 1, 7820)?.to_string()])
        .args(["--admin", &host(block, 1, 7821)?.to_string()]);
    Process::start("zone-sync", &mut command, &folder.join("zone-sync.log"))
}

fn start_ca(folder: &Path, block: &Block, authority: &Authority) -> anyhow::Result<Process> {
    let ca = folder.join("ca");
    authority.write_ca(&ca)?;
    let revoked = format!(
        "{{\"at\":\"2024-01-01T00:00:00Z\",\"serial\":\"{REVOKED_SERIAL:x}\",\"serials\":[\"{REVOKED_SERIAL:x}\"]}}\n"
    );
    fs::write(ca.join("revoked.jsonl"), revoked)?;
    let former = format!(
        "{{\"serial\":\"{FORMER_SERIAL:x}\",\"id\":\"spiffe://{TRUST_DOMAIN}/zone/east/gateway/gw1\",\"issuer\":\"{}\",\
         \"not_before\":\"2020-01-01T00:00:00Z\",\"not_after\":\"2021-01-01T00:00:00Z\",\"how\":\"issue\"}}\n",
        "00".repeat(32)
    );
    fs::write(ca.join("issued.jsonl"), former)?;
    let mut command = command(&["ca", "serve", "--listen", &host(block, 3, 7830)?.to_string()])?;
    command.arg("--ca").arg(ca);
    Process::start("the CA", &mut command, &folder.join("ca.log"))
}
