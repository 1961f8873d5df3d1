//! Verdicts on what was found of the way to a zone. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use causeway_api::admin::{
    EchoView, HeardView, ProbedView, REFUSED_LATELY_SECONDS, diagnose_zone,
    view::{TunnelView, ZoneView},
};
use causeway_telemetry::{Check, Status, printable};
use causeway_tunnel::TunnelRefusal;

use crate::cli::{ping::PingSummary, tables::lasting};

/// Bytes of the packets that a tunnel begins with: the least that QUIC wants to pass.
const LEAST_MTU_BYTES: u16 = 1_200;
/// Age from which a tunnel should have found out what passes, in seconds.
const MTU_FOUND_AFTER: f64 = 30.0;
/// Packets of a tunnel from which its losses say something.
const ENOUGH_PACKETS: u64 = 1_000;
/// Share of lost packets from which a path is bad.
const MUCH_LOST: f64 = 0.01;
/// Seconds before its end from which a certificate should have been renewed.
const ENDS_SOON: f64 = 600.0;

const SILENT: &str = "is its gateway running, is this UDP port open on the way there and back, and do IP packets of 1,228 bytes (UDP with 1,200) pass?";
const REFUSED: &str = "is its gateway running there, and does its --listen have this port?";
const UNRESOLVED: &str =
    "is it right in the topology? `getent ahosts` on the gateway's host asks the same resolver";
const UNSENT: &str = "has this host a route there, and may the gateway send UDP?";
const BAD_PATH: &str =
    "`causeway ping` measures for longer; a link that is full, wireless or on its way to break loses packets";

/// Everything that was found of the way to one zone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PathFindings {
    /// The own zone can be dialled.
    pub(super) own_has_addresses: bool,
    /// The other zone, as the gateway that was asked sees it.
    pub(super) zone: ZoneView,
    pub(super) probes: Vec<ProbedView>,
    pub(super) tunnels: Vec<TunnelView>,
    /// Answers of the programs at the far ends.
    pub(super) echoes: Vec<EchoView>,
    pub(super) peer: WordOfPeer,
}

/// Word of the other zone on the own one.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum WordOfPeer {
    /// There is no tunnel to ask over.
    NotAsked,
    Said(Box<ZoneView>),
    /// Its topology does not have the own zone.
    KnowsNothing,
    /// It was asked, and does not say.
    None {
        because: String,
        hint: Option<String>,
    },
}

/// Says how everything stands that was found, and what to do.
pub(super) fn judge(findings: &PathFindings, now: SystemTime) -> Vec<Check> {
    let mut checks = addresses(findings);
    checks.extend(links(findings));
    let mut by_gateway: BTreeMap<&str, Vec<&TunnelView>> = BTreeMap::new();
    for tunnel in &findings.tunnels {
        by_gateway.entry(&tunnel.gateway).or_default().push(tunnel);
    }
    for (gateway, tunnels) in by_gateway {
        let name = format!("{}/{gateway}", findings.zone.name);
        let echoes = findings.echoes.iter().filter(|echo| echo.gateway == gateway);
        checks.extend(
            [agreed(&name, &tunnels), certificate(&name, &tunnels, now)]
                .into_iter()
                .flatten(),
        );
        checks.extend(
            [packets(&name, &tunnels), round_trip(&name, echoes)]
                .into_iter()
                .flatten(),
        );
    }
    checks.extend(peer(findings));
    checks
}

/// Clocks that agree well enough; of others there is a warning.
fn clocks(zone: &ZoneView) -> Vec<Check> {
    let told = zone.links.iter().filter_map(|link| {
        let ahead = link.clock_ahead_seconds?;
        let side = if ahead < 0.0 { "behind" } else { "ahead of" };
        let name = format!("{}/{}", zone.name, link.gateway);
        let message = format!(
            "its clock was {:.1} s {side} this host's when the youngest tunnel came up",
            ahead.abs()
        );
        Some(Check::ok("clocks", name, message))
    });
    told.collect()
}

/// Verdicts on what the topology lists.
fn addresses(findings: &PathFindings) -> Vec<Check> {
    const GROUP: &str = "addresses";
    if findings.zone.gateways.is_empty() {
        let name = format!("zone {}", findings.zone.name);
        return vec![match findings.own_has_addresses {
            true => Check::ok(
                GROUP,
                name,
                "none in the topology: its gateways dial, this one waits",
            ),
            false => Check::warn(
                GROUP,
                name,
                "neither zone has one in the topology, so neither dials",
                "give one of the two the addresses of its gateways; until then only other zones pass on what it tells",
            ),
        }];
    }
    let mut gateways: BTreeMap<usize, Vec<&ProbedView>> = BTreeMap::new();
    for probed in &findings.probes {
        gateways.entry(probed.gateway).or_default().push(probed);
    }
    let up: BTreeSet<&str> = up_tunnels(findings)
        .map(|tunnel| tunnel.gateway.as_str())
        .collect();
    let all_up = up.len() >= findings.zone.gateways.len();
    let each = gateways.into_values().flat_map(|probed| {
        let heard = |heard: &HeardView| !heard.round_trips_ms.is_empty() || has_tunnel(findings, heard);
        // The addresses of one gateway stand for one another.
        let is_reached = all_up || probed.iter().any(|name| name.heard.iter().any(heard));
        probed
            .into_iter()
            .flat_map(move |name| one_name(findings, name, is_reached))
    });
    each.collect()
}

fn up_tunnels(findings: &PathFindings) -> impl Iterator<Item = &TunnelView> {
    findings.tunnels.iter().filter(|tunnel| tunnel.state == "up")
}

/// A tunnel that is up was dialled to this address.
fn has_tunnel(findings: &PathFindings, heard: &HeardView) -> bool {
    up_tunnels(findings).any(|tunnel| tunnel.dialled && tunnel.remote.to_string() == heard.address)
}

fn one_name(findings: &PathFindings, probed: &ProbedView, is_reached: bool) -> Vec<Check> {
    let bad = |name: &str, message: String, hint: &str| match is_reached {
        true => Check::warn("addresses", name, message, hint),
        false => Check::fail("addresses", name, message, hint),
    };
    if let Some(why) = &probed.unresolved {
        let message = format!("the name has no address: {}", printable(why));
        return vec![bad(&probed.address, message, UNRESOLVED)];
    }
    let each = probed.heard.iter().map(|heard| {
        let name = match probed.address == heard.address {
            true => heard.address.clone(),
            false => format!("{} at {}", probed.address, heard.address),
        };
        let (sent, answered) = (heard.sent, heard.round_trips_ms.len());
        if let Some(why) = &heard.unsent {
            return bad(
                &name,
                format!("nothing can be sent there: {}", printable(why)),
                UNSENT,
            );
        }
        if heard.refused {
            return bad(
                &name,
                "the host refuses it: nothing listens at this UDP port".to_owned(),
                REFUSED,
            );
        }
        match PingSummary::of(sent, &heard.round_trips_ms).spread_in_words() {
            None if has_tunnel(findings, heard) => Check::warn(
                "addresses",
                name,
                format!("none of {sent} packets was answered, although a tunnel is up"),
                "does something on the way let only what it knows pass, or is the gateway too busy?",
            ),
            None => bad(
                &name,
                format!("nothing is heard: none of {sent} packets was answered"),
                SILENT,
            ),
            Some(times) if answered < sent as usize => {
                let message = format!("{answered} of {sent} packets answered, {times}");
                Check::warn("addresses", name, message, BAD_PATH)
            }
            Some(times) => Check::ok("addresses", name, format!("answers over UDP, {times}")),
        }
    });
    each.collect()
}

/// Verdicts on tunnels, zone sync and clocks, as `causeway check` has them; without a tunnel the word for it decides what to do.
fn links(findings: &PathFindings) -> Vec<Check> {
    let mut checks = diagnose_zone(&findings.zone);
    if !checks.iter().any(|check| check.group == "clocks") {
        checks.extend(clocks(&findings.zone));
    }
    if findings.zone.state != "down" {
        return checks;
    }
    let word = findings.zone.last_word.as_ref();
    let word = word.filter(|word| word.side.is_some() && word.seconds_ago < REFUSED_LATELY_SECONDS);
    let refusal = word.and_then(|word| {
        TunnelRefusal::ALL
            .into_iter()
            .find(|one| one.word() == word.reason)
    });
    for check in checks.iter_mut().filter(|check| check.group == "tunnels") {
        if findings.own_has_addresses || !findings.zone.gateways.is_empty() {
            check.status = Status::Fail;
        }
        if let Some(refusal) = refusal {
            check.hint = Some(refusal.hint().to_owned());
        }
    }
    checks
}

/// Tells who dialled, for how long it is up, what was agreed and with what program.
fn agreed(name: &str, tunnels: &[&TunnelView]) -> Option<Check> {
    let first = tunnels.first()?;
    let count = |state: &str| tunnels.iter().filter(|tunnel| tunnel.state == state).count();
    let dialled = tunnels.iter().filter(|tunnel| tunnel.dialled).count();
    let oldest = tunnels.iter().map(|tunnel| tunnel.up_seconds).fold(0.0, f64::max);
    let mut message = format!(
        "{} up, of {}; {dialled} dialled here, {} there; the oldest for {}",
        count("up"),
        tunnels.len(),
        tunnels.len() - dialled,
        lasting(oldest)
    );
    for word in [&first.key_exchange, &first.cipher, &first.program]
        .into_iter()
        .flatten()
    {
        message.push_str(", ");
        message.push_str(&printable(word));
    }
    Some(match count("stalled") {
        0 => Check::ok("tunnels", name, message),
        silent => Check::warn(
            "tunnels",
            name,
            format!("{message}; {silent} silent"),
            "is the far host or the network overloaded or cut off? a silent tunnel is given up after --idle-timeout",
        ),
    })
}

/// The certificate that the peer showed.
fn certificate(name: &str, tunnels: &[&TunnelView], now: SystemTime) -> Option<Check> {
    let name = format!("{name} certificate");
    let youngest = tunnels
        .iter()
        .min_by(|a, b| a.up_seconds.total_cmp(&b.up_seconds))?;
    let (identity, ends) = (youngest.identity.as_ref()?, youngest.certificate_ends.as_ref()?);
    let message = format!("{identity}, under a root that is trusted here, until {ends}");
    let end = humantime::parse_rfc3339_weak(ends).ok()?;
    let left = end.duration_since(now).map_or(0.0, |left| left.as_secs_f64());
    Some(match left > ENDS_SOON {
        true => Check::ok("tunnels", name, message),
        false => Check::warn(
            "tunnels",
            name,
            message,
            "is it renewed there? `causeway check` of that zone says so; once it has ended no new tunnel comes up",
        ),
    })
}

/// The size of packets that pass, and how many are lost.
fn packets(name: &str, tunnels: &[&TunnelView]) -> Option<Check> {
    let name = format!("{name} packets");
    let found = tunnels
        .iter()
        .filter(|tunnel| tunnel.up_seconds >= MTU_FOUND_AFTER);
    let stuck = found
        .map(|tunnel| tunnel.mtu_bytes)
        .min()
        .filter(|mtu| *mtu <= LEAST_MTU_BYTES);
    let mtu = tunnels.iter().map(|tunnel| tunnel.mtu_bytes).min()?;
    let sum = |count: fn(&TunnelView) -> u64| tunnels.iter().map(|tunnel| count(tunnel)).sum::<u64>();
    let (sent, lost) = (
        sum(|tunnel| tunnel.sent_packets),
        sum(|tunnel| tunnel.lost_packets),
    );
    let share = if sent == 0 { 0.0 } else { lost as f64 / sent as f64 };
    let message = format!(
        "of {mtu} bytes pass; {lost} of {sent} lost since the tunnels are up ({:.2}%)",
        100.0 * share
    );
    Some(if sent >= ENOUGH_PACKETS && share >= MUCH_LOST {
        Check::warn("tunnels", name, message, BAD_PATH)
    } else if stuck.is_some() {
        let hint = "the path takes none that are larger (a VPN, PPPoE?), which costs throughput: give it an MTU of 1,480 and more, if it can";
        Check::warn("tunnels", name, message, hint)
    } else {
        Check::ok("tunnels", name, message)
    })
}

/// Round trips to the far gateway's program.
fn round_trip<'a>(name: &str, echoes: impl Iterator<Item = &'a EchoView>) -> Option<Check> {
    let name = format!("{name} answers");
    let mut summary = PingSummary::default();
    let mut because = None;
    for echo in echoes {
        summary.add(echo);
        because = echo.because.as_ref().or(because);
    }
    let (asked, answered) = (summary.asked, summary.times.len());
    if asked == 0 {
        return None;
    }
    let why = because.map_or(String::new(), |why| format!(": {}", printable(why)));
    Some(match summary.spread_in_words() {
        None => Check::fail(
            "tunnels",
            name,
            format!("none of {asked} questions was answered{why}"),
            "is its gateway alive, or the way to it cut? its log says more",
        ),
        Some(times) if answered < asked as usize => {
            let message = format!("{answered} of {asked} questions, {times}{why}");
            Check::warn("tunnels", name, message, BAD_PATH)
        }
        Some(times) => Check::ok("tunnels", name, format!("all of {asked} questions, {times}")),
    })
}

/// Verdicts on what the other zone says of this one.
fn peer(findings: &PathFindings) -> Vec<Check> {
    let zone = &findings.zone.name;
    let group = format!("as {zone} says");
    match &findings.peer {
        WordOfPeer::NotAsked => Vec::new(),
        WordOfPeer::Said(view) => {
            let told = diagnose_zone(view).into_iter().map(|check| Check {
                group: group.clone(),
                name: printable(&check.name).into_owned(),
                message: printable(&check.message).into_owned(),
                // Advice for there, which its own report gives.
                hint: check
                    .hint
                    .is_some()
                    .then(|| format!("`causeway netcheck` in zone {zone} says more")),
                status: check.status,
            });
            told.collect()
        }
        WordOfPeer::KnowsNothing => vec![Check::fail(
            &group,
            "this zone",
            "it is not in the topology there",
            "give every zone the same topology",
        )],
        WordOfPeer::None { because, hint } => vec![Check::warn(
            &group,
            "this zone",
            format!("it does not say: {}", printable(because)),
            hint.clone()
                .unwrap_or_else(|| "ask that zone's operator".to_owned()),
        )],
    }
}
