//! Answers of several zones to one command (`--all`, `--at`): one table of them all, with the zone that was asked in its first column, and
//! what is to be said of zones that have not answered.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use causeway_api::{
    admin::view::Envelope,
    elsewhere::{EveryZoneView, ZoneAnswerState, ZoneAnswerView},
};
use causeway_federation::name::ZoneName;
use causeway_telemetry::printable;
use serde::{Deserialize as _, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Failure,
    choose::{Chosen, SortColumn},
    tables::{Tabular, ago},
};
use crate::output::{Format, Tone, Word, table, wide_table};

/// Zones that a command asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct PlaceArgs {
    /// Ask every zone through this gateway; each decides what may be read of it
    #[arg(long, conflicts_with = "at")]
    pub(super) all: bool,
    /// Ask this zone, through this gateway
    #[arg(long, value_name = "ZONE")]
    pub(super) at: Option<ZoneName>,
}

impl PlaceArgs {
    /// The path at which these zones are asked for a page.
    pub(super) fn page(&self, path: &str) -> String {
        let join = if path.contains('?') { '&' } else { '?' };
        match &self.at {
            Some(zone) => format!("{path}{join}at={zone}"),
            None if self.all => format!("{path}{join}all=true"),
            None => path.to_owned(),
        }
    }
}

/// Answer that is shown of a zone, and since when it is not the newest.
pub(super) struct ShownAnswer<'a> {
    pub(super) answer: &'a Value,
    /// Seconds; `None`: it is of now.
    pub(super) age: Option<f64>,
}

/// The answer of a zone, or its last word.
pub(super) fn shown(zone: &ZoneAnswerView, now: SystemTime) -> Option<ShownAnswer<'_>> {
    if let Some(answer) = &zone.answer {
        return Some(ShownAnswer { answer, age: None });
    }
    let last = zone.last.as_ref()?;
    let time = humantime::parse_rfc3339_weak(&last.time).ok()?;
    let age = now.duration_since(time).unwrap_or(Duration::ZERO).as_secs_f64();
    Some(ShownAnswer {
        answer: &last.answer,
        age: Some(age),
    })
}

/// Reads an answer of another zone, which may say what it likes.
pub(super) fn understood<T: DeserializeOwned>(answer: &Value) -> Result<Envelope<T>, String> {
    Envelope::<T>::deserialize(answer).map_err(|error| error.to_string())
}

/// Shows the answers of all zones in one form.
pub(super) fn render<T: DeserializeOwned + Serialize + Tabular>(
    view: &EveryZoneView,
    chosen: &Chosen,
    sort: Option<SortColumn>,
    format: Format,
    colour: bool,
    now: SystemTime,
) -> Result<String, Failure> {
    match format {
        Format::Table => Ok(one_table::<T>(view, chosen, (sort, false), colour, now)),
        Format::Wide => Ok(one_table::<T>(view, chosen, (sort, true), colour, now)),
        Format::Json | Format::Yaml => super::get::structured(view, format),
    }
}

fn one_table<T: DeserializeOwned + Tabular>(
    view: &EveryZoneView,
    chosen: &Chosen,
    (sort, wide): (Option<SortColumn>, bool),
    colour: bool,
    now: SystemTime,
) -> String {
    let mut header = vec!["AT ZONE"];
    header.extend(T::HEADER);
    if wide {
        header.extend(T::WIDE);
    }
    let (mut items, mut notes) = (Vec::new(), String::new());
    for zone in &view.zones {
        let shown = shown(zone, now);
        let read = shown.as_ref().map(|shown| understood::<T>(shown.answer));
        let age = shown.and_then(|shown| shown.age);
        note(&mut notes, zone, age);
        match read {
            Some(Ok(envelope)) => {
                items.extend(envelope.items.into_iter().map(|item| (zone, age, item)));
            }
            Some(Err(error)) => {
                note_garbled(&mut notes, &zone.zone, &error);
            }
            None => {}
        }
    }
    if let Some(column) = sort {
        items.sort_by(|(.., one), (.., other)| column.compare(one, other));
    }
    let row = |(zone, age, item): &(&ZoneAnswerView, Option<f64>, T)| {
        let mut row = vec![place(&zone.zone, *age)];
        row.extend(item.row());
        if wide {
            row.extend(item.wide());
        }
        row
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    if rows.is_empty() {
        return match chosen.of {
            // The names that nothing has are told on standard error.
            Some(_) if chosen.missing.is_some() => notes,
            Some(of @ 1..) => {
                format!("None of the {of} in all zones that answered is what was asked for.\n{notes}")
            }
            _ => format!("No zone that answered has any.\n{notes}"),
        };
    }
    let table = match wide {
        true => wide_table(&header, rows, colour),
        false => table(&header, rows, colour),
    };
    match notes.is_empty() {
        true => table,
        false => format!("{table}\n{notes}"),
    }
}

fn place(zone: &str, age: Option<f64>) -> Word {
    match age {
        None => zone.into(),
        Some(age) => Word(format!("{zone}, {}", ago(age)), Tone::Doubtful),
    }
}

/// Says that a zone's answer is none.
pub(super) fn note_garbled(notes: &mut String, zone: &str, error: &str) {
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(
        notes,
        "zone {zone}: its answer cannot be understood: {}",
        printable(error)
    );
}

/// Says of a zone why it has not answered.
pub(super) fn note(notes: &mut String, zone: &ZoneAnswerView, age: Option<f64>) {
    if zone.state == ZoneAnswerState::Answered {
        return;
    }
    let because = zone.because.as_deref().unwrap_or("it does not say why");
    let word = match zone.state {
        ZoneAnswerState::Refused => "refuses",
        ZoneAnswerState::Away | ZoneAnswerState::Answered => "is away",
    };
    let _ = write!(notes, "zone {} {word}: {}", zone.zone, printable(because));
    if let Some(age) = age {
        let _ = write!(notes, "; shown is what it said {}", ago(age));
    }
    notes.push('\n');
    if let Some(hint) = &zone.hint {
        let _ = writeln!(notes, "  hint: {}", printable(hint));
    }
}

#[cfg(test)]
mod tests {
    use causeway_api::{admin::view::InstanceView, elsewhere::LastAnswerView};
    use serde_json::json;

    use super::*;

    fn zone(name: &str, state: ZoneAnswerState) -> ZoneAnswerView {
        ZoneAnswerView {
            zone: name.to_owned(),
            state,
            asked: "2026-11-18T11:06:40Z".to_owned(),
            because: None,
            hint: None,
            answer: None,
            last: None,
        }
    }

    fn answer(zone: &str, id: &str) -> Value {
        let item = json!({
            "service": "orders", "id": id, "address": "10.1.0.1:80", "tags": {}, "weight": 1, "health": "healthy",
            "outstanding": 0, "checked": false, "declared": true, "source": "fixed", "number": "1",
        });
        json!({ "version": 1, "kind": "instances", "zone": zone, "generation": 1, "items": [item] })
    }

    #[test]
    fn rows_say_which_zone_was_asked_and_those_of_a_zone_that_is_away_how_old_they_are() {
        let view = EveryZoneView {
            zones: vec![
                ZoneAnswerView {
                    answer: Some(answer("east", "a1")),
                    ..zone("east", ZoneAnswerState::Answered)
                },
                ZoneAnswerView {
                    because: Some("nothing is granted to east/gw1".to_owned()),
                    hint: Some("show a token".to_owned()),
                    ..zone("north", ZoneAnswerState::Refused)
                },
                ZoneAnswerView {
                    answer: Some(json!({ "items": "\u{1b}[2J" })),
                    ..zone("south", ZoneAnswerState::Answered)
                },
                ZoneAnswerView {
                    because: Some("no tunnel leads there".to_owned()),
                    last: Some(LastAnswerView {
                        time: "2026-11-18T11:04:40Z".to_owned(),
                        answer: answer("west", "b1"),
                    }),
                    ..zone("west", ZoneAnswerState::Away)
                },
            ],
        };
        let now = humantime::parse_rfc3339_weak("2026-11-18T11:06:40Z").unwrap();
        let text =
            render::<InstanceView>(&view, &Chosen::default(), None, Format::Table, false, now).unwrap();
        insta::assert_snapshot!(text, @r#"
AT ZONE        SERVICE   ID   ADDRESS       HEALTH    WEIGHT   SOURCE   TAGS
east           orders    a1   10.1.0.1:80   healthy   1        fixed    -
west, 2m ago   orders    b1   10.1.0.1:80   healthy   1        fixed    -

zone north refuses: nothing is granted to east/gw1
  hint: show a token
zone south: its answer cannot be understood: invalid type: string "\u{1b}[2J", expected a sequence
zone west is away: no tunnel leads there; shown is what it said 2m ago
"#);
        let json = render::<InstanceView>(&view, &Chosen::default(), None, Format::Json, false, now).unwrap();
        assert_eq!(serde_json::from_str::<EveryZoneView>(&json).unwrap(), view);
    }

    #[test]
    fn a_page_is_asked_where_the_flags_say() {
        let at = PlaceArgs {
            at: Some("west".parse().unwrap()),
            all: false,
        };
        let all = PlaceArgs { all: true, at: None };
        assert_eq!(at.page("/v1/zones"), "/v1/zones?at=west");
        assert_eq!(
            all.page("/v1/topology?text=true"),
            "/v1/topology?text=true&all=true"
        );
        assert_eq!(PlaceArgs::default().page("/v1/zones"), "/v1/zones");
    }
}
