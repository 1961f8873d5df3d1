//! The zones of a federation in network namespaces: their gateways as processes, and the network between them.
//!
//! The script that starts this program has made a namespace for each zone, all on one bridge, and an identity for each
//! gateway. This network namespace is the hub: tunnels between zones pass through the emulated link in it, which takes
//! the place of a delay in the kernel, for not every kernel has one (`netem`).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use rustix::process::Signal;

use super::{
    admin::{Admin, Answer},
    scale::Scale,
    shared::{self, SharedRegistry},
};
use crate::{
    link::{Conditions, Network},
    process::Process,
};

/// Time in which a gateway that is up answers its admin API.
const ALIVE_WITHIN: Duration = Duration::from_secs(1);
/// Port that gateways listen on.
const PORT: u16 = 7800;
/// Every registration is a line otherwise, and there are hundreds a second.
const LOG: &str = "info,causeway_instances=warn";
/// The zone whose gateway's log nobody reads any more.
const UNHEARD: &str = "plant";
/// The resolver in each zone that loses bursts, which its gateway asks for names outside of the mesh.
const RESOLVER: &str = "127.0.0.54:53";
/// Time that a gateway which is told to end leaves to connections; those of clients that hang never finish.
const DRAIN: &str = "3s";
/// A gateway ends at SIGTERM well within this.
const END_PATIENCE: Duration = Duration::from_secs(20);

/// Place of one zone, as the script tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub name: String,
    /// A process that holds the zone's network namespace.
    pub holder: u32,
    /// Last byte of the zone's address; the front for its gateway is 100 above.
    pub number: u8,
}

impl std::str::FromStr for Place {
    type Err = anyhow::Error;

    /// `NAME:PID:NUMBER`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().context("a zone is NAME:PID:NUMBER");
        Ok(Self {
            name: part()?.to_owned(),
            holder: part()?.parse().context("the process that holds the zone")?,
            number: part()?.parse().context("the number of the zone")?,
        })
    }
}

impl Place {
    /// Zone of the gateway: its name up to a dot, after which that of the gateway stands where the zone has several.
    #[must_use]
    pub fn zone(&self) -> &str {
        self.name.split_once('.').map_or(&self.name, |(zone, _)| zone)
    }

    /// Name of the gateway as its records bear it.
    #[must_use]
    pub fn origin(&self) -> String {
        let (zone, gateway) = self.name.split_once('.').unwrap_or((&self.name, "gw1"));
        format!("{zone}/{gateway}")
    }

    fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 80, 0, self.number)
    }

    fn front(&self) -> SocketAddr {
        SocketAddr::from(([10, 80, 0, self.number.saturating_add(100)], PORT))
    }

    /// A program that runs in this zone's network; it takes the place of the process that is started.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder));
        command.arg("--").arg(program);
        command
    }
}

/// One zone and its gateway.
#[derive(Debug)]
pub struct Zone {
    pub place: Place,
    pub admin: Admin,
    /// Number of times that its gateway was started.
    pub life: u64,
    process: Option<Process>,
    /// Was told to end.
    leaving: Option<Process>,
}

/// Programs that run in the zones.
#[derive(Debug, Clone)]
pub struct Programs {
    pub causeway: PathBuf,
    /// Has the instance that comes up and goes down.
    pub probe: PathBuf,
    pub topology: PathBuf,
    pub scale: Scale,
}

/// All of them. Dropping it kills the gateways.
#[derive(Debug)]
pub struct Zones {
    folder: PathBuf,
    programs: Programs,
    zones: BTreeMap<String, Zone>,
    network: Network,
    clear: Conditions,
    /// Clients that hang, by zone.
    clients: BTreeMap<String, Process>,
    /// Registry of the zone with several gateways, where the run is large.
    _shared: Option<SharedRegistry>,
    resolvers: Vec<Process>,
}

impl Zones {
    /// Opens the links between the zones, each with this delay one way. Starts no gateway.
    ///
    /// # Errors
    /// When an address is taken or missing.
    pub async fn new(
        folder: &Path,
        programs: Programs,
        places: Vec<Place>,
        delay: Duration,
    ) -> anyhow::Result<Self> {
        let network = Network::new()?;
        let senders: BTreeMap<IpAddr, String> = places
            .iter()
            .map(|place| (place.address().into(), place.name.clone()))
            .collect();
        let clear = Conditions::delayed(delay);
        for to in &places {
            let gateway = SocketAddr::from((to.address(), PORT));
            network
                .connect_all(&senders, &to.name, to.front(), gateway)
                .await?;
            network.set_all(&to.name, clear);
        }
        let zones = places.into_iter().map(|place| {
            let zone = Zone {
                admin: Admin::new(&folder.join(format!("{}.sock", place.name))),
                place,
                life: 0,
                process: None,
                leaving: None,
            };
            (zone.place.name.clone(), zone)
        });
        let shared = match programs.scale.large {
            true => Some(SharedRegistry::start(&programs, folder).await?),
            false => None,
        };
        let mut all = Self {
            folder: folder.to_owned(),
            programs,
            zones: zones.collect(),
            network,
            clear,
            clients: BTreeMap::new(),
            _shared: shared,
            resolvers: Vec::new(),
        };
        if all.scale().large {
            let names = all.zones.keys();
            let resolvers: anyhow::Result<Vec<Process>> = names
                .map(|name| all.start_probe(name, &["resolver", RESOLVER]))
                .collect();
            all.resolvers = resolvers?;
        }
        Ok(all)
    }

    #[must_use]
    pub fn scale(&self) -> Scale {
        self.programs.scale
    }

    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.zones.keys().map(String::as_str).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Zone)> {
        self.zones.iter().map(|(name, zone)| (name.as_str(), zone))
    }

    /// # Errors
    /// When there is no such zone.
    pub fn zone(&self, name: &str) -> anyhow::Result<&Zone> {
        self.zones.get(name).with_context(|| format!("no zone {name}"))
    }

    fn zone_mut(&mut self, name: &str) -> anyhow::Result<&mut Zone> {
        self.zones
            .get_mut(name)
            .with_context(|| format!("no zone {name}"))
    }

    /// # Errors
    /// When the program cannot be started.
    pub fn start(&mut self, name: &str) -> anyhow::Result<()> {
        let (folder, programs) = (self.folder.clone(), self.programs.clone());
        let zone = self.zone_mut(name)?;
        let mut command = zone.place.command(&programs.causeway);
        let file = |suffix: &str| folder.join(format!("{name}{suffix}"));
        command
            .args(["gateway", "--zone", zone.place.zone(), "--listen", "0.0.0.0:7800"])
            .args(["--dns", "127.0.0.53:53", "--log-level", LOG, "--drain", DRAIN])
            .arg("--topology")
            .arg(&programs.topology)
            .arg("--identity")
            .arg(file("/identity"))
            .arg("--data")
            .arg(file("/data"))
            .arg("--admin")
            .arg(format!("unix:{}", file(".sock").display()));
        if programs.scale.large {
            command.args(["--dns-upstream", RESOLVER]);
        }
        if zone.place.zone() == shared::ZONE {
            command.args(["--zone-sync", shared::ADDRESS, "--zone-sync-insecure"]);
        }
        zone.life += 1;
        zone.process = Some(match name {
            UNHEARD => Process::start_unheard(name, &mut command)?,
            _ => Process::start(name, &mut command, &file(".log"))?,
        });
        Ok(())
    }

    /// Reports whether the gateway answers at this moment: one that is starting or stopped does not.
    pub async fn is_alive(&self, name: &str) -> bool {
        let Ok(zone) = self.zone(name) else { return false };
        let asked = zone.admin.ask(http::Method::GET, "/livez", None);
        let answer = tokio::time::timeout(ALIVE_WITHIN, asked).await;
        matches!(answer, Ok(Answer::Came(200, _)))
    }

    /// Waits until the gateway answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn wait_alive(&mut self, name: &str) -> anyhow::Result<()> {
        let admin = self.zone(name)?.admin.clone();
        let begun = std::time::Instant::now();
        while !matches!(
            admin.ask(http::Method::GET, "/livez", None).await,
            Answer::Came(200, _)
        ) {
            let fallen = self.fallen();
            ensure!(fallen.is_empty(), "{}", fallen.join(", "));
            ensure!(
                begun.elapsed() < self.scale().begin_within,
                "the gateway of {name} does not answer"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// SIGKILL, and the end of the process.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let zone = self.zone_mut(name)?;
        match zone.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// SIGTERM; it ends by itself.
    ///
    /// # Errors
    /// When there is none.
    pub fn terminate(&mut self, name: &str) -> anyhow::Result<()> {
        self.signal(name, Signal::TERM)?;
        let zone = self.zone_mut(name)?;
        zone.leaving = zone.process.take();
        Ok(())
    }

    /// Waits for the end of a gateway that was told to end.
    ///
    /// # Errors
    /// When it does not end in order.
    pub async fn ended(&mut self, name: &str) -> anyhow::Result<()> {
        if let Some(mut process) = self.zone_mut(name)?.leaving.take() {
            let status = process.wait(END_PATIENCE).await;
            ensure!(status.success(), "the gateway of {name} ended with {status}");
        }
        Ok(())
    }

    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, name: &str, signal: Signal) -> anyhow::Result<()> {
        self.gateway(name)?.signal(signal)
    }

    /// Starts, in every zone, an instance that takes connections for this long, then for this long does not, and so on. It
    /// ends when the processes are dropped.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_flapping(&self, every: Duration) -> anyhow::Result<Vec<Process>> {
        let start = |(name, zone): (&String, &Zone)| {
            let mut command = zone.place.command(&self.programs.probe);
            command.args(["flap", "127.0.0.1:9000", &every.as_millis().to_string()]);
            let log = self.folder.join(format!("{name}-flapping.log"));
            Process::start(&format!("the instance of {name}"), &mut command, &log)
        };
        self.zones.iter().map(start).collect()
    }

    /// Starts the program of the instances and clients in a zone, with these arguments. It ends when it is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_probe(&self, zone: &str, arguments: &[&str]) -> anyhow::Result<Process> {
        let mut command = self.zone(zone)?.place.command(&self.programs.probe);
        let [what, ..] = arguments else {
            anyhow::bail!("a program has arguments");
        };
        let log = self.folder.join(format!("{zone}-{what}.log"));
        Process::start(&format!("{what} in {zone}"), command.args(arguments), &log)
    }

    /// Starts clients in a zone that hang as `how` says.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_clients(
        &mut self,
        zone: &str,
        how: &str,
        service: &str,
        count: usize,
    ) -> anyhow::Result<()> {
        let clients = self.start_probe(zone, &[how, service, &count.to_string()])?;
        self.clients.insert(zone.to_owned(), clients);
        Ok(())
    }

    /// Ends the clients of a zone that hang.
    pub fn end_clients(&mut self, zone: &str) {
        self.clients.remove(zone);
    }

    /// Folder for everything that is written.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Registries with a gateway each that takes registrations for them, by zone.
    #[must_use]
    pub fn registries(&self) -> BTreeMap<String, Admin> {
        let mut registries = BTreeMap::new();
        for zone in self.zones.values() {
            let registry = registries.entry(zone.place.zone().to_owned());
            registry.or_insert_with(|| zone.admin.clone());
        }
        registries
    }

    /// The process of a zone's gateway.
    ///
    /// # Errors
    /// When there is none.
    pub fn gateway(&self, name: &str) -> anyhow::Result<&Process> {
        let process = self.zone(name)?.process.as_ref();
        process.with_context(|| format!("{name} has no gateway"))
    }

    /// A line for each gateway that ended although nobody told it to.
    pub fn fallen(&mut self) -> Vec<String> {
        let ended = self.zones.iter_mut().filter_map(|(name, zone)| {
            let status = zone.process.as_mut()?.ended()?;
            Some(format!("the gateway of {name} ended by itself with {status}"))
        });
        ended.collect()
    }

    pub fn set_link(&self, one: &str, other: &str, conditions: Option<Conditions>) {
        self.network.set(one, other, conditions.unwrap_or(self.clear));
    }

    pub fn set_direction(&self, from: &str, to: &str, conditions: Option<Conditions>) {
        self.network
            .set_direction(from, to, conditions.unwrap_or(self.clear));
    }

    /// Loses this share of the datagrams between two zones.
    pub fn set_loss(&self, one: &str, other: &str, loss: f64) {
        self.set_link(one, other, Some(Conditions { loss, ..self.clear }));
    }

    /// Takes the zone's port off the bridge, or puts it back.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn set_plugged(&self, name: &str, plugged: bool) -> anyhow::Result<()> {
        let mut command = Command::new("ip");
        command.args(["link", "set", &format!("port-{name}")]);
        match plugged {
            true => command.args(["master", "bridge"]),
            false => command.arg("nomaster"),
        };
        carry_out(&mut command)
    }

    /// Sets the zone's own interface up or down.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn set_up(&self, name: &str, up: bool) -> anyhow::Result<()> {
        let mut command = self.zone(name)?.place.command(Path::new("ip"));
        carry_out(command.args(["link", "set", "eth0", if up { "up" } else { "down" }]))
    }

    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }
}

fn carry_out(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().context("run a command")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}
