//! One answer made of those of all zones: the own one first, the others by name. Pure.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use causeway_federation::name::ZoneName;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    memory::RememberedAnswer,
    words::{Unanswered, ZoneWord},
};
use crate::admin::view::moment;

/// Outcome of asking a zone, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZoneAnswerState {
    Answered,
    /// It was not heard, or not so that it could be understood.
    Away,
    /// It was heard, and will not say.
    Refused,
}

impl ZoneAnswerState {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Away => "away",
            Self::Refused => "refused",
        }
    }
}

/// Answer of every zone to one question (`?all=true`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EveryZoneView {
    /// The zone that was asked first, the others by name.
    pub zones: Vec<ZoneAnswerView>,
}

/// Answer of one zone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ZoneAnswerView {
    pub zone: String,
    pub state: ZoneAnswerState,
    /// Moment at which it was asked, RFC 3339.
    pub asked: String,
    /// Reason that it has not answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Advice on what can be done about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// JSON as the zone itself gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
    /// Last word of a zone that is away, as far as this gateway remembers one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastAnswerView>,
}

/// Answer of before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastAnswerView {
    /// RFC 3339.
    pub time: String,
    pub answer: Value,
}

/// Outcome for one zone, before it is written.
#[derive(Debug)]
pub(super) struct ZoneEntry {
    pub(super) zone: ZoneName,
    pub(super) asked: SystemTime,
    pub(super) word: ZoneWord,
    pub(super) last: Option<Arc<RememberedAnswer>>,
}

/// Writes the answers as [`EveryZoneView`] reads them, each as its zone gave it; and gives the places that they take. The answers are valid
/// JSON, which was looked at before.
pub(super) fn merge(own: &ZoneName, mut entries: Vec<ZoneEntry>) -> (Bytes, Vec<OwnedSemaphorePermit>) {
    entries.sort_by(|one, other| (one.zone != *own, &one.zone).cmp(&(other.zone != *own, &other.zone)));
    let (mut json, mut places) = (br#"{"zones":["#.to_vec(), Vec::new());
    for (number, entry) in entries.into_iter().enumerate() {
        if number > 0 {
            json.push(b',');
        }
        places.extend(write(&mut json, entry));
    }
    json.extend_from_slice(b"]}");
    (json.into(), places)
}

fn write(json: &mut Vec<u8>, entry: ZoneEntry) -> Option<OwnedSemaphorePermit> {
    let (state, said, answer) = match entry.word {
        ZoneWord::Answered(answer, place) => (ZoneAnswerState::Answered, None, Some((answer, place))),
        ZoneWord::Refused(_, said) => (ZoneAnswerState::Refused, Some(said), None),
        ZoneWord::Away(said) => (ZoneAnswerState::Away, Some(said), None),
    };
    let (because, hint) = said.map_or((None, None), |Unanswered { because, hint }| (Some(because), hint));
    let around = ZoneAnswerView {
        zone: entry.zone.to_string(),
        state,
        asked: moment(entry.asked),
        because,
        hint,
        answer: None,
        last: None,
    };
    // Plain texts cannot fail to be written.
    let around = serde_json::to_vec(&around).unwrap_or_else(|_| b"{}".to_vec());
    json.extend_from_slice(around.strip_suffix(b"}").unwrap_or(&around));
    if let Some((answer, _)) = &answer {
        json.extend_from_slice(br#","answer":"#);
        json.extend_from_slice(answer);
    }
    if let Some(last) = entry.last.filter(|_| state == ZoneAnswerState::Away) {
        // A moment has no letter that JSON would escape.
        json.extend_from_slice(format!(r#","last":{{"time":"{}","answer":"#, moment(last.time)).as_bytes());
        json.extend_from_slice(&last.answer);
        json.push(b'}');
    }
    json.push(b'}');
    answer.map(|(_, place)| place)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::StatusCode;
    use tokio::sync::Semaphore;

    use super::*;

    fn entry(zone: &str, word: ZoneWord, last: Option<&str>) -> ZoneEntry {
        let last = last.map(|answer| {
            Arc::new(RememberedAnswer {
                time: UNIX_EPOCH,
                answer: Bytes::copy_from_slice(answer.as_bytes()),
            })
        });
        ZoneEntry {
            zone: ZoneName::new(zone).unwrap(),
            asked: UNIX_EPOCH + Duration::from_secs(1_795_000_000),
            word,
            last,
        }
    }

    fn answered(answer: &'static str) -> ZoneWord {
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        ZoneWord::Answered(Bytes::from_static(answer.as_bytes()), place)
    }

    #[test]
    fn each_zone_is_told_as_it_answered_the_own_one_first() {
        let entries = vec![
            entry(
                "west",
                ZoneWord::away("no tunnel leads there"),
                Some(r#"{"items":[1]}"#),
            ),
            entry(
                "alpha",
                ZoneWord::refused(StatusCode::FORBIDDEN, "say \"please\"", Some("ask")),
                Some("{}"),
            ),
            entry("east", answered(r#"{"zone":"east"}"#), Some("{}")),
            entry("north", ZoneWord::away("no answer"), None),
        ];
        let (json, places) = merge(&ZoneName::new("east").unwrap(), entries);
        assert_eq!(places.len(), 1);
        insta::assert_snapshot!(std::str::from_utf8(&json).unwrap(), @r#"{"zones":[{"zone":"east","state":"answered","asked":"2026-11-18T11:06:40Z","answer":{"zone":"east"}},{"zone":"alpha","state":"refused","asked":"2026-11-18T11:06:40Z","because":"say \"please\"","hint":"ask"},{"zone":"north","state":"away","asked":"2026-11-18T11:06:40Z","because":"no answer"},{"zone":"west","state":"away","asked":"2026-11-18T11:06:40Z","because":"no tunnel leads there","last":{"time":"1970-01-01T00:00:00Z","answer":{"items":[1]}}}]}"#);
        let read: EveryZoneView = serde_json::from_slice(&json).unwrap();
        let states: Vec<_> = read.zones.iter().map(|zone| zone.state.word()).collect();
        assert_eq!(states, ["answered", "refused", "away", "away"]);
    }
}
