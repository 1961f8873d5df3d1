//! `causeway get events`: what happened, as lines that are added to and not drawn anew.

use std::time::{Duration, SystemTime};

use causeway_api::{admin::EventsView, elsewhere::EveryZoneView};
use causeway_federation::name::ServiceName;
use causeway_history::HistoryEvent;
use serde::Deserialize as _;

use super::{
    Failure,
    client::{Endpoint, escape},
    federation::{self, PlaceArgs},
    tables::{self, Tabular},
};
use crate::output::{self, Format, Tone, Word};

/// Between two looks with `--watch`.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// Events in one look that follows another.
const AT_ONCE: usize = 1_000;

/// Events that are asked for.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct EventArgs {
    /// With `events`: from this time ago, such as 2h, or from a moment (RFC 3339) [default: the latest 500]
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
    /// Those of one service; of `--service`, which other lists know too.
    #[arg(skip)]
    pub(super) service: Option<ServiceName>,
    /// With `events`: those of one kind, or of several with commas between them
    #[arg(long, value_name = "KIND")]
    pub(super) kind: Option<String>,
}

impl EventArgs {
    pub(super) fn is_given(&self) -> bool {
        self.since.is_some() || self.kind.is_some()
    }

    fn path(&self, more: &[(&str, String)]) -> String {
        let asked = [
            ("since", self.since.clone()),
            ("service", self.service.as_ref().map(ToString::to_string)),
            ("kind", self.kind.clone()),
        ];
        let asked = asked.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let more = more.iter().cloned();
        let pairs = asked
            .chain(more)
            .map(|(key, value)| format!("{key}={}", escape(&value)));
        format!("/v1/events?{}", pairs.collect::<Vec<_>>().join("&"))
    }
}

/// Events as a whole, of one zone or of all.
pub(super) async fn show(
    (args, place): (&EventArgs, &PlaceArgs),
    format: Format,
    admin: &Endpoint,
) -> Result<String, Failure> {
    let path = place.page(&args.path(&[]));
    match place.all {
        true => of_every_zone(&admin.get(&path).await?, format),
        false => shown(&admin.get(&path).await?, format),
    }
}

/// Shows what happened, and what happens from then on, until it is ended.
pub(super) async fn follow(
    (args, place): (&EventArgs, &PlaceArgs),
    format: Format,
    admin: &Endpoint,
) -> Result<(), Failure> {
    if place.all {
        return Err(
            Failure::usage("events are followed at one zone at a time").hint("name it with --at ZONE")
        );
    }
    let mut view: EventsView = admin.get(&place.page(&args.path(&[]))).await?;
    let mut last = view.last.unwrap_or_default();
    let mut is_away = false;
    loop {
        output::print_exactly(&lines(&view.events, format)?)?;
        last = last.max(view.events.last().map_or(0, |event| event.id));
        let more = [("after", last.to_string()), ("limit", AT_ONCE.to_string())];
        let path = place.page(&args.path(&more));
        view = loop {
            tokio::time::sleep(WATCH_EVERY).await;
            match admin.get(&path).await {
                Ok(view) => break view,
                Err(failure) => bear(failure, &mut is_away)?,
            }
        };
        is_away = false;
    }
}

/// Bears that a gateway which is watched is away for a while, as when it is restarted, and says so once.
///
/// # Errors
/// The failure, if waiting does not help.
pub(super) fn bear(failure: Failure, is_away: &mut bool) -> Result<(), Failure> {
    if !failure.is_passing() {
        return Err(failure);
    }
    if !std::mem::replace(is_away, true) {
        let _ = failure.report();
        output::tell("asking on until it is back\n");
    }
    Ok(())
}

/// Events of all zones in the order in which they came about, by the clocks of those who saw them.
fn of_every_zone(view: &EveryZoneView, format: Format) -> Result<String, Failure> {
    if matches!(format, Format::Json | Format::Yaml) {
        return super::get::structured(view, format);
    }
    let now = SystemTime::now();
    let (mut events, mut notes) = (Vec::new(), String::new());
    for zone in &view.zones {
        let shown = federation::shown(zone, now);
        federation::note(&mut notes, zone, shown.as_ref().and_then(|shown| shown.age));
        match shown.map(|shown| EventsView::deserialize(shown.answer)) {
            Some(Ok(told)) => events.extend(told.events.into_iter().map(|mut event| {
                // Nobody speaks for another zone.
                event.zone.clone_from(&zone.zone);
                SeenEvent(event)
            })),
            Some(Err(error)) => federation::note_garbled(&mut notes, &zone.zone, &error.to_string()),
            None => {}
        }
    }
    events.sort_by(|SeenEvent(one), SeenEvent(other)| {
        (&one.time, &one.zone, one.id).cmp(&(&other.time, &other.zone, other.id))
    });
    let table = match events.is_empty() {
        true => "No events.\n".to_owned(),
        false => tables::render(&events, format == Format::Wide, output::colour()),
    };
    Ok(if notes.is_empty() {
        table
    } else {
        format!("{table}\n{notes}")
    })
}

/// Event beside those of other zones.
struct SeenEvent(HistoryEvent);

impl Tabular for SeenEvent {
    const HEADER: &'static [&'static str] = &["TIME", "SEEN BY", "KIND", "WHAT", "BECAUSE"];
    const WIDE: &'static [&'static str] = HistoryEvent::WIDE;

    fn row(&self) -> Vec<Word> {
        let mut row = self.0.row();
        row.insert(1, self.0.zone.as_str().into());
        row
    }

    fn wide(&self) -> Vec<Word> {
        self.0.wide()
    }
}

/// All of them, as a whole.
fn shown(view: &EventsView, format: Format) -> Result<String, Failure> {
    Ok(match format {
        Format::Table | Format::Wide if view.events.is_empty() => "No events.\n".to_owned(),
        Format::Table => tables::render(&view.events, false, output::colour()),
        Format::Wide => tables::render(&view.events, true, output::colour()),
        Format::Yaml => {
            let text = serde_saphyr::to_string(view);
            text.map_err(|error| Failure::new("cannot write YAML").because(&error))?
        }
        Format::Json => json(serde_json::to_string_pretty(view))?,
    })
}

/// One line for each, and of YAML a document.
fn lines(events: &[HistoryEvent], format: Format) -> Result<String, Failure> {
    let line = |event: &HistoryEvent| match format {
        Format::Table | Format::Wide => Ok(line(event)),
        Format::Json => json(serde_json::to_string(event)),
        Format::Yaml => {
            let text = serde_saphyr::to_string(event);
            let text = text.map_err(|error| Failure::new("cannot write YAML").because(&error))?;
            Ok(format!("---\n{text}"))
        }
    };
    events.iter().map(line).collect()
}

fn json(text: serde_json::Result<String>) -> Result<String, Failure> {
    Ok(text.map_err(|error| Failure::new("cannot write JSON").because(&error))? + "\n")
}

/// `2026-11-30T14:05:03Z  tunnel_down  no tunnel with west/gw1 is up any more: it was lost (timeout)`.
fn line(event: &HistoryEvent) -> String {
    let because = event.because.as_deref().map(|why| format!(": {why}"));
    let text = format!("{}{}", event.text, because.unwrap_or_default());
    let text = causeway_telemetry::printable(&text);
    format!("{}  {:<21}  {text}\n", second(&event.time), event.kind)
}

/// A moment without its milliseconds.
fn second(time: &str) -> String {
    match time.split_once('.') {
        Some((second, _)) => format!("{second}Z"),
        None => time.to_owned(),
    }
}

impl Tabular for HistoryEvent {
    const HEADER: &'static [&'static str] = &["TIME", "KIND", "WHAT", "BECAUSE"];
    const WIDE: &'static [&'static str] = &["ID", "SERVICE", "PEER", "SUBJECT", "COUNT", "GATEWAY"];

    fn row(&self) -> Vec<Word> {
        vec![
            second(&self.time).into(),
            Word(self.kind.clone(), tone(&self.kind)),
            self.text.as_str().into(),
            self.because.as_deref().unwrap_or_default().into(),
        ]
    }

    fn wide(&self) -> Vec<Word> {
        let some = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        vec![
            self.id.into(),
            some(&self.service),
            some(&self.peer),
            some(&self.subject),
            self.count.into(),
            format!("{}/{}", self.zone, self.gateway).into(),
        ]
    }
}

fn tone(kind: &str) -> Tone {
    match kind {
        "tunnel_down"
        | "zone_withdrawn"
        | "home_lost"
        | "instance_unhealthy"
        | "certificate_expired"
        | "certificate_failed"
        | "shift_aborted"
        | "shed_begun"
        | "panic_begun"
        | "revoked"
        | "events_lost" => Tone::Bad,
        "tunnel_stalled"
        | "zone_suspect"
        | "failover_begun"
        | "failback_broken_off"
        | "spill_begun"
        | "ejected"
        | "topology_refused"
        | "certificate_expiring"
        | "shift_paused"
        | "peer_draining"
        | "instance_drained"
        | "shift_taken_back" => Tone::Doubtful,
        "tunnel_up"
        | "tunnel_heard"
        | "zone_fresh"
        | "failover_ended"
        | "spill_ended"
        | "shed_ended"
        | "panic_ended"
        | "home_found"
        | "instance_healthy"
        | "instance_undrained"
        | "shift_done"
        | "certificate_renewed" => Tone::Good,
        _ => Tone::Plain,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_gateway_that_is_away_is_borne_and_a_refusal_is_not() {
        let mut is_away = false;
        bear(Failure::new("cannot reach it").passing(), &mut is_away).unwrap();
        assert!(is_away);
        bear(Failure::new("cannot reach it").passing(), &mut is_away).unwrap();
        assert!(bear(Failure::new("the token is not known"), &mut is_away).is_err());
    }

    #[test]
    fn events_of_all_zones_are_in_one_order_and_say_who_saw_them() {
        let event = |id: u64, time: &str, zone: &str, text: &str| json!({ "id": id, "time": time, "zone": zone, "gateway": "gw1", "kind": "tunnel_down", "text": text, "because": "it was lost" });
        let answer = |events: Vec<serde_json::Value>| json!({ "events": events, "first": 1, "last": 9, "kept_for_seconds": 86400 });
        let view = json!({ "zones": [
            { "zone": "east", "state": "answered", "asked": "2026-11-30T14:00:10Z",
              "answer": answer(vec![event(4, "2026-11-30T14:00:01.000Z", "east", "first"), event(5, "2026-11-30T14:00:03.000Z", "east", "third")]) },
            { "zone": "north", "state": "refused", "asked": "2026-11-30T14:00:10Z", "because": "the bearer token is not known" },
            { "zone": "south", "state": "answered", "asked": "2026-11-30T14:00:10Z", "answer": { "events": 7 } },
            { "zone": "west", "state": "answered", "asked": "2026-11-30T14:00:10Z",
              "answer": answer(vec![event(9, "2026-11-30T14:00:02.000Z", "east", "second")]) },
        ]});
        let view: EveryZoneView = serde_json::from_value(view).unwrap();
        let text = of_every_zone(&view, Format::Table).unwrap();
        insta::assert_snapshot!(text, @r"
TIME                   SEEN BY   KIND          WHAT     BECAUSE
2026-11-30T14:00:01Z   east      tunnel_down   first    it was lost
2026-11-30T14:00:02Z   west      tunnel_down   second   it was lost
2026-11-30T14:00:03Z   east      tunnel_down   third    it was lost

zone north refuses: the bearer token is not known
zone south: its answer cannot be understood: invalid type: integer `7`, expected a sequence
");
    }
}
