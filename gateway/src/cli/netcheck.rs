//! `causeway netcheck`: why two zones do not talk, or talk badly. The addresses of the other zone are probed, and what is known of the
//! tunnels with it, here and there, is put beside that.

mod verdict;
#[cfg(test)]
mod verdict_tests;

use std::time::{Duration, SystemTime};

use causeway_api::admin::{
    EchoView, ProbedView,
    view::{Envelope, TunnelView, ZoneView},
};
use causeway_federation::name::ZoneName;
use causeway_telemetry::Check;
use tokio::time::sleep;

use super::{
    AdminArgs, Exit, Failure,
    check::{exit, report},
    get::structured,
};
use crate::output::{self, Format, ReportFormat};
use verdict::{PathFindings, WordOfPeer, judge};

const AFTER_HELP: &str = "\
Examples:
  causeway netcheck west                every gateway address that the topology has for zone west, and the tunnels with it
  causeway netcheck west -o json        for programs

First each address is looked up and sent five packets of 1,200 bytes over UDP, which every server of QUIC answers, whoever it is and
whoever asks: so the network is told apart from certificates. Then come the tunnels: who dialled, what was agreed, the certificate, the
largest packet that passes, losses, round trips to the program at the far end, clocks; and at last what the other zone says of this one.
It takes some seconds, and one at a time is run at a gateway.

  nothing is heard at an address        the network: routes, firewalls, NAT; or its host is down
  it refuses                            the host is there, and no gateway listens at that port
  it answers, and there is no tunnel    certificates, trust or versions: the word beside `no tunnel` says which
  a tunnel, and packets or answers lost the path is bad, or the far gateway has too much to do

Run it at both ends: a way may be open in one direction only. `causeway ping` measures for longer.

Exit codes: 0 when nothing failed (a ‼ is a warning), 1 when something did (×), or when it could not be asked.";

/// Times that every tunnel is asked.
const ECHOES: usize = 4;
/// Pause between two of them.
const PAUSE: Duration = Duration::from_millis(200);

/// Say why the way to another zone does not work, or works badly.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct NetcheckArgs {
    /// The zone
    #[arg(value_name = "ZONE")]
    zone: ZoneName,
    /// Form of the report
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) async fn run(args: NetcheckArgs) -> Result<Exit, Failure> {
    let (zone, findings) = gather(&args).await?;
    let items = judge(&findings, SystemTime::now());
    let envelope = Envelope {
        kind: "netcheck".to_owned(),
        items,
        ..zone
    };
    output::print(&match args.output {
        ReportFormat::Text => report(&envelope.zone, &envelope.items, output::colour()),
        ReportFormat::Json => structured(&envelope, Format::Json)?,
    })?;
    Ok(exit(&envelope.items))
}

/// Asks the gateway for everything that is judged; the probes first, so that the rest is newer.
async fn gather(args: &NetcheckArgs) -> Result<(Envelope<Check>, PathFindings), Failure> {
    let (gateway, zone) = (&args.admin.admin, args.zone.as_str());
    let probes: Envelope<ProbedView> = gateway.get(&format!("/v1/netcheck?zone={zone}")).await?;
    let mut echoes: Vec<EchoView> = Vec::new();
    for time in 0..ECHOES {
        if time > 0 {
            sleep(PAUSE).await;
        }
        let asked: Envelope<EchoView> = gateway.get(&format!("/v1/ping?zone={zone}")).await?;
        // Of those that are silent more would be asked in vain, for 2 s each time.
        let are_silent = asked.items.iter().all(|echo| echo.echo_ms.is_none());
        echoes.extend(asked.items);
        if are_silent {
            break;
        }
    }
    let zones: Envelope<ZoneView> = gateway.get("/v1/zones").await?;
    let tunnels: Envelope<TunnelView> = gateway.get("/v1/tunnels").await?;
    let tunnels: Vec<_> = tunnels
        .items
        .into_iter()
        .filter(|tunnel| tunnel.zone == zone)
        .collect();
    let peer = match tunnels.is_empty() {
        true => WordOfPeer::NotAsked,
        false => {
            let told = gateway.get(&format!("/v1/zones?at={zone}")).await;
            word_of_peer(told, &zones.zone)
        }
    };
    let own_has_addresses = zones
        .items
        .iter()
        .any(|view| view.own && !view.gateways.is_empty());
    let found = zones.items.into_iter().find(|view| view.name == zone);
    let view = found.ok_or_else(|| Failure::new(format!("zone {zone} has just left the topology")))?;
    let envelope = Envelope {
        version: probes.version,
        kind: probes.kind,
        zone: probes.zone,
        generation: probes.generation,
        items: Vec::new(),
        capacities: Vec::new(),
    };
    let findings = PathFindings {
        own_has_addresses,
        zone: view,
        probes: probes.items,
        tunnels,
        echoes,
        peer,
    };
    Ok((envelope, findings))
}

/// Reads what the other zone has answered of the own one.
fn word_of_peer(told: Result<Envelope<ZoneView>, Failure>, own: &str) -> WordOfPeer {
    match told {
        Ok(zones) => {
            let view = zones.items.into_iter().find(|view| view.name == own);
            view.map_or(WordOfPeer::KnowsNothing, |view| WordOfPeer::Said(Box::new(view)))
        }
        Err(failure) => {
            let (because, hint) = failure.into_words();
            WordOfPeer::None { because, hint }
        }
    }
}
