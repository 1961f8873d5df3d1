//! `causeway zone-sync` as a process, and a client of the registry that it serves.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::Context;
use causeway_proto::registry::{
    HeartbeatRequest, Instance, InstanceKey, RegisterRequest, Registration, WatchEvent, WatchRequest,
    registry_client::RegistryClient, watch_event::Event,
};
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use tokio::net::UnixStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    etcd::Etcd,
    http,
    process::{Process, program},
    wait::until_true,
};

/// For a process to start and read everything; on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);
/// For one call.
const ANSWER: Duration = Duration::from_secs(20);
/// The first of the test's addresses that is a zone-sync's.
const FIRST_HOST: u8 = 100;
/// Largest message in bytes.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// One running zone-sync of zone `east`. Dropping it kills it.
#[derive(Debug)]
pub struct ZoneSyncProcess {
    process: Process,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

impl ZoneSyncProcess {
    /// Starts one, without waiting for anything. `number` tells those of one test apart.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(etcd: &Etcd, number: u8) -> anyhow::Result<Self> {
        Self::start_with(etcd, &etcd.addresses(), number)
    }

    /// Starts one that reaches etcd by these addresses.
    ///
    /// # Errors
    /// Fails when it cannot be started.
    pub fn start_with(etcd: &Etcd, addresses: &[String], number: u8) -> anyhow::Result<Self> {
        let host = etcd.block().host(FIRST_HOST + number);
        let (address, admin) = (SocketAddr::new(host, 7820), SocketAddr::new(host, 7821));
        let mut command = Command::new(program()?);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CAUSEWAY_")) {
            command.env_remove(name);
        }
        command
            .args(["zone-sync", "--zone", "east", "--etcd", &addresses.join(",")])
            .args(["--listen", &address.to_string(), "--admin", &admin.to_string()])
            .args(["--log-level", "info,causeway_zone_sync=debug"]);
        let name = format!("zone-sync{number}");
        let log = etcd.folder().join(format!("{name}.log"));
        Ok(Self {
            process: Process::start(&name, &mut command, &log)?,
            address,
            admin,
        })
    }

    /// Starts one and waits until it has read everything.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn ready(etcd: &Etcd, number: u8) -> anyhow::Result<Self> {
        Self::start(etcd, number)?.when_ready().await
    }

    /// Waits until it has read everything.
    ///
    /// # Errors
    /// Fails when it has ended.
    pub async fn when_ready(self) -> anyhow::Result<Self> {
        let started = self;
        until_true("zone sync is ready", PATIENCE, async || {
            started.readiness().await.is_ok_and(|(ready, _)| ready)
        })
        .await;
        Ok(started)
    }

    /// Tells whether it is ready, and what it says about it.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn readiness(&self) -> anyhow::Result<(bool, String)> {
        let answer = http::get(self.admin, "/readyz").await?;
        Ok((answer.status == 200, answer.body))
    }

    /// One figure of `/metrics`, named without `causeway_zone_sync_`.
    ///
    /// # Errors
    /// When it cannot be asked or has no such figure.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let answer = http::get(self.admin, "/metrics").await?;
        let name = format!("causeway_zone_sync_{name} ");
        let value = answer.body.lines().find_map(|line| line.strip_prefix(&name));
        value
            .context("no such figure")?
            .trim()
            .parse()
            .context("a number")
    }

    /// # Errors
    /// When it cannot be connected to.
    pub async fn client(&self) -> anyhow::Result<RegistryClient<Channel>> {
        connect(self.address).await
    }

    /// Stops it where it stands, until [`ZoneSyncProcess::resume`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn terminate(&mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.wait(PATIENCE).await;
        Ok(())
    }

    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.process.resident_bytes()
    }
}

/// Over the unix socket beside the address, as a program of the same user does it that changes something.
///
/// # Errors
/// When nothing listens there.
pub async fn connect(address: SocketAddr) -> anyhow::Result<RegistryClient<Channel>> {
    connect_socket(Path::new(&format!("\0causeway/{address}"))).await
}

/// # Errors
/// When nothing listens on this unix socket.
pub async fn connect_socket(path: &Path) -> anyhow::Result<RegistryClient<Channel>> {
    let path = path.to_owned();
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    let endpoint = Endpoint::from_static("http://any.invalid").connect_timeout(ANSWER);
    let channel = endpoint.connect_with_connector(connect).await?;
    Ok(RegistryClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// A registration of service `orders` at an address made of its number.
#[must_use]
pub fn registration(number: u32, time_to_live: Option<Duration>) -> Registration {
    let [_, a, b, c] = number.to_be_bytes();
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Registration {
        service: format!("orders-{}", number / 50_000),
        id: format!("i{number}"),
        address: format!("10.{a}.{b}.{c}:8080"),
        tags: [("version".to_owned(), "v1".to_owned())].into_iter().collect(),
        weight: Some(1),
        capacity_per_second: 0,
        time_to_live_milliseconds: time_to_live.map_or(0, milliseconds),
    }
}

/// The key of [`registration`].
#[must_use]
pub fn key(number: u32) -> InstanceKey {
    let Registration { service, id, .. } = registration(number, None);
    InstanceKey { service, id }
}

/// Registers and says which refusals there were, empty ones included.
///
/// # Errors
/// When the call failed.
pub async fn register(
    client: &mut RegistryClient<Channel>,
    registrations: Vec<Registration>,
) -> Result<Vec<String>, Status> {
    let mut request = tonic::Request::new(RegisterRequest { registrations });
    request.set_timeout(ANSWER);
    let reply = client.register(request).await?.into_inner();
    Ok(reply
        .outcomes
        .into_iter()
        .map(|outcome| outcome.refusal)
        .collect())
}

/// Sends heartbeats and says which refusals there were, empty ones included.
///
/// # Errors
/// When the call failed.
pub async fn heartbeat(
    client: &mut RegistryClient<Channel>,
    keys: Vec<InstanceKey>,
) -> Result<Vec<String>, Status> {
    let mut request = tonic::Request::new(HeartbeatRequest { keys });
    request.set_timeout(ANSWER);
    let reply = client.heartbeat(request).await?.into_inner();
    Ok(reply
        .outcomes
        .into_iter()
        .map(|outcome| outcome.refusal)
        .collect())
}

/// Every instance that a zone-sync knows now.
///
/// # Errors
/// When the call failed or ended too early.
pub async fn instances(client: &mut RegistryClient<Channel>) -> Result<Vec<Instance>, Status> {
    let mut events = client.watch(WatchRequest::default()).await?.into_inner();
    let mut found = Vec::new();
    loop {
        match next(&mut events).await? {
            Event::Put(instance) => found.push(instance),
            Event::Synced(_) => return Ok(found),
            other => return Err(Status::internal(format!("{other:?} in the beginning"))),
        }
    }
}

/// The next thing that a watcher is told.
///
/// # Errors
/// When the stream ended.
pub async fn next(events: &mut Streaming<WatchEvent>) -> Result<Event, Status> {
    let event = events
        .message()
        .await?
        .ok_or(Status::unavailable("the stream ended"))?;
    event.event.ok_or(Status::internal("an event of no kind"))
}
