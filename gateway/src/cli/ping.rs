//! `causeway ping`: round trips between the gateway and each gateway of another zone, over their tunnels.

use std::{collections::BTreeMap, time::Duration};

use causeway_api::admin::{EchoView, view::Envelope};
use causeway_federation::name::ZoneName;
use causeway_telemetry::printable;
use serde_json::json;

use super::{AdminArgs, Exit, Failure};
use crate::output::{self, ReportFormat};

const AFTER_HELP: &str = "\
Examples:
  causeway ping west                    four times, a second apart, over every tunnel with every gateway of zone west
  causeway ping west -c 100 -i 200ms    a hundred times
  causeway ping west -o json            only the summary, for programs

Each time a small question goes to the program at the far end, and its answer is waited for, for 2 s at most. That is what a new connection
pays at least; `causeway get tunnels` shows the round trip of packets. Eight tunnels with each gateway are asked over, 64 in all.

Exit codes: 0 every gateway with a tunnel has answered; 1 it cannot be asked; 79 one never did, or there is no tunnel.";

/// Version of the JSON form.
const JSON_VERSION: u32 = 1;
/// Shortest pause between two times.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// Measure the round trip to each gateway of a zone.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct PingArgs {
    /// The zone
    #[arg(value_name = "ZONE")]
    zone: ZoneName,
    /// Number of pings
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Pause between two times; 100ms at least
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Answers of one gateway, over all its tunnels.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct PingSummary {
    pub(super) asked: u32,
    /// Milliseconds.
    pub(super) times: Vec<f64>,
}

impl PingSummary {
    pub(super) fn of(asked: u32, times: &[f64]) -> Self {
        let times = times.to_vec();
        Self { asked, times }
    }

    pub(super) fn add(&mut self, echo: &EchoView) {
        self.asked += 1;
        self.times.extend(echo.echo_ms);
    }

    fn lost_percent(&self) -> f64 {
        let answered = self.times.len() as f64;
        match self.asked {
            0 => 0.0,
            asked => 100.0 * (1.0 - answered / f64::from(asked)),
        }
    }

    /// Least, mean and greatest time, and the standard deviation, in milliseconds; `None`: nothing came back.
    fn spread(&self) -> Option<[f64; 4]> {
        let least = self.times.iter().copied().reduce(f64::min)?;
        let greatest = self.times.iter().copied().reduce(f64::max)?;
        let count = self.times.len() as f64;
        let mean = self.times.iter().sum::<f64>() / count;
        let variance = self.times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / count;
        Some([least, mean, greatest, variance.sqrt()])
    }

    fn in_words(&self) -> String {
        let line = format!(
            "{} asked, {} answered, {:.0}% lost\n",
            self.asked,
            self.times.len(),
            self.lost_percent()
        );
        match self.spread_in_words() {
            None => line,
            Some(spread) => format!("{line}{spread}\n"),
        }
    }

    /// The same as ping says it.
    pub(super) fn spread_in_words(&self) -> Option<String> {
        let [least, mean, greatest, deviation] = self.spread()?;
        Some(format!(
            "round trip min/avg/max/mdev = {least:.3}/{mean:.3}/{greatest:.3}/{deviation:.3} ms"
        ))
    }
}

pub(crate) async fn run(args: PingArgs) -> Result<Exit, Failure> {
    if args.interval < SHORTEST_INTERVAL {
        return Err(Failure::usage("--interval is 100ms at least"));
    }
    let mut summaries: BTreeMap<String, PingSummary> = BTreeMap::new();
    let mut broken_off = None;
    let mut turns = tokio::time::interval(args.interval);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for turn in 1..=args.count {
        turns.tick().await;
        let path = format!("/v1/ping?zone={}", args.zone);
        let echoes: Envelope<EchoView> = match args.admin.admin.get(&path).await {
            Ok(echoes) => echoes,
            Err(failure) => {
                broken_off = Some(failure);
                break;
            }
        };
        for echo in &echoes.items {
            let gateway = format!("{}/{}", echo.zone, echo.gateway);
            summaries.entry(gateway).or_default().add(echo);
        }
        if args.output == ReportFormat::Text {
            if turn == 1 {
                let (tunnels, from) = (echoes.items.len(), &echoes.zone);
                output::print(&format!(
                    "PING {} from zone {from} over {tunnels} tunnels\n",
                    args.zone
                ))?;
            }
            let lines = echoes.items.iter().map(|echo| line(echo, turn));
            output::print(&lines.collect::<String>())?;
        }
    }
    if broken_off.is_none() || !summaries.is_empty() {
        output::print(&match args.output {
            ReportFormat::Text => told(&summaries),
            ReportFormat::Json => as_json(&summaries),
        })?;
    }
    if let Some(failure) = broken_off {
        return Err(failure);
    }
    if summaries.is_empty() {
        let failure = Failure::new(format!("there is no tunnel with zone {}", args.zone));
        return Err(failure.hint("`causeway check` says why").exit(Exit::IssuesFound));
    }
    let silent = summaries.values().any(|summary| summary.times.is_empty());
    Ok(if silent { Exit::IssuesFound } else { Exit::Done })
}

/// `west/gw1 (10.2.0.1:7800, thread 0): seq=1 time=12.345 ms`.
fn line(echo: &EchoView, turn: u32) -> String {
    let EchoView {
        zone,
        gateway,
        remote,
        thread,
        ..
    } = echo;
    let ended = match (echo.echo_ms, &echo.because) {
        (Some(time), _) => format!("time={time:.3} ms"),
        (None, because) => printable(because.as_deref().unwrap_or("no answer")).into_owned(),
    };
    format!("{zone}/{gateway} ({remote}, thread {thread}): seq={turn} {ended}\n")
}

fn told(summaries: &BTreeMap<String, PingSummary>) -> String {
    let each = summaries
        .iter()
        .map(|(gateway, summary)| format!("\n--- {gateway} ---\n{}", summary.in_words()));
    each.collect()
}

fn as_json(summaries: &BTreeMap<String, PingSummary>) -> String {
    let gateways = summaries.iter().map(|(gateway, summary)| {
        let [least, mean, greatest, deviation] =
            summary.spread().map_or([None; 4], |spread| spread.map(Some));
        json!({
            "gateway": gateway,
            "asked": summary.asked,
            "answered": summary.times.len(),
            "min_ms": least,
            "avg_ms": mean,
            "max_ms": greatest,
            "mdev_ms": deviation,
        })
    });
    let gateways: Vec<_> = gateways.collect();
    format!("{:#}\n", json!({ "version": JSON_VERSION, "gateways": gateways }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(gateway: &str, echo_ms: Option<f64>) -> EchoView {
        EchoView {
            zone: "west".to_owned(),
            gateway: gateway.to_owned(),
            thread: 0,
            dialled: true,
            remote: "10.2.0.1:7800".parse().unwrap(),
            echo_ms,
            rtt_ms: 1.0,
            because: echo_ms.is_none().then(|| "no answer within 2 s".to_owned()),
        }
    }

    #[test]
    fn each_gateway_is_summed_up_as_ping_does() {
        let mut summaries: BTreeMap<String, PingSummary> = BTreeMap::new();
        for (gateway, time) in [
            ("gw1", Some(1.0)),
            ("gw2", None),
            ("gw1", Some(3.0)),
            ("gw2", None),
            ("gw1", None),
            ("gw1", Some(2.0)),
        ] {
            summaries
                .entry(gateway.to_owned())
                .or_default()
                .add(&echo(gateway, time));
        }
        insta::assert_snapshot!(told(&summaries).trim_start(), @r"
--- gw1 ---
4 asked, 3 answered, 25% lost
round trip min/avg/max/mdev = 1.000/2.000/3.000/0.816 ms

--- gw2 ---
2 asked, 0 answered, 100% lost
");
        let json: serde_json::Value = serde_json::from_str(&as_json(&summaries)).unwrap();
        assert_eq!(
            (&json["gateways"][0]["avg_ms"], &json["gateways"][1]["avg_ms"]),
            (&json!(2.0), &json!(null))
        );
    }

    #[test]
    fn a_line_says_the_time_or_why_there_is_none() {
        assert_eq!(
            line(&echo("gw1", Some(12.3456)), 7),
            "west/gw1 (10.2.0.1:7800, thread 0): seq=7 time=12.346 ms\n"
        );
        assert!(line(&echo("gw1", None), 1).ends_with("seq=1 no answer within 2 s\n"));
    }
}
