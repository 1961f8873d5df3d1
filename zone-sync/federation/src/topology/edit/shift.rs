//! The key `shift` of a service, and its `split` once a shift is done.

use std::{fmt::Write as _, ops::Range, sync::Arc};

use super::{EditError, EditedKey, Place, checked, entry, inserted, with_key};
use crate::{
    name::{ServiceName, Tags},
    topology::{
        Shift, ShiftPlan, ShiftState, SplitArm, Topology, parse,
        resolved::scalar,
        shift::moment,
        tree::{Node, Value},
    },
};

/// Says in the text of a topology how the shift of a service stands, or with `None` that there is none. With a shift that is done the split
/// is written, too: weights alone where these are what differs.
///
/// # Errors
/// When the text, or the way in which the service is written, does not allow it. Whatever is returned differs from `text` in these
/// keys of that service and in nothing else.
pub fn with_shift(text: &str, service: &ServiceName, shift: Option<&Shift>) -> Result<String, EditError> {
    let before = parse(text, "").map_err(|_| EditError::Unreadable)?.topology;
    let known = before.services.get(service);
    let known = known.ok_or_else(|| EditError::UnknownService(service.clone()))?;
    let (declared, was_active) = (known.split_before().to_vec(), known.active_shift().is_some());
    let split = match shift {
        Some(shift) if shift.state.is_active() => Shift {
            from: declared.clone(),
            ..shift.clone()
        }
        .split(),
        _ => declared.clone(),
    };
    let mut wanted = before;
    set(&mut wanted, service, |known| {
        known.split = split;
        known.shift = shift.map(|shift| {
            Arc::new(Shift {
                from: declared.clone(),
                ..shift.clone()
            })
        });
    });
    let key = EditedKey::Shift(service.clone());
    let value = shift.map(in_words);
    let edited = with_key(text, &key, value.as_deref(), &wanted)?;
    match shift {
        Some(shift) if shift.state == ShiftState::Done && was_active => {
            let arms = Shift {
                from: declared,
                ..shift.clone()
            }
            .split();
            set(&mut wanted, service, |known| known.split.clone_from(&arms));
            with_split(&edited, service, &arms, &wanted)
        }
        _ => Ok(edited),
    }
}

fn set(topology: &mut Topology, service: &ServiceName, change: impl FnOnce(&mut crate::topology::Service)) {
    if let Some(known) = topology.services.get_mut(service) {
        change(known);
    }
}

/// Writes the split of a service.
fn with_split(
    text: &str,
    service: &ServiceName,
    arms: &[SplitArm],
    wanted: &Topology,
) -> Result<String, EditError> {
    let key = EditedKey::Split(service.clone());
    let place = key.place();
    let edited = || {
        let body = place.body(text)?;
        match entry(&body, "split") {
            // It comes from `defaults`.
            None => inserted(text, &body, "split", &split_in_words(arms)),
            Some(split) => with_weights(text, &place, arms)
                .or_else(|| replaced(text, &split.value.span, &split_in_words(arms))),
        }
    };
    checked(edited(), &key, wanted)
}

/// Changes nothing but weights; `None`: the arms are others.
fn with_weights(text: &str, place: &Place<'_>, arms: &[SplitArm]) -> Option<String> {
    let mut text = text.to_owned();
    for (number, arm) in arms.iter().enumerate() {
        let body = place.body(&text)?;
        let Value::List(written) = &entry(&body, "split")?.value.value else {
            return None;
        };
        let written = written.get(number).filter(|_| written.len() == arms.len())?;
        if tags_of(written) != arm.tags {
            return None;
        }
        let weight = arm.weight.to_string();
        text = match entry(written, "weight") {
            Some(known) => replaced(&text, &known.value.span, &weight)?,
            None if arm.weight == 1 => text,
            None => inserted(&text, written, "weight", &weight)?,
        };
    }
    Some(text)
}

fn tags_of(arm: &Node) -> Tags {
    let Some(Value::Map(pairs)) = entry(arm, "tags").map(|tags| &tags.value.value) else {
        return Tags::default();
    };
    let pairs = pairs.iter().filter_map(|pair| match &pair.value.value {
        Value::Text { text, .. } => Some((pair.key.as_str(), text.as_str())),
        _ => None,
    });
    pairs.collect()
}

fn replaced(text: &str, span: &Range<usize>, by: &str) -> Option<String> {
    Some(format!(
        "{}{by}{}",
        text.get(..span.start)?,
        text.get(span.end..)?
    ))
}

fn split_in_words(arms: &[SplitArm]) -> String {
    let arms = arms
        .iter()
        .map(|arm| format!("{{ tags: {}, weight: {} }}", tags_in_words(&arm.tags), arm.weight));
    format!("[{}]", arms.collect::<Vec<_>>().join(", "))
}

fn tags_in_words(tags: &Tags) -> String {
    let pairs = tags
        .iter()
        .map(|(key, value)| format!("{}: {}", scalar(key, false), scalar(value, false)));
    let pairs: Vec<String> = pairs.collect();
    match pairs.is_empty() {
        true => "{}".to_owned(),
        false => format!("{{ {} }}", pairs.join(", ")),
    }
}

/// As the value of the key.
fn in_words(shift: &Shift) -> String {
    let ShiftPlan {
        to,
        steps,
        every,
        abort_if,
        min_requests,
    } = &shift.plan;
    let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
    let every = humantime::format_duration(*every);
    let mut words = format!(
        "{{ to: {}, steps: [{}], every: {every}",
        tags_in_words(to),
        steps.join(", ")
    );
    // Writing to a string cannot fail, here and below.
    if !abort_if.is_empty() {
        let conditions: Vec<String> = abort_if
            .iter()
            .map(|condition| format!("'{condition}'"))
            .collect();
        let _ = write!(words, ", abort_if: [{}]", conditions.join(", "));
    }
    let (state, step) = (shift.state.word(), shift.step);
    let _ = write!(
        words,
        ", min_requests: {min_requests}, state: {state}, step: {step}"
    );
    let _ = write!(
        words,
        ", begun: '{}', since: '{}'",
        moment(shift.begun),
        moment(shift.since)
    );
    if let Some(resumed) = shift.resumed {
        let _ = write!(words, ", resumed: '{}'", moment(resumed));
    }
    let _ = write!(words, ", by: {}", shift.by);
    if let Some(because) = &shift.because {
        let _ = write!(words, ", because: '{}'", because.replace('\'', "''"));
    }
    words + " }"
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{
        name::{GatewayId, GatewayName, ZoneName},
        topology::Service,
    };

    const T0: Duration = Duration::from_millis(1_795_000_000_125);

    fn text(services: &str) -> String {
        format!("version: 1\ntrust_domain: a.b\nzones: {{ east: {{ gateways: [] }} }}\n{services}")
    }

    fn orders(text: &str) -> Service {
        parse(text, "").unwrap().topology.services["orders"].clone()
    }

    fn begun(text: &str, steps: &[u32]) -> Shift {
        let plan = ShiftPlan {
            to: [("version", "2"), ("null", "true")].into_iter().collect(),
            steps: steps.to_vec(),
            every: Duration::from_secs(90),
            abort_if: vec!["success<99.5%".parse().unwrap(), "p99>300ms".parse().unwrap()],
            min_requests: 7,
        };
        let by = GatewayId::new(ZoneName::new("east").unwrap(), GatewayName::new("gw1").unwrap());
        Shift::begin(&orders(text), plan, by, SystemTime::UNIX_EPOCH + T0).unwrap()
    }

    fn name() -> ServiceName {
        ServiceName::new("orders").unwrap()
    }

    const BLOCK: &str = "\
services:
  orders:   # the first
    port: 80
    split:
      # The old ones.
      - { tags: { version: v1 }, weight: 30 }   # thirty
      - tags: { version: v0 }
        weight: 10
  web: { port: 81 }
";

    #[test]
    fn a_shift_lies_over_the_split_and_goes_without_a_trace() {
        for services in [
            BLOCK,
            "services: { orders: { port: 80, split: [{ tags: { version: v1 } }] } }\n",
            "defaults: [{ split: [{ tags: { version: v1 } }] }]\nservices:\n  orders: { port: 80 }\n  web: { port: 81 }\n",
        ] {
            let text = text(services);
            let shift = begun(&text, &[5, 100]);
            let edited = with_shift(&text, &name(), Some(&shift)).unwrap();
            let read = orders(&edited);
            assert_eq!(read.shift.as_deref(), Some(&shift), "{edited}");
            assert!(read.active_shift().is_some());
            assert_eq!(read.split, shift.split());
            let next = shift.advanced(SystemTime::UNIX_EPOCH + T0);
            let moved = with_shift(&edited, &name(), Some(&next)).unwrap();
            assert_eq!(orders(&moved).split, next.split());
            assert_eq!(orders(&moved).split_before(), shift.from);
            let aborted = next
                .aborted(next.since, "12 of 400 requests failed at west/gw1: it's enough")
                .unwrap();
            let aborted = with_shift(&moved, &name(), Some(&aborted)).unwrap();
            assert_eq!(orders(&aborted).split, shift.from, "{aborted}");
            assert_eq!(with_shift(&aborted, &name(), None).unwrap(), text);
        }
    }

    #[test]
    fn what_is_done_writes_weights_where_they_stand() {
        let text = text(BLOCK)
            .replace("v0 }\n        weight: 10", "version2 }")
            .replace("version: version2", "version: '2', 'null': 'true'");
        let shift = begun(&text, &[50]);
        let running = with_shift(&text, &name(), Some(&shift)).unwrap();
        let done = with_shift(&running, &name(), Some(&shift.done(shift.since))).unwrap();
        assert!(
            done.contains(
                "      # The old ones.\n      - { tags: { version: v1 }, weight: 50 }   # thirty\n"
            ),
            "{done}"
        );
        assert!(
            done.contains("      - weight: 50\n        tags: { version: '2', 'null': 'true' }\n"),
            "{done}"
        );
        assert_eq!(orders(&done).split, shift.split());
        assert_eq!(orders(&done).split_before(), shift.split());
    }

    #[test]
    fn what_is_done_writes_the_split_anew_where_there_is_another_arm() {
        let text = text(BLOCK);
        let shift = begun(&text, &[100]);
        let running = with_shift(&text, &name(), Some(&shift)).unwrap();
        let done = with_shift(&running, &name(), Some(&shift.done(shift.since))).unwrap();
        assert_eq!(orders(&done).split, shift.split(), "{done}");
        assert!(done.ends_with("  web: { port: 81 }\n"), "{done}");
    }

    #[test]
    fn what_would_change_another_service_is_left_to_a_person() {
        let text =
            text("services:\n  web: &all { port: 80, split: [{ tags: { version: v1 } }] }\n  orders: *all\n");
        let refused = with_shift(&text, &name(), Some(&begun(&text, &[100])));
        assert_eq!(refused, Err(EditError::ByHand(EditedKey::Shift(name()))));
        let unknown = ServiceName::new("carts").unwrap();
        assert_eq!(
            with_shift(&text, &unknown, None),
            Err(EditError::UnknownService(unknown))
        );
    }
}
